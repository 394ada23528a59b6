"""Batches for training and evaluation, each a pure function of the seed and the step.

A run that starts again at step s reads the same batches, augmentation included, as one that never stopped, on any
number of processes: nothing about the position needs saving. A process may make only its own rows. Reading ahead is
grain's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from kame_jax.config import OracleConfig
from kame_jax.data.collate import UNDISTURBED, Row, collate_row, empty_row, pack_row, stack_rows
from kame_jax.data.cutting import Sample
from kame_jax.data.dataset_samples import DatasetSamples, MixedSamples
from kame_jax.data.packing import pack
from kame_jax.errors import InputError
from kame_jax.oracle.schedule import OracleSchedule


def longest(samples: Sequence[Sample], multiple: int = 8) -> int:
    """Columns of the longest sample, rounded up to a multiple: a length that fits them all.

    Raises:
        InputError: there are no samples.
    """
    if not len(samples):
        raise InputError("no samples to train on or to evaluate, expected at least one")
    most = getattr(samples, "longest", None) or max(s.columns.shape[1] for s in samples)
    return -(-most // multiple) * multiple


class Part:
    """Samples that are drawn from together: alone in a row, or packed.

    Args:
        samples: all of them.
        length: columns of a row.
        seed: of the packing; None packs nothing.
    """

    def __init__(self, samples: Sequence[Sample], length: int, seed: int | None = None):
        self.samples, self.packed = samples, seed is not None
        self._lengths = _lengths(samples)
        self._plan = None if seed is None else pack(self._lengths, length, seed)

    def __len__(self) -> int:
        return len(self.samples if self._plan is None else self._plan)

    def indices(self, row: int) -> Sequence[int]:
        """The samples of a row."""
        return (row,) if self._plan is None else self._plan[row].tolist()

    def columns(self, row: int) -> int:
        """Real columns of a row, without reading its samples."""
        return int(sum(self._lengths[i] for i in self.indices(row)))


def _lengths(samples: Sequence[Sample]) -> np.ndarray:
    if isinstance(samples, DatasetSamples):
        return samples.lengths()
    return np.array([sample.columns.shape[1] for sample in samples], np.int64)


def row_order(parts: Sequence[Part], weights: Sequence[float], seed: int) -> grain.MapDataset[int]:
    """The endless order in which rows are drawn: place -> row, those of all parts counted through.

    Every epoch is a new shuffle of all rows; with several parts, each has its own epochs, and its weight is its share
    of the places.
    """
    orders, first = [], 0
    for i, part in enumerate(parts):
        order = grain.MapDataset.range(first, first + len(part)).seed(seed + 7919 * i).shuffle().repeat()
        orders.append(order)
        first += len(part)
    if len(orders) == 1:
        return orders[0]
    return grain.MapDataset.mix(orders, [weight / sum(weights) for weight in weights])


def train_batches(
    samples: Sequence[Sample],
    schedule: OracleSchedule,
    *,
    batch_size: int,
    length: int,
    seed: int,
    augment: OracleConfig = UNDISTURBED,
    rows: Sequence[int] | None = None,
    packed: bool = False,
) -> grain.MapDataset[Row]:
    """An endless data set of batches; `batches[step]` is the batch of that step.

    Every epoch is a new shuffle; a batch may span two epochs, so none is ever short. What is drawn for a row comes
    from (seed, its place among all rows).

    Args:
        samples: all of them.
        schedule: where oracle tokens land.
        batch_size: rows of the whole batch.
        length: columns of every row, at least those of the longest sample.
        seed: of the order and of the augmentation.
        augment: of the oracle.
        rows: which rows of the batch this process makes (default: all); `frames` is always that of all rows.
        packed: several short samples share a row.

    Raises:
        InputError: no samples, or one longer than `length`.
    """
    if longest(samples, 1) > length:
        raise InputError(f"the longest sample has {longest(samples, 1)} columns, expected at most {length}")
    mixture = samples if isinstance(samples, MixedSamples) else None
    parts = [
        Part(part, length, seed if packed else None) for part in (mixture.parts if mixture else (samples,))
    ]
    order = row_order(parts, mixture.weights if mixture else (1.0,), seed)
    mine = tuple(range(batch_size) if rows is None else rows)

    def drawn(place: int) -> tuple[Part, int]:
        row = int(order[place])
        for part in parts:
            if row < len(part):
                return part, row
            row -= len(part)
        raise IndexError(place)

    def made(number: int) -> Row:
        """The row of this process with this number."""
        step, i = divmod(number, len(mine))
        place = step * batch_size + mine[i]
        part, row = drawn(place)
        picked = [part.samples[i] for i in part.indices(row)]
        rng = np.random.default_rng((seed, place))
        if part.packed:
            return pack_row(picked, length, schedule, augment, rng, step)
        return collate_row(picked[0], length, schedule, augment, rng, step)

    def with_all_frames(step: int, batch: Row) -> Row:
        places = range(step * batch_size, (step + 1) * batch_size)
        frames = [part.columns(row) for part, row in map(drawn, places)]
        return batch | {"frames": np.array(frames, np.int32)}

    numbers = grain.MapDataset.range(sys.maxsize // batch_size * len(mine))
    batches = numbers.map(made).batch(len(mine), batch_fn=stack_rows)
    return batches if len(mine) == batch_size else batches.map_with_index(with_all_frames)


def read_ahead(batches: grain.MapDataset[Row], start: int, stop: int, *, threads: int = 1) -> Iterator[Row]:
    """The batches of steps `start` to `stop - 1`, prepared in the background."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, 2))
    return iter(batches[start:stop].to_iter_dataset(options))


def eval_batches(
    samples: Sequence[Sample], schedule: OracleSchedule, *, batch_size: int, length: int
) -> Iterator[Row]:
    """Every sample once, in order, undisturbed; the last batch is filled up with empty rows."""

    def filled(rows: Sequence[Row]) -> Row:
        blank = empty_row(rows[0]["inputs"].shape[0], length, schedule.pad_id)
        return stack_rows([*rows, *[blank] * (batch_size - len(rows))])

    rows = grain.MapDataset.range(len(samples)).map(lambda i: collate_row(samples[i], length, schedule))
    batches = rows.batch(batch_size, batch_fn=filled)
    return read_ahead(batches, 0, len(batches))
