"""Simulated oracle events: what a back-end would have said at each moment of a recorded dialogue.

This room owns the clock of the events and the hint levels; what a predictor answers is the caller's (the `hint`
strategy here needs no language model). Which of the reference's defects are kept is `make.rules`'; turning events
into tokens is `data.events`, laying them on frames `oracle.schedule`.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kame_jax.data.events import WHILE_SPEAKING
from kame_jax.data.words import CHANNELS, Word
from kame_jax.errors import InputError
from kame_jax.make.rules import PRESETS, Rules
from kame_jax.oracle.levels import hint_level

PAUSE_ENDS_TURN = 1.0
"""Seconds between the ends of two words of one speaker from which on the second opens a new turn."""

BACKCHANNEL_WORDS, BACKCHANNEL_SECONDS = 2, 1.0
"""Most words and seconds of a back-channel, which the other speaker talks on over."""


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
    level: int = 0
    """Hint level, 0 to 5."""
    turn: int | None = None
    """Number of the turn that is foreseen, `WHILE_SPEAKING` for the rest of the one that is being spoken; None in the
    reference's records, which do not say."""
    target: int = -1
    """Place among the words of the first word of the hint."""


Predictor = Callable[[Request], str]


@dataclass(frozen=True)
class HintStrategy:
    """Predictor without a language model: the first words of the true answer, more of them at each hint level."""

    revealed: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Share of the hint's words given at levels 0 to 5 (rounded up); 0 predicts nothing."""

    def __call__(self, request: Request) -> str:
        """The hint's first words, as many as the level reveals."""
        words = request.hint.split()
        return " ".join(words[: math.ceil(self.revealed[request.level] * len(words))])


def simulate_oracle(
    words: Sequence[Word],
    predict: Predictor,
    *,
    interval: float = 0.5,
    rules: Rules = PRESETS["reference"],
) -> list[dict[str, Any]]:
    """Asks `predict` every `interval` seconds what comes next, as kame_finetune's `tools/oracle_generation.py` does.

    Args:
      words: the dialogue, speakers "A" and "B".
      predict: from a `Request` to the predicted reply; an empty one makes no event.
      interval: seconds between two requests.
      rules: what is corrected; by default nothing.

    Returns:
      Records as `oracle_raw/<id>.json` holds them: timestamp_ms, conversation_context, prediction, total_word_count,
      trigger_word, recent_words, current_spoken_ratio, channel (of the next speaker), hint ("" at level 0).

    Raises:
      InputError: a speaker other than A and B, or an interval that is not positive.
    """
    found = []
    for request in oracle_requests(words, interval=interval, rules=rules):
        prediction = request.hint if says_itself(request, rules) else predict(request)
        found.append(oracle_record(request, prediction))
    return [record for record in found if record is not None]


def says_itself(request: Request, rules: Rules) -> bool:
    """Whether the true reply is the answer, so that no model needs to be asked."""
    return (rules.paper_bounds and request.level == 5) or request.turn == WHILE_SPEAKING


def oracle_requests(
    words: Sequence[Word], *, interval: float = 0.5, rules: Rules = PRESETS["reference"]
) -> list[Request]:
    """All that a dialogue's oracle is asked, in order of time; arguments and errors as in `simulate_oracle`.

    Nothing is asked before two words were heard. Without `rules.skip_ticks` the dialogue ends at the first moment at
    which the next speaker says nothing more.
    """
    unknown = sorted({w.speaker for w in words} - set(CHANNELS))
    if unknown:
        raise InputError(f"speakers {unknown}: expected only {sorted(CHANNELS)}")
    if interval <= 0:
        raise InputError(f"interval {interval}: expected seconds > 0")
    words = list(words)
    end = max((w.end for w in words), default=0.0)
    if rules.sort_words:
        words.sort(key=lambda w: w.end)
    if rules.bridge_backchannels:
        words = without_backchannels(words)
    ends = [w.end for w in words] if rules.sort_words else None
    changes = [a.speaker != b.speaker for a, b in itertools.pairwise(words)]
    turns = list(itertools.accumulate([0, *map(int, changes)])) if words else []
    requests: list[Request] = []
    now = interval
    while now < end:
        if ends is None:
            heard: Sequence[int] = [i for i, w in enumerate(words) if w.end <= now]
        else:
            heard = range(bisect.bisect_right(ends, now))
        if len(heard) >= 2:
            request = _request(words, heard, now, turns, rules)
            if not request.hint and not rules.skip_ticks:
                break
            if rules.while_speaking:
                rest = _rest(words, heard, request)
                requests += [rest] if rest else []
            if request.hint:
                requests.append(request)
        now += interval
    return requests


