"""The part of a model's output that is its answer: no thinking, no tool calls, nothing after an end-of-turn token.

Servers take such marks out of the text where they know the model's template; what they leave in is removed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_THINKING = (
    "think",
    "thinking",
    "thought",
    "reasoning",
    "reflection",
    "analysis",
    "scratchpad",
    "seed:think",
)
_CLOSED_BY = {f"<{name}>": f"</{name}>" for name in _THINKING} | {
    "[think]": "[/think]",  # Mistral
    "◁think▷": "◁/think▷",  # Kimi
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|channel|>analysis": "<|channel|>final<|message|>",  # gpt-oss
}
_SKIPPED = ("<|channel|>final<|message|>",)
_TOOLS = (
    "<tool_call",
    "<function_call",
    "<function=",
    "<tools>",
    "<tool_code>",
    "<|tool_call",
    "<|tool_calls",
    "<|python_tag|>",
    "<|channel|>commentary",
    "[tool_calls]",
    "[tool_call]",
)
_ENDS = (
    "<|im_end|>",
    "<|im_start|>",
    "<|end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|start_header_id|>",
    "<end_of_turn>",
    "<start_of_turn>",
    "</s>",
    "[/inst]",
)
_MARKS = (*_CLOSED_BY, *_SKIPPED, *_TOOLS, *_ENDS)


def _any_of(marks: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))), re.IGNORECASE)


_MARK, _CLOSE = _any_of(_MARKS), {mark: _any_of([close]) for mark, close in _CLOSED_BY.items()}
_LEFT_OPEN = _any_of(_CLOSED_BY.values())
_LONGEST = max(map(len, (*_MARKS, *_CLOSED_BY.values())))
_FIRSTS = frozenset(mark[0] for mark in _MARKS)


def without_left_open(text: str) -> str:
    """`text` after thinking that ends in it but began elsewhere: a template may open it in the prompt."""
    ends = [found.end() for found in _LEFT_OPEN.finditer(text)]
    return text[ends[-1] :].lstrip() if ends else text


class Visible:
    """A text that streams in, without marks and what they enclose; work grows with the text's length alone."""

    def __init__(self) -> None:
        self.ended = False
        """A mark ended the answer: what follows is ignored."""
        self.called_tool = False
        self._held = ""
        self._until: re.Pattern[str] | None = None

    def push(self, piece: str) -> str:
        """Takes the next piece and returns what is certainly visible."""
        text, at, shown = self._held + piece, 0, []
        while not self.ended:
            found = (self._until or _MARK).search(text, at)
            if found is None:
                break
            if self._until is None:
                shown.append(text[at : found.start()])
                name = found[0].lower()
                self._until = _CLOSE.get(name)
                self.called_tool = self.called_tool or name in _TOOLS
                self.ended = name in _TOOLS or name in _ENDS
            else:
                self._until = None
            at = found.end()
        sure = len(text) if self.ended else max(at, self._sure(text))
        if self._until is None and not self.ended:
            shown.append(text[at:sure])
        self._held = text[sure:]
        return "".join(shown)

    def finish(self) -> str:
        """What was held back because it might have begun a mark."""
        return "" if self._until else self._held

    def _sure(self, text: str) -> int:
        """Up to where no mark can have begun."""
        if self._until is not None:
            return len(text) - _LONGEST
        for at in range(max(len(text) - _LONGEST, 0), len(text)):
            if text[at] in _FIRSTS:
                beginning = text[at:].lower()
                if any(mark.startswith(beginning) for mark in _MARKS):
                    return at
        return len(text)
