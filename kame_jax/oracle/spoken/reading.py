"""Tokens to words: what each sign, number and mark means where it stands.

Numbers are in `quantities` and `money`, signs with several meanings in `signs`. Parentheses are spoken where they hold
a calculation that something is done with.
"""

from __future__ import annotations

import re

from kame_jax.oracle.numbers import cardinal, digits, fraction, is_date, ordinal, spell, year
from kame_jax.oracle.spoken.cursor import Cursor, is_name, operator_words
from kame_jax.oracle.spoken.fold import ON_THE_LINE, PLUS
from kame_jax.oracle.spoken.lexer import Token
from kame_jax.oracle.spoken.money import read_money
from kame_jax.oracle.spoken.quantities import power, read_number
from kame_jax.oracle.spoken.signs import PAUSE, READERS
from kame_jax.oracle.spoken.units import (
    ALIKE,
    CODES,
    COMPARED,
    CURRENCIES,
    GREEK,
    INITIALS,
    MONTHS,
    NUMBERED,
    SIGNS,
    SPACED,
    TIMES_WHAT,
    UNITS,
    WHOSE,
)

STOP, LINE, RESTART, GLUE = ".", "\n", "\r", "\b"
"""Items beside words: punctuation, the end of a line, that all before was thinking, an ending of the last word."""
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
_MEASURED = ("feet", "foot", "inch", "inches", "meter", "meters", "grid", "board", "matrix", "table")
"""What has two sides: "3 x 4 grid" is three by four."""
_INSIDE = 16
"""Tokens within which a parenthesis must close to be a calculation."""
_FUNCTIONS = frozenset("f g h P sin cos tan log ln exp sine cosine tangent max min gcd sqrt abs".split())


def read(cursor: Cursor) -> list[str] | None:
    """The next words, `PAUSE` and so on; None at the end. Raises `More` when it depends on what comes."""
    token = cursor.peek(0)
    if token.kind == "end":
        return None
    items = _READERS[token.kind](cursor, token)
    cursor.said.extend(word for item in items for word in item.lower().split())
    return items


def _end_of_line(cursor: Cursor, token: Token) -> list[str]:
    cursor.boundary(1)
    cursor.open.clear()
    cursor.groups.clear()
    return [RESTART if token.kind == "restart" else LINE]


def _stop(cursor: Cursor, token: Token) -> list[str]:
    follows = cursor.peek(1)
    if token.text == "." and follows.kind == "word" and follows.tight and follows.text[0].islower():
        cursor.changes["symbol"] += 1
        cursor.done(1, "word")
        return ["dot"]
    if (
        token.text[0] == "!"
        and token.tight
        and cursor.left in ("number", "name", "close")
        and cursor.is_operator(1)
    ):
        cursor.changes["symbol"] += 1
        cursor.done(1, "number")
        return ["factorial"]
    cursor.changes["punctuation"] += token.text != "."
    cursor.boundary(1)
    return [STOP]


def _mark(cursor: Cursor, token: Token) -> list[str]:
    text = token.text
    if text == "(":
        return _open_group(cursor, token)
    if text == ")":
        return _close_group(cursor)
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


def _open_group(cursor: Cursor, token: Token) -> list[str]:
    first = cursor.peek(1)
    if first.kind == "word" and first.text == "s" and token.tight and cursor.peek(2).text == ")":
        cursor.done(3, "word")
        return [GLUE + "s"]
    phone = (
        [cursor.peek(k).text for k in range(1, 6)] if first.kind == "number" and len(first.text) == 3 else []
    )
    if phone and phone[1] == ")" and phone[3] == "-" and [len(phone[2]), len(phone[4])] == [3, 4]:
        cursor.changes["number"] += 1
        cursor.done(6, "number")
        return [digits("".join(phone))]
    kind = _group_kind(cursor, token)
    words: list[str] = []
    if kind != "text" and token.tight and cursor.left in ("number", "close", "name") and kind != "of":
        words = ["times"]
    words += {"quantity": ["the", "quantity"], "nested": ["open", "parenthesis"], "of": ["of"]}.get(kind, [])
    cursor.groups.append((kind, cursor.equals, cursor.math))
    cursor.changes["symbol" if kind != "text" else "punctuation"] += 1
    cursor.done(1, "operator" if kind != "text" else "")
    return words or ([PAUSE] if kind == "text" else [])


