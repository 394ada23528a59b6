"""Spoken words with their times, as `text/<id>.json` holds them, and who speaks on which channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kame_jax.errors import InputError

CHANNELS = {"A": 0, "B": 1}
"""Speaker -> audio channel of a dialogue (kame_finetune: A left, B right)."""


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
