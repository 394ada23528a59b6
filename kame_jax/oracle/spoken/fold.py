"""Characters that look alike as one of them: digits of all scripts, quotes, dashes, full-width and composed letters."""

from __future__ import annotations

import re
import unicodedata

from kame_jax.oracle.spoken.units import CURRENCIES, OPERATORS, SIGNS

RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ"
LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋"
LETTER = (
    rf"(?:[^\W\d_{RAISED}{LOWERED}]|[\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    r"\u0900-\u109f\u1780-\u17ff])"
)
"""A pattern of a letter, or of a mark that `fold` leaves after one."""
ON_THE_LINE = str.maketrans(RAISED + LOWERED, "0123456789+-ni0123456789+-")
RAISE = str.maketrans("0123456789+-ni", RAISED)
LOWER = str.maketrans("0123456789+-", LOWERED)
PICTURE = "\ufffc"
"""What emoji and other pictures become."""
PLUS = "\u2064"
"""Precedes a vulgar fraction: "2½" is 2, this, 1, a fraction slash, 2."""

_ALIKE = {
    "’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
    "−": "-", "‐": "-", "‒": "-", "➖": "-", "―": "—", "➕": "+", "➗": "÷", "∼": "~", "≃": "≈", "≅": "≈", "≡": "=",
    "⋅": "·", "∙": "·", "✕": "×", "✖": "×", "✗": "×", "⨯": "×", "⟶": "→", "➔": "→", "➜": "→", "⟹": "⇒",
    "⟨": "(", "⟩": ")", "\u2126": "Ω", "∆": "Δ", "º": "°", "。": ".", "।": ".", "،": ",", "、": ",", "؟": "?", "•": ";",
    "…": "...", "\u2028": "\n", "\u2029": "\n", "\x85": "\n", "™": "", "®": "", "©": "", "🔟": " 10 ", "№": "#",
}  # fmt: skip
_LINES = str.maketrans("\r\x0b\x0c", "\n\n\n")
_KEPT = frozenset(RAISED + LOWERED + "⁄·–—′″") | {*OPERATORS, *SIGNS, *CURRENCIES}


def fold(text: str) -> str:
    """`text` with the characters that the lexer knows; others stay as they are. Linear in the text."""
    text = text.translate(_LINES)
    if text.isascii():
        return text
    out: list[str] = []
    for character in text:
        if character.isascii():
            out.append(character)
        elif unicodedata.category(character)[0] == "M":
            _add_mark(out, character)
        else:
            out.append(_fold(character))
    return "".join(out)


def _fold(character: str) -> str:
    if character in _KEPT or character.isascii():
        return character
    if character in _ALIKE:
        return _ALIKE[character]
    category = unicodedata.category(character)
    parts = unicodedata.decomposition(character).split()
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if parts[:1] == ["<fraction>"]:
        return PLUS + "".join(chr(int(code, 16)) for code in parts[1:])
    if category in ("Nl", "No"):
        value = unicodedata.numeric(character)
        return f" {int(value)} " if value == int(value) else character
    if parts and parts[0].startswith("<") and (len(parts) < 6 or category[0] != "L"):
        return "".join(_fold(chr(int(code, 16))) for code in parts[1:])
    if category in ("So", "Sk"):
        return PICTURE if category == "So" or character > "\uffff" else " "
    if category[0] == "Z":
        return " "
    if category[0] == "P":
        return '"'
    return "" if category[0] in "CM" else character


def _add_mark(out: list[str], mark: str) -> None:
    """A combining mark: one with the letter before it where there is such a letter, kept in scripts that need it."""
    before = out[-1][-1:] if out else ""
    composed = unicodedata.normalize("NFC", before + mark) if before else ""
    if len(composed) == 1:
        out[-1] = out[-1][:-1] + composed
    elif before > "\u0482" and unicodedata.category(before)[0] in "LM" and re.fullmatch(LETTER, mark):
        out.append(mark)
