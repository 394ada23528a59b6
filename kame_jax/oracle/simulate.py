"""Simulated oracle events: what a back-end would have said at each moment of a recorded dialogue.

This room owns the clock of the events and the hint levels; what a predictor answers is the caller's (the `hint`
strategy here needs no language model). Turning events into tokens is `data.events`, laying them on frames
`oracle.schedule`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kame_jax.errors import InputError

CHANNELS = {"A": 0, "B": 1}
"""Speaker -> audio channel of a dialogue (kame_finetune: A left, B right)."""

PAUSE_ENDS_TURN = 1.0
"""Seconds between the ends of two words of one speaker from which on the second opens a new turn."""

LEVEL_BOUNDS = {
    "released": ((0.5, 0.65, 0.8, 0.95, 0.99), True),
    "paper": ((0.5, 0.65, 0.8, 0.95, 1.0), False),
}
"""Upper bounds of hint levels 0 to 4 on the share of the turn heard, and whether a bound belongs to the level below it.

"released" is kame_finetune's `tools/generate_oracle_from_text.py`; "paper" is arXiv 2510.02327's table.
"""


@dataclass(frozen=True)
class Word:
    """One spoken word of a two-speaker dialogue; times in seconds."""

    speaker: str
    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Request:
    """What a predictor is told at one moment of a dialogue."""

    timestamp_ms: int
    context: str
    """The dialogue so far, one line per turn: "A: words ..."."""
    hint: str
    """All words of the true next utterance."""
    word_count: int
    """Words heard so far."""
    recent: tuple[str, ...]
    """The last words heard, newest last."""
    ratio: float
    """Share of the current turn's words heard, in (0, 1]."""
    speaker: str
    """Who speaks now."""
    next_speaker: str
    """Whose reply is to be foreseen."""


Predictor = Callable[[Request], str]


def hint_level(ratio: float, bounds: str = "released") -> int:
    """Hint level 0 to 5 of a share of the turn heard.

    Raises:
      InputError: unknown `bounds`.
    """
    if bounds not in LEVEL_BOUNDS:
        raise InputError(f"hint bounds {bounds!r}: expected one of {sorted(LEVEL_BOUNDS)}")
    limits, inclusive = LEVEL_BOUNDS[bounds]
    for level, limit in enumerate(limits):
        if ratio < limit or (inclusive and ratio == limit):
            return level
    return 5


@dataclass(frozen=True)
class HintStrategy:
    """Predictor without a language model: the first words of the true answer, more of them at each hint level."""

    revealed: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Share of the hint's words given at levels 0 to 5 (rounded up); 0 predicts nothing."""
    bounds: str = "released"

    def __call__(self, request: Request) -> str:
        """The hint's first words, as many as the level reveals."""
        words = request.hint.split()
        share = self.revealed[hint_level(request.ratio, self.bounds)]
        return " ".join(words[: math.ceil(share * len(words))])


def simulate_oracle(
    words: Sequence[Word], predict: Predictor, *, interval: float = 0.5
) -> list[dict[str, Any]]:
    """Asks `predict` every `interval` seconds what comes next, as kame_finetune's `tools/oracle_generation.py` does.

    Words are taken in the order given. Nothing is asked before two words were heard; the dialogue ends at the first
    moment at which the next speaker says nothing more.

    Args:
      words: the dialogue, speakers "A" and "B".
      predict: from a `Request` to the predicted reply; an empty one makes no event.
      interval: seconds between two requests.

    Returns:
      Records as `oracle_raw/<id>.json` holds them: timestamp_ms, conversation_context, prediction, total_word_count,
      trigger_word, recent_words, current_spoken_ratio, channel (of the next speaker), hint ("" up to ratio 0.5).

    Raises:
      InputError: a speaker other than A and B, or an interval that is not positive.
    """
    unknown = sorted({w.speaker for w in words} - set(CHANNELS))
    if unknown:
        raise InputError(f"speakers {unknown}: expected only {sorted(CHANNELS)}")
    if interval <= 0:
        raise InputError(f"interval {interval}: expected seconds > 0")
    records: list[dict[str, Any]] = []
    end = max((w.end for w in words), default=0.0)
    now = interval
    while now < end:
        heard = [i for i, w in enumerate(words) if w.end <= now]
        if len(heard) >= 2:
            request = _request(words, heard, now)
            if not request.hint:
                break
            prediction = predict(request).strip()
            if prediction:
                records.append(
                    {
                        "timestamp_ms": request.timestamp_ms,
                        "conversation_context": request.context,
                        "prediction": prediction,
                        "total_word_count": request.word_count,
                        "trigger_word": request.recent[-1],
                        "recent_words": " ".join(request.recent),
                        "current_spoken_ratio": request.ratio,
                        "channel": CHANNELS[request.next_speaker],
                        "hint": request.hint if request.ratio > 0.5 else "",
                    }
                )
        now += interval
    return records


def _request(words: Sequence[Word], heard: Sequence[int], now: float) -> Request:
    last = words[heard[-1]]
    other = "B" if last.speaker == "A" else "A"
    return Request(
        timestamp_ms=int(now * 1000),
        context=_context([words[i] for i in heard]),
        hint=" ".join(_next_utterance(words, last.end, other)),
        word_count=len(heard),
        recent=tuple(words[i].word for i in heard[-5:]),
        ratio=_spoken_ratio(words, heard),
        speaker=last.speaker,
        next_speaker=other,
    )


def _context(words: Sequence[Word]) -> str:
    lines: list[str] = []
    speaker = None
    for w in words:
        if w.speaker == speaker:
            lines[-1] += f" {w.word}"
        else:
            lines.append(f"{w.speaker}: {w.word}")
            speaker = w.speaker
    return "\n".join(lines)


def _spoken_ratio(words: Sequence[Word], heard: Sequence[int]) -> float:
    speaker = words[heard[-1]].speaker
    spoken = 0
    for i in reversed(heard):
        if words[i].speaker != speaker:
            break
        spoken += 1
    total = spoken
    for i in range(heard[-1] + 1, len(words)):
        if words[i].speaker != speaker or words[i].end - words[i - 1].end >= PAUSE_ENDS_TURN:
            break
        total += 1
    return spoken / total


def _next_utterance(words: Sequence[Word], after: float, speaker: str) -> list[str]:
    utterance: list[str] = []
    for w in words:
        if w.end <= after:
            continue
        if w.speaker == speaker:
            utterance.append(w.word)
        elif utterance:
            break
    return utterance


def words_from_json(items: Sequence[dict[str, Any]]) -> list[Word]:
    """Words of a `text/<id>.json` list.

    Raises:
      InputError: an item that lacks a field or holds a value of the wrong kind; names its index.
    """
    words = []
    for i, item in enumerate(items):
        try:
            word = Word(str(item["speaker"]), str(item["word"]), float(item["start"]), float(item["end"]))
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"word {i}: {item!r}: expected speaker, word, start and end in seconds") from e
        words.append(word)
    return words


def words_to_json(words: Sequence[Word]) -> list[dict[str, Any]]:
    """The list that `text/<id>.json` holds."""
    return [dataclasses.asdict(w) for w in words]
