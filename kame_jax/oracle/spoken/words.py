"""Words that are not read as they are written: months with a day, currencies, units, abbreviations, the letter x."""

from __future__ import annotations

from kame_jax.oracle.numbers import is_date, ordinal, year
from kame_jax.oracle.spoken.cursor import PAUSE, STOP, Cursor
from kame_jax.oracle.spoken.lexer import Token
from kame_jax.oracle.spoken.money import read_money
from kame_jax.oracle.spoken.quantities import read_number
from kame_jax.oracle.spoken.units import (
    CODES,
    GREEK,
    INITIALS,
    MONTHS,
    NUMBERED,
    SPACED,
    TIMES_WHAT,
    UNITS,
    WHOSE,
)

_MEASURED = ("feet", "foot", "inch", "inches", "meter", "meters", "grid", "board", "matrix", "table")
"""What has two sides: "3 x 4 grid" is three by four."""


_FUNCTION_WORDS = {
    "sin": "sine",
    "cos": "cosine",
    "tan": "tangent",
    "ln": "natural log",
    "sqrt": "the square root",
    "abs": "the absolute value",
}
"""Before a parenthesis."""
_SAYING = frozenset("say says said answer answered".split())


def read_word(cursor: Cursor, token: Token) -> list[str]:
    """Reads a word, with what it says about the number after it."""
    text = token.text
    if text in WHOSE and cursor.peek(1).text == "$" and cursor.peek(1).tight:
        return read_money(cursor, 1, WHOSE[text])
    if text in CODES and (text != "R" or (cursor.peek(1).text == "$" and cursor.peek(1).tight)):
        return _code(cursor, text)
    if text in MONTHS:
        return _month(cursor, text)
    denied = (text == "No" and not cursor.left) or (text == "no" and {*[*cursor.said][-1:]} & _SAYING)
    numbered = text in NUMBERED and not denied
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
    if text in ("x", "X"):
        said = _times_letter(cursor, token)
        if said:
            return said
    if text == "w" and cursor.peek(1).text == "/" and cursor.peek(1).tight:
        without = cursor.peek(2).text == "o" and cursor.peek(2).tight
        cursor.done(3 if without else 2, "word")
        return ["without" if without else "with"]
    if text in _FUNCTION_WORDS and cursor.peek(1).text == "(" and cursor.peek(1).tight:
        cursor.changes["symbol"] += 1
        cursor.done(1, "word")
        return _FUNCTION_WORDS[text].split()
    cursor.done(1, "name" if cursor.is_variable(0) else "word")
    cursor.name = text
    if any(letter in GREEK for letter in text) and (
        len(text) == 1 or not all(letter in GREEK for letter in text)
    ):
        cursor.changes["symbol"] += 1
        return "".join(f" {GREEK[letter]} " if letter in GREEK else letter for letter in text).split()
    return [text]


def _code(cursor: Cursor, text: str) -> list[str]:
    """ "USD 5", "Rs. 500"; after a number the code is the unit."""
    k = 1 + (text == "Rs" and cursor.peek(1).text == ".") + (text == "R")
    if cursor.peek(k).kind == "number" and cursor.left != "number":
        one = cursor.peek(k).text == "1"
        return [*read_number(cursor, k), CODES[text][not one]]
    left, one = cursor.left, cursor.value == 1
    cursor.done(1, left if left == "number" else "word", cursor.value)
    return [CODES[text][not one]] if left == "number" else [text]


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
    if cursor.left != "number" and not (cursor.left in ("word", "close") and cursor.comes_equal(1)):
        return []
    if token.tight and follows.text == "-":
        return []  # of a variable, as in 2x-3
    operand = cursor.is_operand(1) or (follows.kind == "word" and cursor.left == "word")
    if operand and token.tight == follows.tight and (cursor.left == "number" or not token.tight):
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


def read_initials(cursor: Cursor, token: Token) -> list[str]:
    """Reads letters with periods in between: words where they abbreviate some, else as one."""
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