def oracle_record(request: Request, prediction: str, use_hint: bool | None = None) -> dict[str, Any] | None:
    """The record of an answered request; None when nothing would be shown.

    Args:
      request: the question.
      prediction: the answer.
      use_hint: whether the hint is shown in the answer's place; None leaves it to the ratio, and says nothing of it.
    """
    prediction = prediction.strip()
    if not (prediction or use_hint):
        return None
    record = {
        "timestamp_ms": request.timestamp_ms,
        "conversation_context": request.context,
        "prediction": prediction,
        "total_word_count": request.word_count,
        "trigger_word": request.recent[-1],
        "recent_words": " ".join(request.recent),
        "current_spoken_ratio": request.ratio,
        "channel": CHANNELS[request.next_speaker],
        "hint": request.hint if request.level > 0 else "",
    }
    if use_hint is not None:
        record["use_hint"] = use_hint
    return record if request.turn is None else record | {"turn": request.turn}


def without_backchannels(words: Sequence[Word]) -> list[Word]:
    """Words without the short runs of one speaker over which the other talks on without a pause."""
    runs = [list(group) for _, group in itertools.groupby(words, key=lambda w: w.speaker)]
    kept = list(words[:0])
    for i, run in enumerate(runs):
        inside = 0 < i < len(runs) - 1 and len(run) <= BACKCHANNEL_WORDS
        if inside and run[-1].end - run[0].start <= BACKCHANNEL_SECONDS:
            before, after = runs[i - 1][-1], runs[i + 1][0]
            if after.start - before.end < PAUSE_ENDS_TURN:
                continue
        kept += run
    return kept


def _request(
    words: Sequence[Word], heard: Sequence[int], now: float, turns: Sequence[int], rules: Rules
) -> Request:
    last = words[heard[-1]]
    other = "B" if last.speaker == "A" else "A"
    ratio = _spoken_ratio(words, heard, pause_ends=not rules.whole_turn)
    first = heard[-1] + 1 if rules.sort_words else 0
    hint = _next_utterance(words, last.end, other, first)
    return Request(
        timestamp_ms=int(now * 1000),
        context=_context([words[i] for i in heard]),
        hint=" ".join(words[i].word for i in hint),
        word_count=len(heard),
        recent=tuple(words[i].word for i in heard[-5:]),
        ratio=ratio,
        speaker=last.speaker,
        next_speaker=other,
        level=hint_level(ratio, "paper" if rules.paper_bounds else "released"),
        turn=turns[heard[-1]] + 1 if rules.protect_kept else None,
        target=hint[0] if hint else -1,
    )


def _rest(words: Sequence[Word], heard: Sequence[int], request: Request) -> Request | None:
    """What the current speaker still says in this turn, as an oracle that keeps up with them; None at a first turn."""
    rest = []
    for i in range(heard[-1] + 1, len(words)):
        if words[i].speaker != request.speaker:
            break
        rest.append(words[i].word)
    answering = any(words[i].speaker != request.speaker for i in heard)
    if not rest or not answering:
        return None
    return dataclasses.replace(
        request,
        hint=" ".join(rest),
        ratio=1.0,
        level=5,
        next_speaker=request.speaker,
        turn=WHILE_SPEAKING,
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


def _spoken_ratio(words: Sequence[Word], heard: Sequence[int], pause_ends: bool = True) -> float:
    speaker = words[heard[-1]].speaker
    spoken = 0
    for i in reversed(heard):
        if words[i].speaker != speaker:
            break
        spoken += 1
    total = spoken
    for i in range(heard[-1] + 1, len(words)):
        if words[i].speaker != speaker:
            break
        if pause_ends and words[i].end - words[i - 1].end >= PAUSE_ENDS_TURN:
            break
        total += 1
    return spoken / total


def _next_utterance(words: Sequence[Word], after: float, speaker: str, first: int = 0) -> list[int]:
    """Places of the words of the speaker's next utterance."""
    utterance: list[int] = []
    for i in range(first, len(words)):
        if words[i].end <= after:
            continue
        if words[i].speaker == speaker:
            utterance.append(i)
        elif utterance:
            break
    return utterance
