"""What was asked of a language model, what it answered, and what it cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kame_jax.config import LLMConfig

CHARS_PER_TOKEN = 4
"""For estimates where the server does not count: about right for English."""


@dataclass(frozen=True)
class Usage:
    """Counts of one request or the sum of many; `+` adds them."""

    requests: int = 0
    """Answers requested, retries not counted."""
    tries: int = 0
    """Requests sent."""
    failed: int = 0
    """Answers that failed, or were incomplete."""
    cancelled: int = 0
    """Streams closed by us before their end."""
    truncated: int = 0
    """Answers cut off because they exceeded the limit of characters."""
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: int = 0
    """Requests whose tokens the server did not count; theirs are estimated from characters."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    @property
    def tokens(self) -> int:
        """Prompt and answer tokens."""
        return self.input_tokens + self.output_tokens

    def cost(self, config: LLMConfig) -> float:
        """Price of these tokens, in the unit of the configured prices."""
        return (self.input_tokens * config.input_price + self.output_tokens * config.output_price) / 1e6


def estimate_tokens(messages: Iterable[Mapping[str, str]], chars: int) -> tuple[int, int]:
    """Prompt and answer tokens, estimated from characters (rounded up), `chars` of them of the answer."""
    asked = sum(len(message["content"]) for message in messages)
    return -(-asked // CHARS_PER_TOKEN), -(-chars // CHARS_PER_TOKEN)
