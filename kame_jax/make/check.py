"""Is a dialogue fit to be trained on: what is wrong with its words and events, what can be mended, what cannot.

What can be mended without guessing is mended and reported; anything else refuses the dialogue.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kame_jax.data.words import CHANNELS, Word
from kame_jax.errors import InputError
from kame_jax.streams import FRAME_SECONDS

SLACK = FRAME_SECONDS
"""Seconds, one frame: how far a word may run past the audio or into its neighbour without being reported."""
MIN_RATE = 8000
"""Samples a second: less is not a recording of speech."""
MANY = 3
"""Faults of one kind that are named; the others are counted."""


@dataclass(frozen=True)
class Checked:
    """What remains of a dialogue, and what was mended."""

    words: tuple[Word, ...]
    notes: tuple[str, ...]
    """One line each, without the dialogue's name."""


def check_dialogue(
    words: Sequence[Word], oracle: Sequence[Mapping[str, Any]] | None, seconds: float, *, mend: bool = True
) -> Checked:
    """Words and oracle records against each other and against `seconds` of audio.

    Mended: words out of order (sorted by their end), words of one speaker that overlap (the earlier one is cut), words
    that run past the audio (cut), words without text (left out). Without `mend` all this is only reported. Records
    outside the audio are reported, and make no event later.

    Raises:
        InputError: everything that cannot be mended, in one line: times that run backwards or are negative, a word
            that begins after the audio, a speaker who is not A or B, or who is left without a word.
    """
    faults: list[str] = []
    for kind, bad in (
        (
            "speakers other than A and B",
            [f"{w.speaker} ({w.word!r})" for w in words if w.speaker not in CHANNELS],
        ),
        ("words with times that are not 0 <= start <= end", [_said(w) for w in words if not _in_time(w)]),
        (
            f"words that begin after the audio of {seconds:.2f} s",
            [_said(w) for w in words if _in_time(w) and w.start >= seconds + SLACK],
        ),
    ):
        if bad:
            faults.append(f"{kind}: {_few(bad)}")
    if faults:
        raise InputError("; ".join(faults))

    notes = []
    kept = [w for w in words if w.word.strip()]
    if len(kept) < len(words):
        notes.append(f"{len(words) - len(kept)} words without text, left out")
    for speaker in CHANNELS:
        if not any(w.speaker == speaker for w in kept):
            raise InputError(f"no word of speaker {speaker}, expected words of both")
    unsorted = sum(b.end < a.end for a, b in itertools.pairwise(kept))
    if unsorted:
        notes.append(f"{unsorted} words out of order" + (", sorted by their end" if mend else ""))
        kept.sort(key=lambda w: w.end)
    late = [w for w in kept if w.end > seconds + SLACK]
    if late:
        notes.append(f"{len(late)} words run past the audio of {seconds:.2f} s: {_few(map(_said, late))}")
        kept = [replace(w, start=min(w.start, seconds), end=min(w.end, seconds)) for w in kept]
    kept, overlaps = _without_overlaps(kept)
    if overlaps:
        notes.append(f"{len(overlaps)} words run into the same speaker's next: {_few(overlaps)}")
    _note_events(oracle or (), seconds, notes)
    return Checked(tuple(kept if mend else words), tuple(notes))


def _in_time(word: Word) -> bool:
    return 0 <= word.start <= word.end < float("inf")


def _without_overlaps(words: list[Word]) -> tuple[list[Word], list[str]]:
    said, result = [], list(words)
    for speaker in CHANNELS:
        order = sorted(
            (i for i, w in enumerate(words) if w.speaker == speaker),
            key=lambda i: (words[i].start, words[i].end),
        )
        for i, j in itertools.pairwise(order):
            if words[i].end > words[j].start + SLACK:
                said.append(_said(words[i]))
                result[i] = replace(words[i], end=max(words[i].start, words[j].start))
    return result, said


def _note_events(oracle: Sequence[Mapping[str, Any]], seconds: float, notes: list[str]) -> None:
    outside = [i for i, record in enumerate(oracle) if _outside(record, seconds)]
    if outside:
        notes.append(
            f"{len(outside)} oracle records are outside the audio of {seconds:.2f} s: "
            + _few(f"record {i} at {oracle[i]['timestamp_ms']} ms" for i in outside)
        )


def _outside(record: Any, seconds: float) -> bool:
    at = record.get("timestamp_ms") if isinstance(record, Mapping) else None
    return isinstance(at, int | float) and not 0 <= at < seconds * 1000


def _said(word: Word) -> str:
    return f"{word.word!r} ({word.speaker}, {word.start:g} to {word.end:g} s)"


def _few(items: Any) -> str:
    """The first of them, and how many more."""
    items = list(items)
    more = f" and {len(items) - MANY} more" if len(items) > MANY else ""
    return ", ".join(items[:MANY]) + more
