"""Numbers in English words: how a number, a fraction, a year, a time or a date is read aloud.

Only words are made here; what a piece of text means is decided in `oracle.spoken`. British "and", American fractions.
num2words (LGPL) and inflect know only cardinals and ordinals, which are the few lines below; nemo-text-processing
knows more, but needs a transducer compiler.
"""

from __future__ import annotations

import re

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = (
    " thousand million billion trillion quadrillion quintillion sextillion septillion octillion nonillion decillion"
).split(" ")
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
MONTHS = ("January February March April May June July August September October November December").split()
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_ROMAN_FORM = re.compile(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")


def cardinal(number: int) -> str:
    """A whole number below 10^36 in words, as "one hundred and five"."""
    if number < 0:
        return f"minus {cardinal(-number)}"
    if number < 1000:
        return _hundreds(number)
    parts = []
    rest, scale = number, 0
    while rest:
        rest, group = divmod(rest, 1000)
        if group:
            parts.append(f"{_hundreds(group)} {_SCALES[scale]}".strip())
        scale += 1
    parts.reverse()
    if 0 < number % 1000 < 100:
        parts.insert(-1, "and")
    return " ".join(parts)


def _hundreds(number: int) -> str:
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{_SMALL[hundreds]} hundred" + (f" and {_hundreds(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """An ordinal in words, as "twenty-first"."""
    words = cardinal(number)
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[cut:]
    if last in _ORDINALS:
        return words[:cut] + _ORDINALS[last]
    return words[:cut] + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def plural(words: str) -> str:
    """Words for a number in the plural: "nineties", "sixes", "hundreds"."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("six") else "s")


def digits(text: str) -> str:
    """Digits one by one, as of a telephone number; what is not a digit is left out."""
    return " ".join(_SMALL[int(digit)] for digit in text if digit.isdigit())


def spell(number: str) -> str:
    """A number written in ASCII digits, with or without a decimal point.

    Leading zeros are spoken, and more than fifteen digits in a row are an identifier: read one by one.
    """
    whole, _, decimals = number.partition(".")
    by_digit = len(whole) > 15 or (len(whole) > 1 and whole.startswith("0"))
    said = digits(whole) if by_digit else cardinal(int(whole or "0"))
    return f"{said} point {digits(decimals)}" if decimals else said


def year(number: int) -> str:
    """A year from 1000 to 2999 as it is called: "nineteen ninety-nine", "two thousand and five", "twenty twenty"."""
    century, rest = divmod(number, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def fraction(above: int, below: int) -> str | None:
    """ "three quarters"; None for a denominator that has no common name."""
    if not (2 <= below <= 20 or below in (30, 40, 50, 60, 70, 80, 90, 100, 1000)):
        return None
    part = {2: "half", 4: "quarter"}.get(below) or ordinal(below).removeprefix("one ")
    if above != 1:
        part = "halves" if below == 2 else f"{part}s"
    return f"{cardinal(above)} {part}"


def clock(hours: int, minutes: int = 0, seconds: int = 0, half: str = "") -> str:
    """A time of day; `half` is "AM", "PM" or ""."""
    if not (half or minutes or seconds):
        whole = "hundred" if hours > 12 else "o'clock"
        return "midnight" if hours in (0, 24) else f"{cardinal(hours)} {whole}"
    said = cardinal(hours)
    if minutes or seconds:
        said += f" {'oh ' if minutes < 10 else ''}{cardinal(minutes)}"
    if seconds:
        said += f" and {cardinal(seconds)} second{'' if seconds == 1 else 's'}"
    return f"{said} {half}".strip()


def date(year_: str, month: int, day: int) -> str:
    """ "March seventh, twenty twenty-six"; a year of two digits stays one."""
    said = year(int(year_)) if len(year_) == 4 and 1000 <= int(year_) < 3000 else spell(year_)
    return f"{MONTHS[month - 1]} {ordinal(day)}, {said}"


def is_date(month: int, day: int) -> bool:
    """Whether a year can have that day."""
    return 1 <= month <= 12 and 1 <= day <= (29 if month == 2 else 30 if month in (4, 6, 9, 11) else 31)


def roman(text: str) -> int | None:
    """The value of a Roman numeral in its usual form; None if the letters are something else."""
    if not text or not _ROMAN_FORM.fullmatch(text):
        return None
    values = [_ROMAN[letter] for letter in text]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0]))
