"""What an amount is of: percent, degrees, units with their powers and what they are per; powers themselves."""

from __future__ import annotations

import re

from kame_jax.oracle.numbers import spell
from kame_jax.oracle.spoken.cursor import Cursor
from kame_jax.oracle.spoken.fold import ON_THE_LINE
from kame_jax.oracle.spoken.units import CURRENCIES, LENGTHS, PER, SPACED, UNITS


def measured(cursor: Cursor, words: list[str], end: int, one: bool) -> tuple[list[str], int, str]:
    """Percent, degrees, a unit, a currency after it, a scale with a currency after it, a power; or none of these."""
    follows = cursor.peek(end)
    after = cursor.peek(end + 1) if follows.kind == "sign" or follows.text in ("sq", "cu") else follows
    if follows.text in ("%", "‰"):
        if not follows.tight and after.kind == "number" and not after.tight:
            return [*words, "modulo"], end + 1, "operator"
        if after.text == "-" and cursor.peek(end + 2).kind == "word" and after.tight:
            return [*words, "percent"], end + 2, "unit"
        return [*words, "percent" if follows.text == "%" else "per thousand"], end + 1, "unit"
    if follows.text == "°":
        degrees = "degree" if one else "degrees"
        scale = {"C": "Celsius", "F": "Fahrenheit", "c": "Celsius", "f": "Fahrenheit"}.get(after.text)
        return [*words, degrees, *([scale] if scale else [])], end + 1 + bool(scale), "unit"
    if follows.text == "¢":
        return [*words, "cent" if one else "cents"], end + 1, "unit"
    if follows.text in CURRENCIES and after.kind != "number":
        return [*words, CURRENCIES[follows.text][0 if one else 1]], end + 1, "unit"
    if follows.kind == "raised":
        return [*words, *power(follows.text.translate(ON_THE_LINE))], end + 1, "number"
    if (
        follows.text in ("-", "–")
        and follows.tight
        and after.tight
        and after.kind == "word"
        and not cursor.is_operator(end + 2)
    ):
        if after.text in UNITS:
            behind = end + 2
            return [f"{words[0]}-{UNITS[after.text][0]}"], behind + _swallowed(cursor, behind), "word"
        return [f"{words[0]}-{after.text}"], end + 2, "word"
    if follows.text in ("sq", "cu"):
        dot = after.text == "."
        inner = cursor.peek(end + 1 + dot).text
        if inner in UNITS:
            name = "square" if follows.text == "sq" else "cubic"
            behind = end + 2 + dot
            return [*words, name, UNITS[inner][0 if one else 1]], behind + _swallowed(cursor, behind), "unit"
    return _with_unit(cursor, words, end, one)


def _with_unit(cursor: Cursor, words: list[str], end: int, one: bool) -> tuple[list[str], int, str]:
    follows = cursor.peek(end)
    feet = cursor.said and cursor.said[-1] in ("feet", "foot")
    apart = follows.text in SPACED or (follows.text == "in" and (feet or _are_inches(cursor, end + 1)))
    if follows.kind != "word" or follows.text not in UNITS or not (follows.tight or apart):
        return words, end, "number"
    unit, k = UNITS[follows.text], end + 1
    if follows.text == "m" and cursor.said and cursor.said[-1] in ("hour", "hours") and follows.tight:
        unit = UNITS["min"]
    fraction_of = " " in words[0] and words[0].endswith(("quarters", "quarter", "thirds", "third", "half"))
    fraction_of = fraction_of and " and " not in words[0]
    name = [unit[0 if one or fraction_of else 1]]
    if fraction_of:
        name = ["of", "an" if unit[0][0] in "aeiou" or unit[0] == "hour" else "a", unit[0]]
    sup = cursor.peek(k)
    if follows.text in LENGTHS:
        raised = sup.text.translate(ON_THE_LINE) if sup.kind == "raised" else ""
        if sup.tight and sup.text == "^":
            raised, k = cursor.peek(k + 1).text, k + 1
        elif sup.tight and sup.kind == "number":
            raised = sup.text
        if raised in ("2", "3"):
            name = [("square " if raised == "2" else "cubic ") + name[0], *name[1:]]
            k += 1
    slash, below = cursor.peek(k), None
    if slash.text == "/" and slash.tight:
        per = cursor.peek(k + 1)
        if per.kind == "word" and (per.text in UNITS or per.text in PER):
            below, k = UNITS.get(per.text, (per.text,))[0], k + 2
            squared = cursor.peek(k)
            if squared.kind == "raised" or squared.text == "^":
                power_text = squared.text.translate(ON_THE_LINE)
                if squared.text == "^":
                    power_text, k = cursor.peek(k + 1).text, k + 1
                square = {"2": "square", "3": "cubic"}.get(power_text, "")
                if per.text in LENGTHS and square:
                    below = f"{square} {below}"
                else:
                    below = " ".join([below, *power(power_text)])
                k += 1
    name += ["per", below] if below else []
    return [*words, *name], k + _swallowed(cursor, k), "unit"


def _are_inches(cursor: Cursor, k: int) -> bool:
    """Whether "in", before `k` and apart from its number, is a unit: nothing follows that "in" could refer to."""
    follows = cursor.peek(k)
    if follows.text == "." and follows.tight:
        return not cursor.peek(k + 1).text[:1].isupper()
    side = cursor.said and cursor.said[-1] == "by"
    return (
        bool(side)
        or follows.kind in ("end", "line")
        or follows.text in (",", ")", "by")
        or cursor.is_operator(k)
    )


def _swallowed(cursor: Cursor, k: int) -> int:
    """1 for the period of an abbreviation ("5 ft. tall") that does not end a sentence."""
    stop = cursor.peek(k)
    if stop.text != "." or not stop.tight:
        return 0
    follows = cursor.peek(k + 1)
    return int(follows.text == "," or (follows.kind == "word" and follows.text.islower()))


def power(exponent: str) -> list[str]:
    """What raises to a power that is written in digits or a letter; a sign after it makes it the charge of an ion."""
    if exponent in ("2", "3"):
        return ["squared" if exponent == "2" else "cubed"]
    parts = re.fullmatch(r"([+-]*)(\d*|[A-Za-z])([+-]?)", exponent)
    if parts is None:
        return []
    names = {"-": "minus", "+": "plus"}
    number = [spell(parts[2]) if parts[2].isdigit() else parts[2]] if parts[2] else []
    if parts[3] or not number:
        return [*number, *(names[sign] for sign in (parts[1] + parts[3])[:1])]
    return ["to", "the", "power", "of", *(names[sign] for sign in parts[1]), *number]
