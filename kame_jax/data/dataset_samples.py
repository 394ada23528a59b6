"""Samples on disk: a data set (`data.dataset`) as the pieces that training sees, read one at a time.

Only a few numbers per dialogue are held in memory. Cutting is `data.cutting`'.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from kame_jax.config import ModelConfig
from kame_jax.config.load import read_mapping
from kame_jax.data.cutting import CARRIED, Cut, Sample, bounds, column_count, make_sample, needed_frames
from kame_jax.data.dataset import Dataset, find_dataset
from kame_jax.errors import InputError


class DatasetSamples(Sequence[Sample]):
    """The samples of a data set, in the order of `make_samples`: speaker by speaker, dialogue by dialogue.

    Args:
        path: a data set, or `SET:split`.
        config: of the model; where it has fewer codebooks than the data set, the first ones are read.
        speakers: who is the model, each in turn.
        cut: how dialogues are cut.

    Raises:
        InputError: no data set, tokens that do not fit the model, or no piece that is long enough.
    """

    def __init__(
        self, path: str | Path, config: ModelConfig, speakers: Sequence[str] = ("A",), cut: Cut = Cut()
    ):
        self.dataset = Dataset(path)
        self._config, self._speakers, self._cut = config, tuple(speakers), cut
        self._check(path)
        columns = self.dataset.frames.astype(np.int64) + column_count(0, config)
        pieces = np.ones_like(columns)
        if cut.max_frames is not None:
            long = columns > cut.max_frames
            pieces[long] = -(-columns[long] // (cut.max_frames - cut.context))
        size, longer = columns // pieces, columns % pieces
        least = cut.min_frames or 0
        kept = np.where(size >= least, pieces, np.where(size + 1 >= least, longer, 0))
        self._columns, self._pieces = columns, pieces
        self._last = np.cumsum(kept)
        self._first = self._last - kept
        self._each = int(self._last[-1]) if len(kept) else 0
        if not self._each:
            raise InputError(f"{path}: has no piece of data.min_frames ({least}) frames")

    def _check(self, path: str | Path) -> None:
        facts, config, problems = self.dataset.facts, self._config, []
        for name, expected, least in (
            ("codebooks", config.n_q // 2, True),
            ("card", config.card, False),
            ("text_card", config.text_card, False),
        ):
            value = facts.get(name)
            if value is not None and (value < expected if least else value > expected):
                problems.append(f"{name} {value}, the model has {expected}")
        if problems:
            raise InputError(f"{path}: does not fit the model: {', '.join(problems)}")

    @property
    def fingerprint(self) -> str:
        """A short name for the content and the way it is cut."""
        facts = (self.dataset.fingerprint, self._config.delays, self._speakers, self._cut)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._each * len(self._speakers)

    def _place(self, index: int) -> tuple[str, int, int, int, int]:
        """Speaker, dialogue, piece, and its new columns."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        speaker, rest = divmod(index, self._each)
        dialogue = int(np.searchsorted(self._last, rest, side="right"))
        piece = rest - int(self._first[dialogue])
        start, stop = bounds(int(self._columns[dialogue]), int(self._pieces[dialogue]), piece)
        return self._speakers[speaker], dialogue, piece, start, stop

    def length(self, index: int) -> int:
        """Columns of a sample, without reading it."""
        _, _, _, start, stop = self._place(index)
        return stop - max(0, start - self._cut.context)

    def lengths(self) -> np.ndarray:
        """Columns of all samples, without reading them: int64 `[samples]`."""
        kept = self._last - self._first
        piece = np.arange(self._each) - np.repeat(self._first, kept)
        size, longer = np.divmod(self._columns, self._pieces)
        start = piece * np.repeat(size, kept) + np.minimum(piece, np.repeat(longer, kept))
        new = np.repeat(size, kept) + (piece < np.repeat(longer, kept))
        return np.tile(new + np.minimum(start, self._cut.context), len(self._speakers))

    @property
    def longest(self) -> int:
        """Columns of the longest sample, or one or two more."""
        kept = self._last > self._first
        size = -(-self._columns[kept] // self._pieces[kept])
        return int((size + np.where(self._pieces[kept] > 1, self._cut.context, 0)).max())

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        speaker, dialogue, piece, start, stop = self._place(int(index))
        frames = int(self.dataset.frames[dialogue])
        low, high = needed_frames(self._config, self._cut, start, stop, frames)
        part = self.dataset.read(dialogue, low, high, CARRIED if self._cut.carry_oracle else 0)
        return make_sample(
            f"{part.id}/{speaker}/{piece}",
            {s: tokens[: 1 + self._config.n_q // 2] for s, tokens in part.tokens.items()},
            part.events,
            self._config,
            self._cut,
            speaker=speaker,
            start=start,
            stop=stop,
            offset=low,
            frames=frames,
        )


class MixedSamples(Sequence[Sample]):
    """Several data sets, each drawn from with a weight; as a sequence, one after the other.

    Raises:
        InputError: no parts, or a weight that is not above 0.
    """

    def __init__(self, parts: Sequence[DatasetSamples], weights: Sequence[float]):
        if not parts or any(not 0 < weight < math.inf for weight in weights):
            raise InputError(f"mixture of weights {list(weights)}: expected one above 0 for each data set")
        self.parts, self.weights = tuple(parts), tuple(weights)

    @property
    def fingerprint(self) -> str:
        """A short name for the content and the weights."""
        facts = ([part.fingerprint for part in self.parts], self.weights)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    @property
    def longest(self) -> int:
        """Columns of the longest sample, or one or two more."""
        return max(part.longest for part in self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = int(index)
        for part in self.parts:
            if 0 <= index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


def open_samples(
    path: str | Path, config: ModelConfig, speakers: Sequence[str] = ("A",), cut: Cut = Cut()
) -> DatasetSamples | MixedSamples | None:
    """The samples of a data set or a mixture; None when `path` is neither.

    A mixture is a YAML file of `path: weight`, paths from the file's folder; a weight is the share of the rows.

    Raises:
        InputError: what is wrong with it.
    """
    if Path(path).suffix not in (".yaml", ".yml"):
        return DatasetSamples(path, config, speakers, cut) if find_dataset(path) else None
    items = read_mapping(path)
    numbers = all(isinstance(w, int | float) for w in items.values())
    if not items or not numbers:
        raise InputError(f"{path}: expected lines `data set: weight`")
    parts = [DatasetSamples(Path(path).parent / str(name), config, speakers, cut) for name in items]
    return MixedSamples(parts, [float(weight) for weight in items.values()])
