"""Where a conversation's transcript comes from: one `STTConfig` is one source of the user's words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from kame_jax.config.address import address_conflicts
from kame_jax.config.fields import Fraction, NonNegativeFloat, OneOf, PositiveFloat, Range

SOURCES = ("pocketsphinx", "whisper", "realtime", "kyutai")
SCHEMES = ("http", "https", "ws", "wss")
OPENAI = "https://api.openai.com/v1"
"""Used where `base_url` names no other server."""


@dataclass(frozen=True)
class STTConfig:
    """One source of transcripts.

    "pocketsphinx" runs offline. "whisper" sends the turn so far to an OpenAI-compatible `/audio/transcriptions` again
    and again. "realtime" streams to an OpenAI-compatible `/realtime` transcription session. "kyutai" streams to a
    moshi-server (`base_url`), or runs Kyutai's weights here (`model`).
    """

    source: Annotated[str, OneOf(SOURCES)] = "pocketsphinx"
    model: str | None = None
    """Name as the endpoint knows it (None: "whisper-1", or "gpt-4o-transcribe" in real time); the checkpoint of
    "kyutai"."""
    base_url: str | None = None
    """Address of the endpoint up to and including its version; of a moshi-server without a path. None is OpenAI's."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None is OPENAI_API_KEY, or KYUTAI_API_KEY for "kyutai"."""
    language: str | None = None
    """As the endpoint wants it ("en"); None lets it find out."""
    interval: PositiveFloat = 0.6
    """"whisper": fewest seconds between the starts of two requests about a turn."""
    window: Annotated[float, Range(2)] = 20.0
    """"whisper": most seconds of sound in a request; a longer turn is cut at its quietest place."""
    timeout: PositiveFloat = 10.0
    """Seconds for a request, a connection, or a message to be taken."""
    backoff: PositiveFloat = 0.5
    """Seconds before the next try after a failure; doubled each time, up to `max_backoff`."""
    max_backoff: PositiveFloat = 10.0
    max_behind: PositiveFloat = 10.0
    """Seconds of sound that may wait for a slow recogniser; the oldest beyond that is dropped, and counted."""
    audio_delay: NonNegativeFloat | None = None
    """"kyutai": seconds by which words come late. None: what the checkpoint says, or 0.5 behind a server (the 2.6B
    model has 2.5)."""
    silence_prefix: NonNegativeFloat | None = None
    """"kyutai" weights: seconds of silence heard before the user; None as above, or 0."""
    pause_threshold: Fraction = 0.6
    """"kyutai": predicted probability of a pause at which a turn is over, where the model predicts it."""
    minute_price: NonNegativeFloat = 0.0
    """Price of a minute of sound sent to an endpoint."""
    max_cost: PositiveFloat | None = None
    """Stop sending when this much was spent, in the unit of the price; None sets no limit."""
    max_minutes: PositiveFloat | None = None
    """Stop sending after this much sound; None sets no limit."""

    @property
    def key_env(self) -> str:
        """The environment variable that holds the key."""
        return self.api_key_env or ("KYUTAI_API_KEY" if self.source == "kyutai" else "OPENAI_API_KEY")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if self.source == "kyutai" and (self.model is None) == (self.base_url is None):
            yield (
                "source",
                "kyutai needs either base_url (a moshi-server) or model (a checkpoint to run here), not both",
            )
        yield from address_conflicts("base_url", self.base_url, SCHEMES)
        if self.max_cost is not None and not self.minute_price:
            yield "max_cost", "needs minute_price, or the cost stays 0"
