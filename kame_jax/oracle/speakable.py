"""Text as it can be spoken: no thinking, no markup, no symbols, numbers in words, only periods and commas.

The same for data and for a live back end, so that what is trained is what is served. English; changes are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kame_jax.oracle.numbers import ordinal, spell

KINDS = ("thinking", "markup", "formula", "number", "symbol", "emoji", "punctuation")
"""What is counted."""

_THINKING = re.compile(
    r"<(think|thinking|thought|reasoning|reflection)>.*?(?:</\1>|\Z)"
    r"|<\|channel\|>\s*(?:analysis|commentary).*?(?:(?=<\|channel\|>\s*final)|<\|end\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
# A model whose template opened the tag writes only its end.
_LEFT_OPEN = re.compile(r"\A.*?</(?:think|thinking|thought|reasoning|reflection)>", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(r"<\|[^|<>]*\|>(?:\s*final\b)?|</?[a-zA-Z][^<>]{0,40}>")
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+")
_LINE = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|[-*+•][ \t]+|\|)", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*(?:[-*_=][ \t]*){3,}$|^\s*\|?[\s:|-]*-{3,}[\s:|-]*$", re.MULTILINE)
_STRONG = re.compile(r"(\*{1,3}|_{2,3}|~~|`+)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_FORMULA = re.compile(
    r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|\$(?=[^\s\d])[^$\n]*?[\\^_={}][^$\n]*\$", re.DOTALL
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+|[{}]")
_EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\ufe0f\u200d\U0001f000-\U0001faff]+")

_MONEY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_NUMBERS = (
    (re.compile(rf"([$€£¥])\s?({_DIGITS})(?!\w)(\s(?:thousand|million|billion|trillion))?"), "money"),
    (re.compile(r"\b(\d{1,2}):(\d{2})\b"), "clock"),
    (re.compile(r"\b(\d+)(?:st|nd|rd|th)\b", re.IGNORECASE), "ordinal"),
    (re.compile(rf"(?<![\w.])({_DIGITS})\s?[-–—]\s?({_DIGITS})(?![\w-])"), "range"),
    (re.compile(rf"(?<![\w.])({_DIGITS})\s?/\s?({_DIGITS})(?![\w/])"), "over"),
    (re.compile(r"\b(1[1-9]|20)(\d\d)\b(?![,.]?\d|\s?%)"), "year"),
    (re.compile(rf"(?<![\w.])[-−–](?=(?:{_DIGITS}))"), "minus"),
    (re.compile(_DIGITS), "number"),
)
_SYMBOLS = {
    "%": " percent ",
    "&": " and ",
    "+": " plus ",
    "=": " equals ",
    "≈": " about ",
    "≠": " is not ",
    "<": " less than ",
    ">": " greater than ",
    "≤": " at most ",
    "≥": " at least ",
    "×": " times ",
    "÷": " divided by ",
    "±": " plus or minus ",
    "°": " degrees ",
    "²": " squared ",
    "³": " cubed ",
    "√": " the square root of ",
    "π": " pi ",
    "@": " at ",
    "#": " number ",
    "$": " dollars ",
    "€": " euros ",
    "£": " pounds ",
    "^": " to the power of ",
    "→": " to ",
}
_DEGREES = re.compile(r"°\s?([CF])\b")
_SHORT = re.compile(r"\b(e\.g\.|i\.e\.|etc\.|vs\.|approx\.|Dr\.|Mr\.|Mrs\.|Ms\.|St\.)", re.IGNORECASE)
_SHORT_WORDS = {
    "e.g.": "for example",
    "i.e.": "that is",
    "etc.": "and so on",
    "vs.": "versus",
    "approx.": "about",
    "dr.": "Doctor",
    "mr.": "Mister",
    "mrs.": "Missus",
    "ms.": "Miss",
    "st.": "Saint",
}


@dataclass
class Spoken:
    """Text that can be spoken, and how often each kind of thing was changed for it."""

    text: str
    changes: dict[str, int] = field(default_factory=dict)
    """Keys from `KINDS`; kinds that did not occur are missing."""


def speakable(text: str) -> Spoken:
    """A whole answer as it can be spoken, on one line; "" when nothing of it can.

    Words, apostrophes and hyphens inside words stay; of punctuation only periods and commas are left. Running it again
    changes nothing.
    """
    spoken = Spoken(text)
    replace = _counting(spoken)
    replace("thinking", _THINKING, " ")
    replace("thinking", _LEFT_OPEN, " ")
    replace("markup", _FENCE, " ")
    replace("markup", _CONTROL, " ")
    replace("markup", _LINK, lambda m: m[1])
    replace("markup", _ADDRESS, " ")
    replace("markup", _RULE, " ")
    replace("markup", _LINE, "\n")
    for _ in range(3):  # bold within italics within code
        replace("markup", _STRONG, lambda m: m[2])
    replace("formula", _FORMULA, lambda m: _formula(m[0]))
    replace("formula", _FRACTION, lambda m: f"{m[1]} over {m[2]}")
    replace("emoji", _EMOJI, " ")
    replace("symbol", _SHORT, lambda m: _SHORT_WORDS[m[0].lower()])
    replace("symbol", _DEGREES, lambda m: " degrees Celsius " if m[1] == "C" else " degrees Fahrenheit ")
    for pattern, kind in _NUMBERS:
        replace("number", pattern, _NUMBER_WORDS[kind])
    for symbol, words in _SYMBOLS.items():
        replace("symbol", re.compile(re.escape(symbol)), words)
    _punctuate(spoken, replace)
    return spoken


Replace = Callable[[str, "re.Pattern[str]", "str | Callable[[re.Match[str]], str]"], None]


def _counting(spoken: Spoken) -> Replace:
    """A substitution in the text that counts."""

    def replace(kind: str, pattern: re.Pattern[str], by: str | Callable[[re.Match[str]], str]) -> None:
        spoken.text, count = pattern.subn(by, spoken.text)
        if count:
            spoken.changes[kind] = spoken.changes.get(kind, 0) + count

    return replace


def _punctuate(spoken: Spoken, replace: Replace) -> None:
    """Only periods and commas, spaces after them, none before, no line breaks."""
    spoken.text = spoken.text.replace("’", "'").replace("‘", "'").replace("−", "-").replace("_", " ")
    replace("punctuation", re.compile(r"[!?…]+|\.{2,}"), ".")
    replace("punctuation", re.compile(r"\s*[;:–—]\s*|\s+-+\s+|\s*\(\s*|\s*\)(?=\s*\w)"), ", ")
    # What stands on lines of its own is a sentence of its own.
    spoken.text = re.sub(r"(?<=[^\s.,])[ \t]*\n\s*", ". ", spoken.text)
    replace("punctuation", re.compile(r"(?<!\w)'|'(?!\w)"), "")
    replace("punctuation", re.compile(r"(?<!\w)-|-(?!\w)"), " ")
    replace("punctuation", re.compile(r"[^\w\s.,'-]"), " ")
    text = re.sub(r"\s+", " ", spoken.text)
    text = re.sub(r"\s*([.,])(?:\s*[.,])*", lambda m: "." if "." in m[0] else ",", text)
    text = re.sub(r"([.,])(?=\w)", r"\1 ", text)
    text = text.strip(" ,-")
    spoken.text = "" if not re.search(r"\w", text) else text.lstrip("., ")


def _formula(text: str) -> str:
    """A formula without its delimiters and commands; what is left is read as symbols."""
    inner = _FRACTION.sub(r" \1 over \2 ", text.strip("$"))
    inner = re.sub(r"\\(times|cdot)\b", " × ", inner)
    inner = re.sub(r"\\sqrt\b", " √ ", inner).replace("\\pi", " π ").replace("_", " ")
    return _COMMAND.sub(" ", re.sub(r"\\[\[\]()]", " ", inner))


def _value(text: str) -> str:
    return spell(text.replace(",", ""))


def _money(match: re.Match[str]) -> str:
    unit, amount, scale = _MONEY[match[1]], match[2].replace(",", ""), match[3] or ""
    many = "" if unit == "yen" or (amount == "1" and not scale) else "s"
    whole, _, cents = amount.partition(".")
    if len(cents) == 2 and not scale and unit != "yen":
        said = f"{spell(whole)} {unit}{'' if whole == '1' else 's'}"
        return said if cents == "00" else f"{said} and {spell(str(int(cents)))} {_cents(unit, cents)}"
    return f"{spell(amount)}{scale} {unit}{many}"


def _cents(unit: str, cents: str) -> str:
    if unit == "pound":
        return "pence"
    return "cent" if cents == "01" else "cents"


def _clock(match: re.Match[str]) -> str:
    hours, minutes = int(match[1]), int(match[2])
    if hours > 24 or minutes > 59:
        return f"{spell(match[1])} to {spell(match[2].lstrip('0') or '0')}"
    if minutes == 0:
        return f"{spell(str(hours))} o'clock"
    return f"{spell(str(hours))} {'oh ' if minutes < 10 else ''}{spell(str(minutes))}"


def _year(match: re.Match[str]) -> str:
    century, rest = int(match[1]), int(match[2])
    if century == 20 and rest < 10:
        return spell(match[0])
    if rest == 0:
        return f"{spell(str(century))} hundred"
    return f"{spell(str(century))} {'oh ' if rest < 10 else ''}{spell(str(rest))}"


_NUMBER_WORDS: dict[str, Callable[[re.Match[str]], str]] = {
    "money": _money,
    "clock": _clock,
    "ordinal": lambda m: ordinal(int(m[1])),
    "range": lambda m: f"{_value(m[1])} to {_value(m[2])}",
    "over": lambda m: f"{_value(m[1])} over {_value(m[2])}",
    "year": _year,
    "minus": lambda m: "minus ",
    "number": lambda m: f" {_value(m[0])} " if _touches(m) else _value(m[0]),
}


def _touches(match: re.Match[str]) -> bool:
    """Whether a letter stands right beside a number, as in 5km or H2O."""
    around = (
        match.string[max(0, match.start() - 1) : match.start()] + match.string[match.end() : match.end() + 1]
    )
    return any(character.isalpha() for character in around)