def _group_kind(cursor: Cursor, token: Token) -> str:
    """What a parenthesis is: "quantity" or "nested" in a calculation, "single" around one operand, "of", or "text"."""
    if not cursor.is_operand(1):
        return "text"
    depth, operators, nested, k = 1, 0, False, 1
    while depth and k < _INSIDE:
        inner = cursor.peek(k)
        if inner.kind in ("end", "line", "stop", "restart"):
            return "text"
        depth += (inner.text == "(") - (inner.text == ")")
        nested = nested or inner.text == "("
        operators += k > 1 and (
            cursor.is_operator(k) or (inner.text in ("-", "–") and cursor.is_operand(k + 1))
        )
        k += 1
    if depth:
        return "text"
    if token.tight and cursor.left in ("name", "word"):
        if cursor.said and cursor.said[-1] in _FUNCTIONS:
            return "of"
        if cursor.left == "word":
            return "text"
    tight = token.tight and cursor.left in ("number", "name", "close")
    after = cursor.peek(k)
    outside = (
        cursor.left == "operator"
        or tight
        or cursor.is_operator(k)
        or after.text in ("-", "–")
        or (after.text == "(" and after.tight)
    )
    if not outside:
        return "text"
    return ("nested" if nested else "quantity") if operators else "single"


def _close_group(cursor: Cursor) -> list[str]:
    kind, equals, math = cursor.groups.pop() if cursor.groups else ("text", False, False)
    cursor.changes["punctuation"] += kind == "text"
    cursor.done(1, "close")
    cursor.equals, cursor.math = equals, math or kind in ("quantity", "nested")
    if kind == "nested":
        return ["close", "parenthesis"]
    return [PAUSE] if kind in ("text", "quantity") else []


def _word(cursor: Cursor, token: Token) -> list[str]:
    text = token.text
    if text in WHOSE and cursor.peek(1).text == "$" and cursor.peek(1).tight:
        return read_money(cursor, 1, WHOSE[text])
    if text in CODES:
        return _code(cursor, text)
    if text in MONTHS:
        return _month(cursor, text)
    numbered = text in NUMBERED and (text != "No" or cursor.left)
    if numbered and cursor.peek(1).text == "." and cursor.peek(2).kind == "number":
        cursor.changes["symbol"] += 1
        cursor.done(2, "word")
        return [NUMBERED[text]]
    if (
        text in SPACED
        and cursor.peek(1).text == "/"
        and cursor.peek(1).tight
        and cursor.peek(2).text in UNITS
    ):
        below = UNITS[cursor.peek(2).text][0]
        cursor.done(3, "word")
        return [UNITS[text][1], "per", below]
    if text in ("x", "X") and (cursor.left == "number" or (cursor.left == "word" and cursor.comes_equal(1))):
        said = _times_letter(cursor, token)
        if said:
            return said
    if text in ("w", "w/o") and cursor.peek(1).text == "/" and cursor.peek(1).tight:
        without = cursor.peek(2).text == "o" and cursor.peek(2).tight
        cursor.done(3 if without else 2, "word")
        return ["without" if without else "with"]
    variable = is_name(text) or (len(text) == 1 and cursor.is_operator(1))
    cursor.done(1, "name" if variable else "word")
    cursor.name = text
    if any(letter in GREEK for letter in text) and (
        len(text) == 1 or not all(letter in GREEK for letter in text)
    ):
        cursor.changes["symbol"] += 1
        return "".join(f" {GREEK[letter]} " if letter in GREEK else letter for letter in text).split()
    return [text]


def _code(cursor: Cursor, text: str) -> list[str]:
    """ "USD 5", "Rs. 500"; after a number the code is the unit."""
    sign, k = CODES[text], 1 + (text == "Rs" and cursor.peek(1).text == ".")
    whose = ["US"] if text == "USD" else []
    if cursor.peek(k).kind == "number":
        return [*read_number(cursor, k), *whose, CURRENCIES[sign][1]]
    left = cursor.left
    cursor.done(k, left if left == "number" else "word", cursor.value)
    return [*whose, CURRENCIES[sign][1]] if left == "number" else [text]


