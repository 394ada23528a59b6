"""Sums of money: the sign before, cents, scales, ranges, whose money it is."""

from __future__ import annotations

from kame_jax.oracle.numbers import cardinal, spell
from kame_jax.oracle.spoken import amounts
from kame_jax.oracle.spoken.amounts import decimal_comma
from kame_jax.oracle.spoken.cursor import Cursor
from kame_jax.oracle.spoken.quantities import spaced
from kame_jax.oracle.spoken.units import CURRENCIES, MONEY_SCALES, SCALE_WORDS

_DOLLARS = {"USD": "US", "CAD": "Canadian", "AUD": "Australian"}
_NOTES = ("bill", "bills", "note", "notes", "coin", "coins")
_BETWEEN = "and or for to in of per each more less a an the on at with is".split()


def read_money(cursor: Cursor, at: int = 0, whose: str = "") -> list[str]:
    """A sum with its sign at `at`, or that sign alone; `whose` is the country, where it was named."""
    one, many, cent, cents = CURRENCIES[cursor.peek(at).text]
    k, minus = at + 1, []
    if cursor.peek(k).text in ("-", "–") and cursor.peek(k).tight and cursor.peek(k + 1).kind == "number":
        k, minus = k + 1, ["minus"]
    if cursor.peek(k).kind != "number" or len(cursor.peek(k).text) > amounts.MAX_DIGITS:
        cursor.changes["symbol"] += 1
        cursor.done(at + 1, "word")
        return [many]
    amount, end = spaced(cursor, k) or (amounts.number(cursor.peek(k).text), k + 1)
    comma = decimal_comma(cursor.peek(k).text)
    plain = amount.digits or comma or ""
    words, value = amount.words if amount.digits or not comma else spell(comma), amount.value
    joint = cursor.peek(end)
    if (
        joint.text in ("-", "–")
        and joint.tight
        and cursor.is_number(end + 1)
        and not (cursor.math or cursor.equals)
    ):
        second = end + 1 + (cursor.peek(end + 1).kind == "sign")
        other = amounts.number(cursor.peek(second).text)
        short = len(cursor.peek(second).text) <= amounts.MAX_DIGITS
        rising = short and value is not None and other.value is not None and value < other.value
        if rising and not cursor.is_operator(second + 1):
            words, plain, value, end = f"{words} to {other.words}", "", other.value, second + 1
    scale = ""
    follows = cursor.peek(end)
    head, hyphen, rest = follows.text.partition("-")
    if follows.kind == "word" and follows.tight and head in MONEY_SCALES:
        scale, end = MONEY_SCALES[head], end + 1
    elif follows.kind == "word" and follows.text.lower() in SCALE_WORDS:
        scale, end = follows.text.lower(), end + 1
    if cursor.peek(end).text in _DOLLARS:
        whose, end = _DOLLARS[cursor.peek(end).text], end + 1
    attribute = _is_attribute(cursor, end)
    whole, _, hundredths = plain.partition(".")
    if len(hundredths) == 2 and not scale and cent:
        said = (
            []
            if int(whole) == 0 and int(hundredths)
            else [spell(whole), whose, one if whole == "1" or attribute else many]
        )
        if int(hundredths):
            said += ["and"] * bool(said) + [cardinal(int(hundredths)), cent if hundredths == "01" else cents]
    else:
        said = [words, scale, whose, one if attribute or (plain == "1" and not scale) else many]
    cursor.changes["number"] += 1
    cursor.done(end, "number", value)
    return (
        minus
        + [word for word in said if word]
        + ([rest] if scale and hyphen and head in MONEY_SCALES else [])
    )


def _is_attribute(cursor: Cursor, end: int) -> bool:
    """Whether a sum says which one, as in "a $5 discount" or "$100 bills"."""
    follows = cursor.peek(end)
    if follows.kind != "word" or follows.tight:
        return False
    if follows.text in _NOTES:
        return True
    return bool(cursor.said) and cursor.said[-1] in ("a", "an") and follows.text not in _BETWEEN
