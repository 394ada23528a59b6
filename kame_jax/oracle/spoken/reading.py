"""Tokens to words: what each sign, number and mark means in its context.

Numbers are in `quantities` and `money`, signs with several meanings in `signs`. Parentheses are spoken where they hold
a calculation that something is done with.
"""

from __future__ import annotations

import re

from kame_jax.oracle.numbers import cardinal, digits, fraction, spell
from kame_jax.oracle.spoken.amounts import Amount
from kame_jax.oracle.spoken.cursor import LINE, PAUSE, RESTART, STOP, Cursor, operator_words
from kame_jax.oracle.spoken.fold import ON_THE_LINE, PLUS
from kame_jax.oracle.spoken.groups import close_group, open_group
from kame_jax.oracle.spoken.lexer import Token
from kame_jax.oracle.spoken.measures import power
from kame_jax.oracle.spoken.money import read_money
from kame_jax.oracle.spoken.quantities import read_amount, read_number
from kame_jax.oracle.spoken.signs import READERS
from kame_jax.oracle.spoken.units import ALIKE, COMPARED, CURRENCIES, SIGNS
from kame_jax.oracle.spoken.words import read_initials, read_word

_IN_ADDRESSES = {
    ".": "dot",
    "@": "at",
    "/": "slash",
    "-": "dash",
    "_": "underscore",
    "+": "plus",
    ":": "colon",
    "~": "tilde",
    "#": "hash",
}


def read(cursor: Cursor) -> list[str] | None:
    """The next words, `PAUSE` and so on; None at the end. Raises `More` when it depends on what comes."""
    token = cursor.peek(0)
    if token.kind == "end":
        return None
    items = _READERS[token.kind](cursor, token)
    cursor.said.extend(word for item in items for word in item.lower().split())
    return items


def _end_of_line(cursor: Cursor, token: Token) -> list[str]:
    cursor.boundary(1, sentence=True)
    cursor.open.clear()
    cursor.groups.clear()
    return [RESTART if token.kind == "restart" else LINE]


def _stop(cursor: Cursor, token: Token) -> list[str]:
    follows = cursor.peek(1)
    joins = follows.kind == "word" and follows.tight and (follows.text[0].islower() or not token.tight)
    if token.text == "." and joins:
        cursor.changes["symbol"] += 1
        cursor.done(1, "word")
        return ["dot"]
    calculated = cursor.left in ("number", "name", "close")
    product = cursor.left == "close" and cursor.math
    if token.text[0] == "!" and token.tight and calculated and (product or cursor.is_operator(1)):
        cursor.changes["symbol"] += 1
        cursor.done(1, "number")
        return ["factorial"]
    goes_on = cursor.left == "operator" or (token.tight and cursor.left == "number")
    if token.text.startswith("...") and ((goes_on and cursor.is_operator(1)) or follows.text == ","):
        cursor.changes["symbol"] += 1
        cursor.done(1, "number")
        return ["and so on"]
    cursor.changes["punctuation"] += token.text != "."
    cursor.boundary(1, sentence=True)
    return [STOP]


def _mark(cursor: Cursor, token: Token) -> list[str]:
    text = token.text
    if text in "([{":
        return open_group(cursor, token)
    if text in ")]}":
        return close_group(cursor, token)
    if text == "'" and _is_short_year(cursor):
        last = cursor.peek(1).text[1]
        cursor.changes["number"] += 1
        cursor.done(2, "number")
        return ["oh", digits(last)]
    decade = (
        text == "'"
        and cursor.peek(1).kind == "number"
        and cursor.peek(1).tight
        and cursor.peek(2).text == "s"
    )
    cursor.changes["punctuation"] += text != ","
    if text in ",;:—":
        cursor.boundary(1)
        return [PAUSE]
    if text == '"':
        cursor.open ^= {'"'}
    if decade:
        cursor.said.append("the")  # '90s
    cursor.done(1, cursor.left, cursor.value)
    return []


def _is_short_year(cursor: Cursor) -> bool:
    """Whether '05 follows, its apostrophe being read."""
    short = cursor.peek(1)
    return short.kind == "number" and short.tight and len(short.text) == 2 and short.text[0] == "0"


def _number(cursor: Cursor, token: Token) -> list[str]:
    return read_number(cursor)


def _fraction(cursor: Cursor, token: Token) -> list[str]:
    above, below = map(int, token.text.strip(PLUS).split("⁄"))
    words = fraction(above, below) or f"{cardinal(above)} over {cardinal(below)}"
    return read_amount(cursor, Amount(words, above / below if below else None))


