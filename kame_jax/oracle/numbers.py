"""Numbers in English words."""

from __future__ import annotations

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ("", "thousand", "million", "billion", "trillion")
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def cardinal(number: int) -> str:
    """A whole number in words, as "one hundred and five"; longer than fifteen digits, digit by digit."""
    if number < 0:
        return f"minus {cardinal(-number)}"
    if number >= 10**15:
        return " ".join(_SMALL[int(digit)] for digit in str(number))
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
    """A place in words, as "twenty-first"."""
    words = cardinal(number)
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[cut:]
    if last in _ORDINALS:
        return words[:cut] + _ORDINALS[last]
    return words[:cut] + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def spell(digits: str) -> str:
    """A number written in digits, with or without a decimal point, in words; leading zeros are spoken."""
    whole, _, decimals = digits.partition(".")
    if len(whole) > 1 and whole.startswith("0"):
        said = " ".join(_SMALL[int(digit)] for digit in whole)
    else:
        said = cardinal(int(whole or "0"))
    return said if not decimals else f"{said} point {' '.join(_SMALL[int(digit)] for digit in decimals)}"
