"""Signs that mean several things: the dash, the star, the slash, the caret, bars and others.

A dash between two numbers is a minus where the clause calculates (an operator before, an equals sign before or soon
after) or states what is left, and "to" where the second is larger. Where the first is, it is "to" without spaces around
the dash, as in a score, and else a minus.
"""

from __future__ import annotations

from kame_jax.oracle.spoken.amounts import value_digits
from kame_jax.oracle.spoken.cursor import PAUSE, Cursor
from kame_jax.oracle.spoken.fold import ON_THE_LINE
from kame_jax.oracle.spoken.lexer import Token
from kame_jax.oracle.spoken.measures import power
from kame_jax.oracle.spoken.units import CURRENCIES, MONEY_SCALES, PER, REST, SCORES, UNITS

_SIZES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}


def _say(cursor: Cursor, words: str, left: str = "operator", used: int = 1, math: bool = True) -> list[str]:
    cursor.changes["symbol"] += 1
    cursor.done(used, left)
    cursor.math = cursor.math or math
    return words.split()


def _drop(cursor: Cursor, kind: str = "punctuation", item: str = "") -> list[str]:
    """The sign is left out; what is to its left still counts."""
    if kind:
        cursor.changes[kind] += 1
    if item:
        cursor.boundary(1)
        return [item]
    cursor.done(1, cursor.left, cursor.value, cursor.unit)
    return []


def dash(cursor: Cursor, token: Token) -> list[str]:
    """A minus between operands or before one, "to" in a range, a pause between words."""
    follows, left = cursor.peek(1), cursor.left
    operand = cursor.is_operand(1)
    if token.text in ("--", "---"):
        double = (
            token.text == "--" and operand and left in ("number", "name", "close") and cursor.comes_equal(1)
        )
        return _say(cursor, "minus minus") if double else _drop(cursor, item=PAUSE)
    if left in ("", "operator"):
        return _say(cursor, "minus", math=False) if operand and (follows.tight or left) else _drop(cursor)
    apart = not token.tight and not follows.tight
    if left == "word":
        name = follows.kind == "word" or operand
        if apart and name and (cursor.equals or cursor.comes_equal(1)):
            return _say(cursor, "minus")
        if not token.tight and follows.tight and operand:
            return _say(cursor, "minus", math=False)
        if token.text == "–" and follows.kind == "word" and follows.text[:1].isupper() and not apart:
            return _say(cursor, "to", "word", math=False)
        return _drop(cursor, item=PAUSE) if apart or token.text == "–" else _drop(cursor)
    if left == "name" and token.tight and (cursor.name.isupper() or follows.kind == "word"):
        inside = any(kind != "text" for kind, _, _ in cursor.groups)
        if not (cursor.math or cursor.equals or inside or cursor.is_operator(2) or cursor.comes_equal(1)):
            return _drop(cursor)
    if operand:
        words = "to" if _is_range(cursor, token) else "minus"
        return _say(cursor, words, math=words == "minus")
    if apart:
        word = follows.kind == "word" or follows.text in CURRENCIES
        return _say(cursor, "minus") if word and cursor.comes_equal(1) else _drop(cursor, item=PAUSE)
    return _drop(cursor)


def _is_range(cursor: Cursor, token: Token) -> bool:
    """Whether a dash between two operands means "to"."""
    k = 1 + (cursor.peek(1).kind == "sign" and cursor.peek(1).text in CURRENCIES)
    second = cursor.peek(k)
    if cursor.left != "number" or second.kind != "number":
        return cursor.unit and second.kind == "number"
    plain = value_digits(second.text)
    other = float(plain) if plain else None
    scale = cursor.peek(k + 1)
    if other is not None and scale.kind == "word" and scale.tight:
        other *= _SIZES.get(MONEY_SCALES.get(scale.text, ""), 1.0)
    rising = cursor.value is not None and other is not None and cursor.value < other
    tight = token.tight and cursor.peek(1).tight
    if scale.text.lower() in ("am", "pm", "a.m.", "p.m."):
        return True
    goes_on = scale.text in ("-", "–") and cursor.is_operand(k + 2)
    if cursor.math or goes_on or cursor.is_operator(k + 1) or (cursor.equals and not (tight and rising)):
        return False
    if rising or cursor.value is None or other is None:
        return tight or not cursor.comes_equal(1)
    if cursor.comes_equal(1):
        return False
    if (cursor.value, other) == (9, 5):
        return tight  # hours of work
    if cursor.year or cursor.unit or token.text == "–" or cursor.value == other:
        return True
    near = ({*[*cursor.said][-6:]} - {"is", "which"}) | {cursor.peek(i).text for i in (k + 1, k + 2)}
    return tight and (bool(SCORES & near) or not REST & near)