def _raised(cursor: Cursor, token: Token) -> list[str]:
    words = power(token.text.translate(ON_THE_LINE))
    footnote = not token.tight or (cursor.left == "word" and len(cursor.name) > 3)
    cursor.changes["number"] += 1
    cursor.done(1, cursor.left if footnote else "number", cursor.value)
    return [] if footnote else words


def _lowered(cursor: Cursor, token: Token) -> list[str]:
    index = token.text.translate(ON_THE_LINE).lstrip("+")
    minus = ["minus"] * index.startswith("-")
    variable = cursor.left == "name" and cursor.name.islower()
    base = cursor.left == "number" or (cursor.said and cursor.said[-1] == "log")
    how = ["base"] if base else ["sub"] * variable
    cursor.changes["number"] += 1
    cursor.done(1, "number")
    return [*how, *minus, spell(index.strip("-"))] if index.strip("+-").isdigit() else []


def _address(cursor: Cursor, token: Token) -> list[str]:
    """An address on the net, where it is short enough to be said; what ends the sentence after it is read again."""
    text = token.text.rstrip(".,;:!?)'\"")
    left = token.text[len(text) :]
    place = text.partition("://")[2] or text
    place = place.removeprefix("www.").rstrip("/")
    cursor.done(1, "word")
    words: list[str] = []
    if set(place) & set("%?=") or len(place) > 50 or not place:
        cursor.lexer.refuse(text, "address")
    else:
        cursor.changes["symbol"] += 1
        parts = re.findall(r"\d+|[^\W\d_]+|[^\w\s]|_", place)
        words = [_IN_ADDRESSES.get(part) or (spell(part) if part.isdigit() else part) for part in parts]
        words = [word for word in words if word[0].isalpha()]
    return [*words, *([STOP] if set(left) & set(".!?") else [PAUSE] if left else [])]


def _sign(cursor: Cursor, token: Token) -> list[str]:
    text = ALIKE.get(token.text, token.text)
    if text in CURRENCIES:
        return read_money(cursor)
    if text in READERS:
        return READERS[text](cursor, token)
    if text in SIGNS:
        calculated = cursor.left in ("number", "name", "close")
        cursor.changes["symbol"] += 1
        cursor.done(1, "operator" if text in "√∛" else "word" if text not in "∞%°" else "number")
        words = SIGNS[text]
        if words.startswith(","):
            return [PAUSE, words[2:]]
        return ["times", words] if text in "√∛" and calculated and token.tight else [words]
    operator = operator_words(text)
    if operator is None:
        cursor.changes["punctuation"] += 1
        cursor.done(1, cursor.left, cursor.value)
        return []
    return _operator(cursor, token, text, operator)


def _operator(cursor: Cursor, token: Token, sign: str, words: str) -> list[str]:
    follows = cursor.peek(1)
    if (
        sign == "+"
        and cursor.left in ("", "word")
        and not token.tight
        and follows.kind == "number"
        and follows.tight
    ):
        called = _international(cursor)
        if called:
            return called
    if (
        sign == "<"
        and cursor.left in ("", "word")
        and not token.tight
        and follows.tight
        and follows.kind in ("word", "address")
    ):
        cursor.open.add("<")
    elif not (sign == ">" and token.tight and "<" in cursor.open):
        operand = cursor.is_operand(1) or follows.kind == "word" or follows.text == "..."
        cursor.changes["symbol"] += 1
        compared = sign[0] in COMPARED
        cursor.done(1, "operator" if operand else "word")
        cursor.equals = cursor.equals or compared
        cursor.math = cursor.math or (operand and not compared)
        return [words]
    else:
        cursor.open.discard("<")
    cursor.changes["markup"] += 1
    cursor.done(1, "")
    return []


def _international(cursor: Cursor) -> list[str]:
    """A telephone number after its plus, digit by digit; nothing when it is not one."""
    said, k = [], 1
    while cursor.peek(k).kind == "number" and cursor.peek(k).text.isdigit() and k < 16:
        said.append(cursor.peek(k).text)
        k += 1
        if cursor.peek(k).text in ("-", "(", ")") and cursor.peek(k + 1).kind == "number":
            k += 1
    if len(said) < 2 or not 9 <= len("".join(said)) <= 15:
        return []
    cursor.changes["number"] += 1
    cursor.done(k, "number")
    return ["plus", digits("".join(said))]


_READERS = {
    "word": read_word,
    "number": _number,
    "fraction": _fraction,
    "raised": _raised,
    "lowered": _lowered,
    "sign": _sign,
    "mark": _mark,
    "stop": _stop,
    "line": _end_of_line,
    "restart": _end_of_line,
    "initials": read_initials,
    "address": _address,
}
