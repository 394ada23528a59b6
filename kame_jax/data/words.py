"""Spoken words with their times, as `text/<id>.json` holds them, and who speaks on which channel."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kame_jax.errors import InputError

CHANNELS = {"A": 0, "B": 1}
"""Speaker -> audio channel of a dialogue (kame_finetune: A left, B right)."""
LATEST = 86_400.0
"""Seconds, a day: a word that begins later does not follow the recording's clock."""
LONGEST = 20.0
"""Seconds: where most words last longer, their times are not seconds."""


@dataclass(frozen=True)
class Word:
    """One spoken word of a two-speaker dialogue; times in seconds."""

    speaker: str
    word: str
    start: float
    end: float


def words_from_json(items: Sequence[dict[str, Any]]) -> list[Word]:
    """Words of a `text/<id>.json` list.

    Raises:
      InputError: an item that lacks a field or holds a value of the wrong kind (names its index), or times that cannot
        be seconds from the beginning of a recording.
    """
    words = []
    for i, item in enumerate(items):
        try:
            speaker, word = item["speaker"], item["word"]
            start, end = _seconds(item["start"]), _seconds(item["end"])
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise InputError(
                f"word {i}: {_shown(item)}: expected speaker, word, start and end in seconds"
            ) from e
        if not (isinstance(speaker, str) and isinstance(word, str)):
            raise InputError(f"word {i}: {_shown(item)}: expected text for speaker and word")
        if start > LATEST:
            raise InputError(
                f"word {i}: {word!r} begins at {start:g}, expected seconds from the beginning of the recording"
            )
        words.append(Word(speaker, word, start, end))
    middle = statistics.median([w.end - w.start for w in words] or [0.0])
    if middle > LONGEST:
        raise InputError(f"words last {middle:g} s at the median: are these milliseconds? expected seconds")
    return words


def _seconds(value: Any) -> float:
    """A finite number; anything else raises one of Python's errors."""
    if isinstance(value, bool) or not math.isfinite(seconds := float(value)):
        raise ValueError(value)
    return seconds


def _shown(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 200 else f"{text[:200]}..."


def words_to_json(words: Sequence[Word]) -> list[dict[str, Any]]:
    """The list that `text/<id>.json` holds."""
    return [dataclasses.asdict(w) for w in words]
