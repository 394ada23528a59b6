"""Parentheses: around a calculation they are spoken, around words they are pauses."""

from __future__ import annotations

from kame_jax.oracle.numbers import digits
from kame_jax.oracle.spoken.amounts import is_fraction
from kame_jax.oracle.spoken.cursor import GLUE, PAUSE, Cursor
from kame_jax.oracle.spoken.lexer import Token

_OPENS, _CLOSES = ("(", "[", "{"), (")", "]", "}")
_CALLED = ("f", "g", "h", "P", "O")
_INSIDE = 16
"""Tokens within which a parenthesis must close to be a calculation."""
_FUNCTIONS = frozenset("sine cosine tangent log exp max min gcd root value".split())


def open_group(cursor: Cursor, token: Token) -> list[str]:
    """Reads an opening parenthesis; a plural "(s)" and the area code of a telephone number are read whole."""
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
    kind = _kind(cursor, token)
    words: list[str] = []
    if kind != "text" and token.tight and cursor.left in ("number", "close", "name") and kind != "of":
        words = ["times"]
    words += {"quantity": ["the", "quantity"], "nested": ["open", "parenthesis"], "of": ["of"]}.get(kind, [])
    cursor.groups.append((kind, cursor.equals, cursor.math))
    cursor.changes["symbol" if kind != "text" else "punctuation"] += 1
    cursor.done(1, "operator" if kind != "text" else "")
    return words or ([PAUSE] if kind == "text" and token.text == "(" else [])


def _kind(cursor: Cursor, token: Token) -> str:
    """What a parenthesis is: "quantity" or "nested" in a calculation, "single" around one operand, "of", or "text"."""
    if token.tight and cursor.left == "name" and cursor.name in _CALLED:
        return "of"
    if not cursor.is_operand(1):
        return "text"
    depth, operators, nested, listed, k = 1, 0, False, False, 1
    while depth and k < _INSIDE:
        inner = cursor.peek(k)
        if inner.kind in ("end", "line", "stop", "restart"):
            return "text"
        depth += (inner.text in _OPENS) - (inner.text in _CLOSES)
        listed = listed or inner.text == ","
        nested = nested or inner.text in _OPENS
        operators += k > 1 and (
            cursor.is_operator(k) or (inner.text in ("-", "–") and cursor.is_operand(k + 1))
        )
        k += 1
    if depth:
        return "text"
    if token.tight and cursor.left == "name" and listed:
        return "of"
    if token.tight and cursor.left in ("name", "word"):
        if _FUNCTIONS & {*[*cursor.said][-1:]} or "base" in [*cursor.said][-2:-1]:
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
        or (after.text in _OPENS and after.tight)
    )
    if not outside:
        return "text"
    if k == 5 and cursor.peek(2).text == "/" and is_fraction(cursor.peek(1).text, cursor.peek(3).text):
        return "single"
    return ("nested" if nested else "quantity") if operators else "single"


def close_group(cursor: Cursor, token: Token) -> list[str]:
    """Reads a closing parenthesis as the one that it closes was read."""
    kind, equals, math = cursor.groups.pop() if cursor.groups else ("text", False, False)
    cursor.changes["punctuation"] += kind == "text"
    cursor.done(1, "close")
    cursor.equals, cursor.math = equals, math or kind in ("quantity", "nested")
    if kind == "nested":
        return ["close", "parenthesis"]
    return [PAUSE] if kind == "quantity" or (kind == "text" and token.text == ")") else []
