"""LaTeX to the signs that a reader has words for; a formula beyond that is refused as a whole."""

from __future__ import annotations

import re
from collections import deque

from kame_jax.oracle.spoken.units import GREEK

MAX_DEPTH = 8
_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|[{}^_]|[^\\{}^_]+", re.DOTALL)
_SIMPLE = re.compile(r"-?[\d.,]+|-?[A-Za-zα-ωΑ-Ω]")
_FRACTIONS = ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac")
_TEXT = (
    "\\text",
    "\\textbf",
    "\\textit",
    "\\mathrm",
    "\\mathbf",
    "\\mathit",
    "\\mathsf",
    "\\operatorname",
    "\\boxed",
    "\\mbox",
)
_NOTHING = (
    *("\\left \\right \\big \\Big \\bigg \\Bigg \\displaystyle \\limits \\quad \\qquad \\thinspace".split()),
    *("\\,", "\\;", "\\!", "\\:", "\\ ", "\\(", "\\)", "\\[", "\\]"),
)
_SIGNS = {
    "\\times": "×",
    "\\cdot": "×",
    "\\ast": "×",
    "\\div": "÷",
    "\\pm": "±",
    "\\mp": "∓",
    "\\approx": "≈",
    "\\sim": "≈",
    "\\simeq": "≈",
    "\\equiv": "=",
    "\\leq": "≤",
    "\\le": "≤",
    "\\geq": "≥",
    "\\ge": "≥",
    "\\lt": "<",
    "\\gt": ">",
    "\\neq": "≠",
    "\\ne": "≠",
    "\\to": "→",
    "\\rightarrow": "→",
    "\\Rightarrow": "⇒",
    "\\implies": "⇒",
    "\\therefore": "∴",
    "\\because": "∵",
    "\\infty": "∞",
    "\\in": "∈",
    "\\cup": "∪",
    "\\cap": "∩",
    "\\angle": "∠",
    "\\degree": "°",
    "\\circ": "°",
    "\\%": "%",
    "\\$": "$",
    "\\&": "&",
    "\\#": "#",
    "\\_": " ",
    "\\{": " ",
    "\\}": " ",
    "\\\\": ", ",
    "\\ldots": ", and so on, ",
    "\\dots": ", and so on, ",
    "\\cdots": ", and so on, ",
    "\\ln": " natural log ",
    "\\log": " log ",
    "\\sin": " sine ",
    "\\cos": " cosine ",
    "\\tan": " tangent ",
    "\\max": " max ",
    "\\min": " min ",
    "\\gcd": " gcd ",
} | {f"\\{name}": f" {letter} " for letter, name in GREEK.items()}


class _Beyond(Exception):
    """A formula that has no words here."""


def plain(formula: str) -> str | None:
    """A formula without its delimiters, in signs, digits and words; None when something in it cannot be spoken."""
    tokens = deque(_TOKEN.findall(formula))
    try:
        text = _sequence(tokens, 0)
    except (_Beyond, IndexError):
        return None
    return None if tokens else text


def _sequence(tokens: deque[str], depth: int) -> str:
    """Takes the tokens up to a closing brace."""
    if depth > MAX_DEPTH:
        raise _Beyond
    out = []
    while tokens and tokens[0] != "}":
        out.append(_one(tokens, depth))
    return "".join(out)


def _one(tokens: deque[str], depth: int) -> str:
    """Takes a command with what belongs to it, a group, or a piece of text."""
    head = tokens.popleft()
    if head == "{":
        inner = _sequence(tokens, depth + 1)
        tokens.popleft()
        return inner
    if head in _FRACTIONS:
        above, below = _argument(tokens, depth), _argument(tokens, depth)
        if above.isdigit() and below.isdigit():
            return f"\u2064{above}⁄{below}"
        return f"{_grouped(above)} ∕ {_grouped(below)}"
    if head == "\\sqrt":
        cube = tokens[0].startswith("[3]")
        if cube:
            tokens[0] = tokens[0][3:]
            if not tokens[0]:
                tokens.popleft()
        return ("∛" if cube else "√") + _grouped(_argument(tokens, depth))
    if head in ("^", "_"):
        inner = _argument(tokens, depth)
        if inner.strip() == "°":
            return "°"
        if head == "_" and not inner.strip().isalnum():
            raise _Beyond
        return head + _grouped(inner)
    if head in _TEXT:
        return _argument(tokens, depth)
    if head in _NOTHING:
        return ""
    if head in _SIGNS:
        return _SIGNS[head]
    if head.startswith("\\") or "&" in head:
        raise _Beyond
    return head


def _argument(tokens: deque[str], depth: int) -> str:
    """Takes what a command works on: a group, a command, or the next character."""
    if tokens[0] == "{" or tokens[0].startswith("\\"):
        return _one(tokens, depth + 1)
    head = tokens.popleft().lstrip()
    if not head or head[0] in "[}^_":
        raise _Beyond
    if head[1:]:
        tokens.appendleft(head[1:])
    return head[0]


def _grouped(text: str) -> str:
    """An operand as one: in parentheses when it is more than a number or a letter."""
    text = text.strip()
    return text if _SIMPLE.fullmatch(text) else f"({text})"
