"""Batches depend on the seed and the step alone, and an epoch shows every sample once."""

from dataclasses import replace

import numpy as np
import pytest

from kame_jax.data.collate import UNDISTURBED
from kame_jax.data.cutting import Sample
from kame_jax.data.events import pack_events
from kame_jax.data.pipeline import eval_batches, longest, read_ahead, train_batches
from kame_jax.errors import InputError
from kame_jax.oracle.schedule import OracleSchedule

SCHEDULE = OracleSchedule(90, 3)
AUGMENT = replace(UNDISTURBED, shift_prob=0.7, skip=(0.0, 0.5), jitter=5)


def sample(number):
    """A sample that says its number in every input."""
    columns = np.full((3, 10 + number % 4), number, np.int32)
    return Sample(
        str(number), columns, columns, pack_events([1, 5], [0.5, 0.5], [0, 1], [[11, 12], [21]], [[], []])
    )


SAMPLES = [sample(i) for i in range(10)]


def batches(seed=0, augment=AUGMENT):
    return train_batches(SAMPLES, SCHEDULE, batch_size=4, length=16, seed=seed, augment=augment)


def same(a, b):
    return all((a[name] == b[name]).all() for name in a)


def test_a_batch_is_a_function_of_seed_and_step():
    first = [batches()[step] for step in range(8)]
    other = batches()
    assert all(same(first[step], other[step]) for step in (6, 0, 3))
    assert not all(same(a, b) for a, b in zip(first, (batches(seed=1)[step] for step in range(8))))


def test_reading_ahead_from_any_step_continues_as_if_never_stopped():
    whole = list(read_ahead(batches(), 0, 9, threads=2))
    assert len(whole) == 9
    rest = list(read_ahead(batches(), 6, 9))
    assert all(same(a, b) for a, b in zip(whole[6:], rest, strict=True))


def test_every_epoch_shows_every_sample_once_in_a_new_order():
    numbers = np.concatenate([batches()[step]["inputs"][:, 0, 0] for step in range(5)])
    assert sorted(numbers[:10]) == list(range(10))
    assert sorted(numbers[10:]) == list(range(10))
    assert numbers[:10].tolist() != numbers[10:].tolist()


def test_augmentation_is_drawn_anew_in_each_epoch():
    rows = {i: set() for i in range(10)}
    for step in range(20):
        batch = batches()[step]
        for number, row in zip(batch["inputs"][:, 0, 0], batch["oracle"]):
            rows[int(number)].add(tuple(row))
    assert min(len(seen) for seen in rows.values()) > 3


def test_the_hint_curriculum_follows_the_step():
    hinted = [Sample("h", s.columns, s.labels, pack_events([1], [0.5], [1], [[11]], [[31]])) for s in SAMPLES]
    augment = replace(UNDISTURBED, hint_only=True, hint_warmup=(2, 3))
    data = train_batches(hinted, SCHEDULE, batch_size=4, length=16, seed=0, augment=augment)
    assert all((data[step]["oracle"][:, 2] == 31).all() for step in range(3))
    assert all((data[step]["oracle"][:, 2] == 11).all() for step in range(3, 6))


def test_rows_have_one_length_whatever_the_sample():
    for step in range(5):
        batch = batches()[step]
        assert {name: value.shape for name, value in batch.items()} == {
            "inputs": (4, 3, 16),
            "labels": (4, 3, 16),
            "oracle": (4, 16),
            "frames": (4,),
        }
        assert all(value.dtype == np.int32 for value in batch.values())
        for row, frames in zip(batch["labels"], batch["frames"]):
            assert (row[:, :frames] >= 0).all()
            assert (row[:, frames:] == -1).all()


def test_evaluation_reads_every_sample_once_undisturbed_and_fills_up():
    seen = list(eval_batches(SAMPLES, SCHEDULE, batch_size=4, length=16))
    assert [b["frames"].tolist() for b in seen[:2]] == [[10, 11, 12, 13]] * 2
    assert seen[2]["frames"].tolist() == [10, 11, 0, 0]
    assert (seen[2]["labels"][2:] == -1).all()
    assert seen[0]["oracle"][0].tolist()[:8] == [3, 90, 11, 12, 3, 90, 21, 3]


def test_lengths_are_checked_before_the_first_batch():
    assert longest(SAMPLES) == 16
    assert longest(SAMPLES, 1) == 13
    with pytest.raises(InputError, match="longest sample has 13 columns, expected at most 12"):
        train_batches(SAMPLES, SCHEDULE, batch_size=2, length=12, seed=0)
    with pytest.raises(InputError, match="no samples"):
        longest([])
