"""How a live conversation is helped by a back end: when it is asked, which one, and what its answers may take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from kame_jax.config.fields import Count, Fraction, NonNegativeFloat, OneOf, Positive, PositiveFloat
from kame_jax.config.llm import LLMConfig
from kame_jax.config.stt import STTConfig

ADOPTIONS = ("first_token", "at_once")
FAILURES = ("clear", "keep")


@dataclass(frozen=True)
class TriggerConfig:
    """When a new answer is asked for. Defaults: SakanaAI/kame `server_oracle.py`."""

    interval: NonNegativeFloat = 0.5
    """Fewest seconds between two questions, except at the end of a turn."""
    new_words: Positive = 2
    """Words that must have come since the last question, except at the end of a turn."""
    first_words: Positive = 1
    """Words of a turn before the first question about it."""
    end_of_turn: bool = True
    """Ask once more when the speaker has finished, regardless of the interval."""


@dataclass(frozen=True)
class TandemConfig:
    """A conversation's back end and its limits."""

    llm: LLMConfig | None = None
    """Answers while the user still speaks, and at the end of the turn where there is no `final_llm`."""
    final_llm: LLMConfig | None = None
    """Answers at the end of a turn: a larger model than the one that keeps up with the speaker."""
    stt: STTConfig | None = None
    """Where the user's words come from, unless the command says so."""
    trigger: TriggerConfig = TriggerConfig()
    adopt: Annotated[str, OneOf(ADOPTIONS)] = "first_token"
    """When a new answer replaces the old one: "first_token", when it has begun; "at_once", when it is asked for, which
    leaves a gap without an oracle, as in the reference."""
    on_failure: Annotated[str, OneOf(FAILURES)] = "clear"
    """What a failed answer leaves: "clear" no oracle at all, "keep" the one before."""
    max_streams: Positive = 3
    """Answers in flight at once; beyond that a new one replaces the newest, so that the oldest arrives
    even where a back end takes longer than the time between questions."""
    max_questions_a_minute: Positive = 120
    max_words: Positive = 40
    """Longest answer that enters the oracle; the rest of a longer one is not read."""
    context_chars: Positive = 6000
    """Longest transcript that a question carries; a longer one loses its beginning."""
    delay: NonNegativeFloat = 0.0
    """Seconds that every answer of an embedded back end takes, as a distant one would."""
    pause: PositiveFloat = 0.8
    """Seconds of silence after which a timed transcript counts a turn as finished."""
    min_score: Fraction = 0.3
    """Embedded back end: how much of an entry's question must be heard, by weight, before its answer is given."""
    system: str = (
        "You are a voice assistant in the middle of a spoken conversation. Foresee what the user is about to ask and "
        "give the reply at once, the answer first, in at most thirty spoken words. No lists, no symbols, no questions "
        "back, no thinking aloud. Output nothing but the reply."
    )
    """The language model's system prompt."""
    seed: Count = 0
    """Of the waits between tries."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) for fields that do not fit together."""
        if self.final_llm is not None and self.llm is None:
            yield "final_llm", "needs llm as well: the one that answers while the user speaks"