def star(cursor: Cursor, token: Token) -> list[str]:
    """A product, a power, or emphasis."""
    follows, size = cursor.peek(1), len(token.text)
    operand = cursor.is_operand(1)
    calculated = cursor.left in ("number", "name", "close")
    if size == 2 and calculated and token.tight and follows.tight and operand and "**" not in cursor.open:
        return _raise(cursor, 1)
    if size == 1 and cursor.left not in ("", "operator"):
        closes = "*" in cursor.open and token.tight and not follows.tight
        even = token.tight == follows.tight
        words = follows.kind == "word" and even
        if words and cursor.left == "word" and token.tight:
            words = cursor.equals or cursor.comes_equal(1)
        if not closes and ((operand and (even or calculated)) or words):
            return _say(cursor, "times")
    opened = token.text in cursor.open
    cursor.open ^= {token.text}
    return _drop(cursor, "" if opened else "markup")


def slash(cursor: Cursor, token: Token) -> list[str]:
    """A division, "per", "or"; between abbreviations nothing."""
    follows, left = cursor.peek(1), cursor.left
    if follows.kind == "word" and follows.text in PER and left in ("number", "word"):
        unit, used = UNITS.get(follows.text, (follows.text,))[0], 2
        if cursor.peek(2).kind == "raised":
            unit, used = " ".join([unit, *power(cursor.peek(2).text.translate(ON_THE_LINE))]), 3
        return _say(cursor, f"per {unit}", "word", used, math=False)
    if left == "name" and follows.kind == "word" and cursor.name.isupper() and follows.text.isupper():
        return _drop(cursor)
    if cursor.unit and cursor.is_number(1) and not (cursor.math or cursor.equals):
        other = cursor.peek(2).text
        if other in UNITS or other in ("°", "%"):
            return _say(cursor, "or", "", math=False)
    if left in ("number", "name", "close") and cursor.is_operand(1):
        return _say(cursor, "over" if left == "name" else "divided by")
    if left == "word" and follows.kind == "word" and token.tight and follows.tight:
        if cursor.math or cursor.equals or cursor.comes_equal(1):
            counted = cursor.before_last == "number" and not cursor.is_operand(1)
            return _say(cursor, "per" if counted else "over")
        before = cursor.said[-1] if cursor.said else ""
        if {"dot", "slash"} & {*[*cursor.said][-2:-1]}:
            return _say(cursor, "slash", "word", math=False)
        either = len(before) > 1 and len(follows.text) > 1 and follows.text.islower() and before != "and"
        return _say(cursor, "or", "word", math=False) if either else _drop(cursor)
    if left and not token.tight and not follows.tight:
        return _say(cursor, "divided by" if cursor.is_number(1) or cursor.equals else "or", math=False)
    if follows.tight and follows.kind in ("word", "number"):
        return _say(cursor, "slash", "word", math=False)
    return _drop(cursor)


def caret(cursor: Cursor, token: Token) -> list[str]:
    """What follows is an exponent."""
    return _raise(cursor, 1) if cursor.left in ("number", "name", "close", "word") else _drop(cursor)


