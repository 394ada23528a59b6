"""What a data set holds, in figures: length, turns, tokens, oracle events, and how much of the oracle is ever read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from kame_jax.data.events import OracleEvents
from kame_jax.data.records import Record
from kame_jax.data.words import CHANNELS
from kame_jax.oracle.levels import hint_level
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.streams import FRAME_RATE

LEVELS = 6


class Statistics:
    """Adds records up, one at a time.

    Args:
        bounds: of the hint levels, see `oracle.levels.LEVEL_BOUNDS`.
        pad_id, end_pad_id: text ids without a word.
        frame_rate: frames a second.
    """

    def __init__(
        self, bounds: str = "paper", pad_id: int = 3, end_pad_id: int = 0, frame_rate: float = FRAME_RATE
    ):
        self._bounds, self._rate = bounds, frame_rate
        self._silent = (pad_id, end_pad_id)
        # The start of an answer is not an id of the vocabulary, so it can be told apart from its tokens.
        self._clear = OracleSchedule(np.iinfo(np.int32).max, -1, tail="clear")
        self._keep = OracleSchedule(np.iinfo(np.int32).max, -1, tail="keep")
        self._dialogues = self._frames = self._turns = self._codes = 0
        self._shortest: int | None = None
        self._longest = 0
        self._text = dict.fromkeys(CHANNELS, 0)
        self._events = dict.fromkeys(CHANNELS, 0)
        self._levels = [0] * LEVELS
        self._hinted = self._shown = self._read = 0
        self._runs = self._runs_with_tail = self._stale = 0

    def add(self, record: Record) -> None:
        """Counts one record."""
        frames = record.frames
        self._dialogues += 1
        self._frames += frames
        self._shortest = frames if self._shortest is None else min(self._shortest, frames)
        self._longest = max(self._longest, frames)
        spoken = []
        for i, (speaker, tokens) in enumerate(record.tokens.items()):
            words = np.flatnonzero(~np.isin(tokens[0], self._silent))
            self._text[speaker] += len(words)
            self._codes += tokens[1:].size
            spoken.append(np.stack([words, np.full_like(words, i)]))
        order = np.concatenate(spoken, axis=1)
        speakers = order[1, np.lexsort((order[1], order[0]))]
        self._turns += int(speakers.size > 0) + int(np.count_nonzero(np.diff(speakers)))
        for speaker, events in record.events.items():
            self._events[speaker] += len(events)
            self._count_events(events, frames)

    def _count_events(self, events: OracleEvents, frames: int) -> None:
        positions, answers, ends = [], [], []
        for i in np.argsort(events.frame_pos, kind="stable"):
            self._levels[hint_level(float(events.ratio[i]), self._bounds)] += 1
            hinted = events.shows_hint(i)
            self._hinted += hinted
            answer = events.hint(i) if hinted else events.prediction(i)
            if len(answer) and 0 <= events.frame_pos[i] < frames:
                positions.append(int(events.frame_pos[i]))
                answers.append(answer.tolist())
                ends.append(bool(events.skip_forbid[i]))
        if not positions:
            return
        clear = self._clear.row(positions, answers, frames)
        keep = self._keep.row(positions, answers, frames)
        self._shown += sum(map(len, answers))
        self._read += int(np.count_nonzero((clear >= 0) & (clear != self._clear.start_id)))
        stale = clear != keep
        self._stale += int(np.count_nonzero(stale))
        for position, end, following in zip(positions, ends, [*positions[1:], frames]):
            if end:
                self._runs += 1
                self._runs_with_tail += bool(stale[position:following].any())

    def result(self) -> dict[str, Any]:
        """The figures, as JSON types."""

        def share(part: int, whole: int) -> float | None:
            return part / whole if whole else None

        return {
            "dialogues": self._dialogues,
            "frames": self._frames,
            "hours": self._frames / self._rate / 3600,
            "shortest_seconds": (self._shortest or 0) / self._rate,
            "longest_seconds": self._longest / self._rate,
            "turns": self._turns,
            "text_tokens": dict(self._text),
            "audio_codes": self._codes,
            "oracle_events": dict(self._events),
            "oracle_events_by_level": list(self._levels),
            "oracle_events_showing_the_hint": self._hinted,
            "oracle_tokens": self._shown,
            "oracle_tokens_read": share(self._read, self._shown),
            "tail_leftover_tokens": self._stale,
            "turns_with_tail_leftovers": share(self._runs_with_tail, self._runs),
        }


def statistics(records: Iterable[Record], **settings: Any) -> dict[str, Any]:
    """The figures of some records; settings as in `Statistics`."""
    total = Statistics(**settings)
    for record in records:
        total.add(record)
    return total.result()


def describe(figures: dict[str, Any]) -> str:
    """The figures for people."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    text, events = figures["text_tokens"], figures["oracle_events"]
    levels = "  ".join(f"{i}: {n:,}" for i, n in enumerate(figures["oracle_events_by_level"]))
    rows = (
        ("dialogues", f"{figures['dialogues']:,}"),
        ("length", f"{figures['hours']:,.2f} h, {figures['frames']:,} frames of 80 ms"),
        ("shortest, longest", f"{figures['shortest_seconds']:.1f} s, {figures['longest_seconds']:.1f} s"),
        ("turns", f"{figures['turns']:,}"),
        ("text tokens", ", ".join(f"{n:,} of {s}" for s, n in text.items())),
        ("audio codes", f"{figures['audio_codes']:,}"),
        ("oracle events", ", ".join(f"{n:,} about {s}" for s, n in events.items())),
        ("  by hint level", levels),
        ("  showing the true reply", f"{figures['oracle_events_showing_the_hint']:,}"),
        ("oracle tokens", f"{figures['oracle_tokens']:,}"),
        ("  ever read", percent(figures["oracle_tokens_read"])),
        ("tail leftovers", f"{figures['tail_leftover_tokens']:,} tokens, if a new answer did not clear them"),
        ("  turns that end with one", percent(figures["turns_with_tail_leftovers"])),
    )
    return "\n".join(f"{name:<26}{value}" for name, value in rows)
