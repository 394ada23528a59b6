"""How a language model is reached, what an answer may cost, and how long it may take.

One `LLMConfig` is one endpoint and model; `kame_jax.llm` talks to it. Keys are never settings: only the name of the
environment variable that holds one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from kame_jax.config.address import address_conflicts
from kame_jax.config.fields import Count, NonNegativeFloat, OneOf, Positive, PositiveFloat, Range

LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class LLMConfig:
    """One OpenAI-compatible chat endpoint."""

    model: str
    """Name of the model, as the endpoint knows it."""
    base_url: str | None = None
    """Address of the endpoint up to and including its version (`http://localhost:11434/v1`); None is OpenAI's own."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. A server given by `base_url` may do without."""
    max_tokens: Positive = 80
    """Most tokens of an answer, requested from the server."""
    limit_field: Annotated[str, OneOf(LIMIT_FIELDS)] = "max_tokens"
    """What the server calls that limit; OpenAI's reasoning models want "max_completion_tokens"."""
    max_chars: Positive = 4000
    """Most characters read of an answer, its reasoning not counted: a server that ignores its limit is cut off here."""
    temperature: Annotated[float, Range(0, 2)] | None = None
    """None leaves it to the server."""
    reasoning_effort: str | None = None
    """Passed on where set ("minimal", "low", ...): a model that thinks long answers late."""
    system_role: bool = True
    """False for models whose template knows no system message (Gemma): it goes before the first of the user's."""
    prefill: bool = False
    """The server continues a last message of the assistant's (vLLM, Anthropic). False says in the system message what
    the assistant has begun to say, which every server takes."""
    stream_usage: bool = True
    """Ask for token counts at the end of a stream; False for servers that refuse the option (counts are estimated)."""
    first_token_timeout: PositiveFloat = 10.0
    """Seconds until an answer begins."""
    idle_timeout: PositiveFloat = 10.0
    """Seconds between two pieces of an answer."""
    timeout: PositiveFloat = 60.0
    """Seconds for a whole answer, not counting the waits between tries."""
    retries: Count = 3
    """Further tries after 429, 5xx, a lost connection or an answer that is broken off, as long as none of it was
    passed on."""
    backoff: PositiveFloat = 0.5
    """Seconds before the first further try; doubled each time, with jitter; more where a server's Retry-After asks."""
    max_backoff: PositiveFloat = 20.0
    """Longest wait between two tries, in seconds, also where the server asks for more."""
    max_concurrent: Positive = 8
    """Requests in flight at once; further ones wait."""
    max_cost: PositiveFloat | None = None
    """Stop asking when this much was spent, in the unit of the prices; None sets no limit."""
    max_total_tokens: Positive | None = None
    """Stop asking when this many tokens were used, prompts and answers; None sets no limit."""
    input_price: NonNegativeFloat = 0.0
    """Price of a million prompt tokens."""
    output_price: NonNegativeFloat = 0.0
    """Price of a million answer tokens."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        yield from address_conflicts("base_url", self.base_url)
        if self.max_cost is not None and not (self.input_price or self.output_price):
            yield "max_cost", "needs input_price or output_price, or the cost stays 0"