def _month(cursor: Cursor, text: str) -> list[str]:
    """A month, with its day and year."""
    k = 1
    if text != MONTHS[text] and cursor.peek(1).text == "." and cursor.peek(1).tight:
        k = 2
    day = cursor.peek(k)
    if day.kind != "number" or day.tight or not day.text.isdigit():
        cursor.done(1, "word")
        return [text]
    behind = cursor.peek(k + 1)
    suffixed = behind.tight and behind.text in ("st", "nd", "rd", "th")
    if (
        len(day.text) > 2
        or not is_date(1, int(day.text))
        or (behind.tight and not suffixed and behind.text in (":", "/", "-", "–", "%") + tuple(UNITS))
    ):
        cursor.done(k, "word")
        return [MONTHS[text]]
    cursor.changes["number"] += 1
    k += 1 + suffixed
    words = [MONTHS[text], ordinal(int(day.text))]
    comma = cursor.peek(k).text == ","
    named = cursor.peek(k + comma)
    if (
        named.kind == "number"
        and len(named.text) == 4
        and named.text.isdigit()
        and 1000 <= int(named.text) < 3000
    ):
        words += [PAUSE] * comma + [year(int(named.text))]
        cursor.changes["number"] += 1
        k += comma + 1
    cursor.done(k, "word")
    return words


def _times_letter(cursor: Cursor, token: Token) -> list[str]:
    """The letter x between two numbers, or after one that multiplies."""
    follows = cursor.peek(1)
    if cursor.is_number(1) and token.tight == follows.tight and (cursor.left == "number" or not token.tight):
        behind = cursor.peek(2).text
        sides = token.tight or behind in UNITS or behind in _MEASURED
        by = sides and not (cursor.math or cursor.equals or cursor.comes_equal(2))
        cursor.done(1, "operator")
        cursor.math = cursor.math or not by
        return ["by" if by else "times"]
    if token.tight and follows.kind == "word" and follows.text in TIMES_WHAT:
        cursor.done(1, "word")
        return ["times"]
    return []


def _initials(cursor: Cursor, token: Token) -> list[str]:
    text = token.text
    said = INITIALS.get(text.lower().rstrip(".") + ".")
    follows = cursor.peek(1)
    half = said in ("AM", "PM")
    ends = text.endswith(".") and (
        follows.kind in ("end", "line") or (half and follows.kind == "word" and follows.text[0].isupper())
    )
    cursor.changes["symbol"] += 1
    cursor.done(1, "word")
    return [said or text.replace(".", ""), *([STOP] if ends else [])]


def _number(cursor: Cursor, token: Token) -> list[str]:
    return read_number(cursor)


def _fraction(cursor: Cursor, token: Token) -> list[str]:
    above, below = map(int, token.text.strip(PLUS).split("⁄"))
    cursor.peek(1)
    follows = cursor.peek(1)
    cursor.changes["number"] += 1
    cursor.done(1, "number", above / below if below else None)
    words = [fraction(above, below) or f"{cardinal(above)} over {cardinal(below)}"]
    if follows.kind == "word" and follows.text in UNITS and follows.text != "in":
        cursor.done(1, "number", cursor.value, unit=True)
        unit = UNITS[follows.text][0]
        return [
            *words,
            *([] if below == 2 else ["of", "an" if unit[0] in "aei" or unit == "hour" else "a"]),
            unit,
        ]
    return words


def _raised(cursor: Cursor, token: Token) -> list[str]:
    exponent = token.text.translate(ON_THE_LINE)
    cursor.changes["number"] += 1
    if not token.tight or (cursor.left == "word" and len(cursor.said[-1] if cursor.said else "") > 3):
        cursor.done(1, cursor.left, cursor.value)  # of a footnote
        return []
    cursor.done(1, "number")
    return power(exponent)


def _lowered(cursor: Cursor, token: Token) -> list[str]:
    index = token.text.translate(ON_THE_LINE).lstrip("+")
    minus = ["minus"] * index.startswith("-")
    variable = cursor.left == "name" and cursor.name.islower()
    how = ["base"] if cursor.said and cursor.said[-1] == "log" else ["sub"] * variable
    cursor.changes["number"] += 1
    cursor.done(1, "number")
    return [*how, *minus, spell(index.strip("-"))] if index.strip("+-").isdigit() else []


def _address(cursor: Cursor, token: Token) -> list[str]:
    """An address on the net, where it is short enough to be said; what ends the sentence behind it is read again."""
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
        operand = cursor.is_operand(1) or follows.kind == "word"
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
    """A telephone number behind its plus, digit by digit; nothing when it is no such number."""
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
    "word": _word,
    "number": _number,
    "fraction": _fraction,
    "raised": _raised,
    "lowered": _lowered,
    "sign": _sign,
    "mark": _mark,
    "stop": _stop,
    "line": _end_of_line,
    "restart": _end_of_line,
    "initials": _initials,
    "address": _address,
}
