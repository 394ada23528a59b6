"""Runs of digits and what joins them without a space, to words: 1,234.5 or 3/4, 9:15, 2026-03-07, 555-0134, 3.11.7.

Rules where a form has several readings:

* Text is English: "1.234" is one point two three four, "1,234" is one thousand two hundred and thirty-four, "3,14" is
  a list of two numbers. Only what cannot be English is read as European: "1.234.567", "1.234,56", "0,5".
* Indian groups ("1,00,000") and groups of three digits after a space ("100 000") are one number.
* "3/7/2026" is the seventh of March unless the first number exceeds 12; "7.3.2026" is the seventh of March as well.
* A proper fraction with a common name is one ("3/4", three quarters); other slashes divide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from kame_jax.oracle.numbers import cardinal, clock, date, digits, fraction, is_date, spell, year

MAX_DIGITS = 60
"""Most digits of a number that is still read aloud."""
_PLAIN = re.compile(r"\d*\.?\d+")
_ENGLISH = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_INDIAN = re.compile(r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?")
_EUROPEAN = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}|0,\d+|\d+,0\d")
_FAMOUS = {
    ("24", "7"): "twenty-four seven",
    ("9", "11"): "nine eleven",
    ("50", "50"): "fifty fifty",
    ("20", "20"): "twenty twenty",
}


class Amount(NamedTuple):
    """What was read: its words, and the value where it is one number."""

    words: str
    value: float | None = None
    digits: str = ""
    """The number in plain digits, "" for what is not one number."""


def value_digits(text: str) -> str | None:
    """A number in plain digits ("1,234.5" is 1234.5), or None when the text is no single number."""
    if _PLAIN.fullmatch(text):
        return f"0{text}" if text.startswith(".") else text
    if _ENGLISH.fullmatch(text) or _INDIAN.fullmatch(text):
        return text.replace(",", "")
    if _EUROPEAN.fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    return None


def decimal_comma(text: str) -> str | None:
    """ "3,50" as 3.50, used only next to a unit or a currency."""
    return text.replace(",", ".") if re.fullmatch(r"\d+,\d{1,2}", text) else None


def number(text: str) -> Amount:
    """Digits with the periods and commas inside of them."""
    plain = value_digits(text)
    if plain is not None:
        grouped = "," in text and len(plain.partition(".")[0]) > 15
        words = cardinal(int(plain.partition(".")[0])) if grouped and len(plain) <= 36 else spell(plain)
        return Amount(words, float(plain), plain)
    if "," in text:
        return Amount(", ".join(number(part).words for part in text.split(",")))
    parts = text.split(".")
    if len(parts) == 4 and all(len(part) <= 3 and int(part) < 256 for part in parts):
        return Amount(" dot ".join(map(digits, parts)))
    if (
        len(parts) == 3
        and len(parts[2]) == 4
        and max(map(len, parts[:2])) <= 2
        and is_date(int(parts[1]), int(parts[0]))
    ):
        return Amount(date(parts[2], int(parts[1]), int(parts[0])))
    return Amount(" point ".join(map(spell, parts)))


def is_fraction(above: str, below: str) -> bool:
    """Whether two numbers with a slash between are a proper fraction with a name."""
    short = above.isdigit() and below.isdigit() and len(above + below) < 9
    return short and int(above) < int(below) and fraction(int(above), int(below)) is not None


def times(parts: Sequence[str], half: str) -> Amount:
    """Numbers with colons in between: a time of day where it can be one, else a ratio. `half` is "AM", "PM" or ""."""
    whole = all(part.isdigit() and len(part) <= 2 for part in parts)
    if whole and len(parts) in (2, 3) and all(len(part) == 2 for part in parts[1:]):
        hours, minutes, seconds = [*map(int, parts), 0][:3]
        if hours <= 24 and minutes < 60 and seconds < 60:
            return Amount(clock(hours, minutes, seconds, half))
    return Amount(" to ".join(number(part).words for part in parts))


def slashes(parts: Sequence[str], divides: bool) -> Amount:
    """Numbers with slashes in between: a date, a fraction, or a division.

    Args:
        divides: the numbers are among operators, so that no date is meant.
    """
    if len(parts) == 3 and not divides:
        found = _slashed_date(parts)
        if found is not None:
            return Amount(found)
    values = [value_digits(part) for part in parts]
    if len(parts) == 2:
        above, below = parts
        if not divides and (above, below) in _FAMOUS:
            return Amount(_FAMOUS[above, below])
        if len(above) == 4 and len(below) == 2 and int(below) == (int(above) + 1) % 100 and not divides:
            return Amount(f"{year(int(above))} to {number(below).words}")
        if above.isdigit() and below.isdigit() and 0 < int(above) < int(below):
            said = fraction(int(above), int(below))
            if said is not None:
                return Amount(said, int(above) / int(below))
    joined = " divided by " if divides else " over "
    value = None
    if len(parts) == 2 and values[0] and values[1] and float(values[1]):
        value = float(values[0]) / float(values[1])
    return Amount(joined.join(number(part).words for part in parts), value)


def _slashed_date(parts: Sequence[str]) -> str | None:
    first, second, third = parts
    if not all(part.isdigit() for part in parts):
        return None
    if len(first) == 4 and is_date(int(second), int(third)):
        return date(first, int(second), int(third))
    if len(third) in (2, 4) and len(first) <= 2 and len(second) <= 2:
        for month, day in ((first, second), (second, first)):
            if is_date(int(month), int(day)):
                return date(third, int(month), int(day))
    return None


def hyphens(parts: Sequence[str], called: bool) -> Amount | None:
    """Numbers with hyphens in between, as one thing: a date, a telephone number, an identifier. None: two operands.

    Args:
        called: words before them speak of a telephone.
    """
    sizes = [len(part) for part in parts]
    if not all(part.isdigit() for part in parts):
        return None
    if sizes == [4, 2, 2] and is_date(int(parts[1]), int(parts[2])):
        return Amount(date(parts[0], int(parts[1]), int(parts[2])))
    if (
        len(parts) == 3
        and sizes[2] == 4
        and sizes[0] <= 2
        and sizes[1] <= 2
        and is_date(int(parts[0]), int(parts[1]))
    ):
        return Amount(date(parts[2], int(parts[0]), int(parts[1])))
    if len(parts) > 2:
        by_digit = max(sizes) > 2 or any(part.startswith("0") for part in parts)
        return Amount(" ".join(digits(part) if by_digit else spell(part) for part in parts))
    if sizes == [2, 2] and parts[0] == parts[1]:
        return Amount(f"{spell(parts[0])} {spell(parts[1])}")
    if sizes == [3, 4]:
        round_ = int(parts[0]) % 10 == 0 or int(parts[1]) % 10 == 0
        if called or parts[0] == "555" or parts[1].startswith("0") or not round_:
            return Amount(digits("".join(parts)))
    if min(sizes) > 2 and int(parts[0]) > int(parts[1]):
        return Amount(f"{spell(parts[0])} {spell(parts[1])}")  # of a model, as the 747-400
    return None