def _raise(cursor: Cursor, k: int) -> list[str]:
    """The exponent that begins at `k`, with or without parentheses around it."""
    bracket = cursor.peek(k).text in ("(", "{")
    first = k + bracket
    minus = cursor.peek(first).text if cursor.peek(first).text in ("-", "+") else ""
    exponent = cursor.peek(first + bool(minus))
    closes = cursor.peek(first + bool(minus) + 1).text in (")", "}") if bracket else True
    digits = exponent.kind == "number" and exponent.text.isdigit() and len(exponent.text) <= 15
    after = cursor.peek(first + 1)
    if (
        digits
        and not minus
        and not bracket
        and after.text in ("-", "+")
        and after.tight
        and not cursor.is_operand(first + 2)
    ):
        return _say(cursor, " ".join(power(exponent.text + after.text)), "word", used=first + 2, math=False)
    plain = exponent.text if digits or (exponent.kind == "word" and len(exponent.text) == 1) else ""
    if plain and closes:
        cursor.changes["symbol"] += 1
        cursor.changes["number"] += digits
        cursor.done(first + bool(minus) + 1 + bracket, "number")
        cursor.math = True
        return power(minus + plain)
    if cursor.is_operand(k) or bracket:
        return _say(cursor, "to the power of", used=k)
    return _drop(cursor)


def dot(cursor: Cursor, token: Token) -> list[str]:
    """A raised dot: a product between operands."""
    if cursor.left in ("number", "name", "close", "word") and cursor.is_operand(1):
        return _say(cursor, "times")
    return _drop(cursor, item=PAUSE)


def bar(cursor: Cursor, token: Token) -> list[str]:
    """An absolute value, or a pause between columns."""
    if "|" in cursor.open:
        cursor.open.discard("|")
        return _drop(cursor)
    if cursor.left in ("", "operator", "word") and cursor.peek(1).tight and cursor.is_operand(1):
        for k in range(2, 8):
            inner = cursor.peek(k)
            if inner.text == "|" and inner.tight:
                cursor.open.add("|")
                return _say(cursor, "the absolute value of")
            if inner.kind in ("end", "line", "stop"):
                break
    return _drop(cursor, item=PAUSE)


def bars(cursor: Cursor, token: Token) -> list[str]:
    """Two bars of a program."""
    return _say(cursor, "or", "word", math=False)


def tilde(cursor: Cursor, token: Token) -> list[str]:
    """ "about" before a number."""
    return _say(cursor, "about", "", math=False) if cursor.is_number(1) else _drop(cursor, "markup")


def underscore(cursor: Cursor, token: Token) -> list[str]:
    """An index after a variable; else emphasis, or a space in a name."""
    follows = cursor.peek(1)
    before = cursor.said[-1] if cursor.said else ""
    if token.tight and follows.tight and len(before) == 1 and follows.kind in ("word", "number"):
        return _say(cursor, "sub", "word", math=False)
    if token.tight and follows.text in ("{", "(") and len(before) == 1:
        return _say(cursor, "sub")
    opened = "_" in cursor.open
    cursor.open ^= {"_"}
    return _drop(cursor, "" if opened else "markup")


def hash_sign(cursor: Cursor, token: Token) -> list[str]:
    """ "number" before one, "sharp" after a letter, "hashtag" before a word."""
    follows = cursor.peek(1)
    before = cursor.said[-1] if cursor.said else ""
    if follows.kind == "number" or follows.text == "of":
        return _say(cursor, "number", "", math=False)
    if token.tight and len(before) == 1:
        return _say(cursor, "sharp", "word", math=False)
    if follows.kind == "word" and follows.tight:
        return _say(cursor, "hashtag", "word", math=False)
    return _drop(cursor)


READERS = {
    "-": dash,
    "–": dash,
    "--": dash,
    "---": dash,
    "*": star,
    "**": star,
    "***": star,
    "/": slash,
    "^": caret,
    "·": dot,
    "|": bar,
    "||": bars,
    "~": tilde,
    "~~": tilde,
    "_": underscore,
    "#": hash_sign,
}
"""By the sign."""
