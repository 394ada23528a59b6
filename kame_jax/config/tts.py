"""Who speaks synthesised dialogues: one `TTSConfig` is one server with OpenAI's or Kyutai's protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from kame_jax.config.address import address_conflicts
from kame_jax.config.fields import Count, NonNegativeFloat, OneOf, Positive, PositiveFloat

SERVERS = ("openai", "kyutai")


@dataclass(frozen=True)
class TTSConfig:
    """A server that speaks: OpenAI's `/audio/speech` ("openai"), or a moshi-server ("kyutai")."""

    source: Annotated[str, OneOf(SERVERS)] = "openai"
    base_url: str | None = None
    """Address up to and including its version; of a moshi-server without a path. None is OpenAI's own."""
    model: str = "tts-1"
    """The model's name on an OpenAI-compatible server."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None is OPENAI_API_KEY, or KYUTAI_API_KEY for "kyutai"."""
    timeout: PositiveFloat = 60.0
    """Seconds for a sentence."""
    retries: Count = 3
    """Further tries after 429, 5xx, a lost connection or an answer that is broken off."""
    backoff: PositiveFloat = 0.5
    """Seconds before the first further try; doubled each time, with jitter; more where a server's Retry-After asks."""
    max_backoff: PositiveFloat = 20.0
    """Longest wait between two tries, in seconds, also where the server asks for more."""
    character_price: NonNegativeFloat = 0.0
    """Price of a million characters."""
    max_cost: PositiveFloat | None = None
    """Stop when this much was spent by this process, in the unit of the price; None sets no limit."""
    max_characters: Positive | None = None
    """Stop after this many characters; None sets no limit."""

    @property
    def key_env(self) -> str:
        """The environment variable that holds the key."""
        return self.api_key_env or ("KYUTAI_API_KEY" if self.source == "kyutai" else "OPENAI_API_KEY")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if self.source == "kyutai":
            if self.base_url is None:
                yield "base_url", "kyutai needs the address of a moshi-server, ws://host:port"
            yield from address_conflicts("base_url", self.base_url, ("ws", "wss", "http", "https"))
        else:
            yield from address_conflicts("base_url", self.base_url)
        if self.max_cost is not None and not self.character_price:
            yield "max_cost", "needs character_price, or the cost stays 0"
