"""Batches for training and evaluation, each a pure function of the seed and the step.

A run that starts again at step s reads the same batches, augmentation included, as one that never stopped: nothing
about the position needs saving. Reading ahead is grain's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from kame_jax.data.collate import OracleAugment, Row, collate_row, empty_row, stack_rows
from kame_jax.data.samples import Sample
from kame_jax.errors import InputError
from kame_jax.oracle.schedule import OracleSchedule


def longest(samples: Sequence[Sample], multiple: int = 8) -> int:
    """Columns of the longest sample, rounded up to a multiple: a length that fits them all.

    Raises:
        InputError: there is no sample.
    """
    if not samples:
        raise InputError("no samples to train on or to evaluate, expected at least one")
    return -(-max(s.columns.shape[1] for s in samples) // multiple) * multiple


def train_batches(
    samples: Sequence[Sample],
    schedule: OracleSchedule,
    *,
    batch_size: int,
    length: int,
    seed: int,
    augment: OracleAugment = OracleAugment(),
) -> grain.MapDataset[Row]:
    """An endless data set of batches; `batches[step]` is the batch of that step.

    Every epoch is a new shuffle; a batch may span two epochs, so none is ever short. What is drawn for a row comes
    from (seed, its place among all rows).

    Args:
        samples: all of them.
        schedule: where oracle tokens land.
        batch_size: rows.
        length: columns of every row, at least those of the longest sample.
        seed: of the order and of the augmentation.
        augment: of the oracle.

    Raises:
        InputError: no samples, or one longer than `length`.
    """
    if longest(samples, 1) > length:
        raise InputError(f"the longest sample has {longest(samples, 1)} columns, expected at most {length}")

    def row(place: int, sample: Sample) -> Row:
        rng = np.random.default_rng((seed, place))
        return collate_row(sample, length, schedule, augment, rng, step=place // batch_size)

    rows = grain.MapDataset.source(list(samples)).seed(seed).shuffle().repeat().map_with_index(row)
    return rows.batch(batch_size, batch_fn=stack_rows)


def read_ahead(batches: grain.MapDataset[Row], start: int, stop: int, *, threads: int = 1) -> Iterator[Row]:
    """The batches of steps `start` to `stop - 1`, prepared in the background."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, 2))
    return iter(batches[start:stop].to_iter_dataset(options))


def eval_batches(
    samples: Sequence[Sample], schedule: OracleSchedule, *, batch_size: int, length: int
) -> Iterator[Row]:
    """Every sample once, in order, undisturbed; the last batch is filled up with empty rows."""
    rows = [collate_row(sample, length, schedule) for sample in samples]
    for at in range(0, len(rows), batch_size):
        part = rows[at : at + batch_size]
        blank = empty_row(part[0]["inputs"].shape[0], length, schedule.pad_id)
        yield stack_rows(part + [blank] * (batch_size - len(part)))
