"""Samples to fixed-length training rows: the oracle's augmentation, drawn from one generator, and padding.

Where tokens land is `oracle.schedule`'s. Semantics: SakanaAI/kame_finetune `utils/data.py` (`DataCollator`), its
random draws in its order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kame_jax.config import OracleConfig
from kame_jax.data.cutting import Sample
from kame_jax.errors import InputError
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.streams import ZERO_ID

Row = dict[str, np.ndarray]
"""`inputs` and `labels` int32 `[rows, length]`, `oracle` int32 `[length]`, `frames` int32 `[]`: real columns. Of packed
samples also `segments` int32 `[length]`: the number of each column's sample, -1 after the last."""


UNDISTURBED = OracleConfig(shift_prob=0.0, skip=(0.0, 0.0), causal=False)
"""The oracle of a sample as it was recorded."""


def oracle_row(
    sample: Sample,
    schedule: OracleSchedule,
    augment: OracleConfig = UNDISTURBED,
    rng: np.random.Generator | None = None,
    step: int = 0,
) -> np.ndarray:
    """The oracle along the columns of a sample: int32 `[n]`.

    Answers that begin in the sample's lead are laid out there; the part that reaches the sample is read.

    Args:
        sample: its events are laid out.
        schedule: where their tokens land.
        augment: what is disturbed; its `use` and `tail` are applied elsewhere.
        rng: the generator; needed if anything is disturbed.
        step: of the optimizer, for `hint_warmup`.
    """
    rng = rng or np.random.default_rng(0)
    events, length = sample.events, sample.columns.shape[1]
    skip = 0.0
    if augment.skip[1] > 0:
        skip = float(rng.uniform(*augment.skip))
    order = np.argsort(events.frame_pos, kind="stable")
    hint_only = _hint_only(augment, rng, step)
    positions: list[int] = []
    answers: list[list[int]] = []
    for i in order:
        position = int(events.frame_pos[i])
        if not -sample.lead <= position < length:
            continue
        if not events.protected(i) and skip > 0 and float(rng.random()) < skip:
            continue
        if augment.jitter > 0:
            position += int(rng.integers(0, augment.jitter + 1))
            if position >= length:
                continue
        if hint_only and events.use_hint[i] == 0:
            continue
        answer = events.hint(i) if hint_only or events.shows_hint(i) else events.prediction(i)
        if answer.size:
            positions.append(position + sample.lead)
            answers.append(answer.tolist())
    row = schedule.row(positions, answers, sample.lead + length)
    row = _shifted(row, schedule.pad_id, augment, rng)[sample.lead :]
    if augment.start_first and sample.columns[0, 0] == schedule.start_id:
        row[0] = schedule.start_id
    return row


def _hint_only(augment: OracleConfig, rng: np.random.Generator, step: int) -> bool:
    if not augment.hint_only or augment.hint_warmup is None:
        return augment.hint_only
    start, end = augment.hint_warmup
    if step <= start:
        return True
    if step >= end:
        return False
    return bool(rng.random() < 1.0 - (step - start) / (end - start))


def _shifted(row: np.ndarray, pad_id: int, augment: OracleConfig, rng: np.random.Generator) -> np.ndarray:
    length = len(row)
    if augment.shift_prob <= 0 or rng.random() >= augment.shift_prob or length <= 1:
        return row
    right = bool(rng.integers(0, 2)) or augment.causal
    low, high = augment.right_shift if right else augment.left_shift
    amount = max(1, min(int(rng.integers(low, high + 1)), length - 1))
    shifted = np.full_like(row, pad_id)
    if right:
        shifted[amount:] = row[:-amount]
    else:
        shifted[: length - amount] = row[amount:]
    return shifted


def collate_row(
    sample: Sample,
    length: int,
    schedule: OracleSchedule,
    augment: OracleConfig = UNDISTURBED,
    rng: np.random.Generator | None = None,
    step: int = 0,
) -> Row:
    """One sample as a row of fixed length: inputs and labels filled with -1, the oracle with its padding.

    Raises:
        InputError: the sample is longer than `length`.
    """
    row = pack_row([sample], length, schedule, augment, rng, step)
    del row["segments"]
    return row


def pack_row(
    samples: Sequence[Sample],
    length: int,
    schedule: OracleSchedule,
    augment: OracleConfig = UNDISTURBED,
    rng: np.random.Generator | None = None,
    step: int = 0,
) -> Row:
    """Several samples as one row, one after the other, with their segments; arguments as in `collate_row`.

    Each has its own initial column and delays. A sample's first column is not a label: nothing is learnt across a seam.

    Raises:
        InputError: together they are longer than `length`.
    """
    row = empty_row(samples[0].columns.shape[0], length, schedule.pad_id)
    row["segments"] = np.full(length, -1, np.int32)
    at = 0
    for number, sample in enumerate(samples):
        count = sample.columns.shape[1]
        if at + count > length:
            raise InputError(f"sample {sample.id} has {count} columns, expected at most {length - at}")
        row["inputs"][:, at : at + count] = sample.columns
        row["labels"][:, at : at + count] = sample.labels
        if at:
            row["labels"][:, at] = ZERO_ID
        row["segments"][at : at + count] = number
        row["oracle"][at : at + count] = oracle_row(sample, schedule, augment, rng, step)
        at += count
    row["frames"][...] = at
    return row


def empty_row(rows: int, length: int, pad_id: int) -> Row:
    """A row without real columns: it adds nothing to a loss."""
    return {
        "inputs": np.full((rows, length), ZERO_ID, np.int32),
        "labels": np.full((rows, length), ZERO_ID, np.int32),
        "oracle": np.full(length, pad_id, np.int32),
        "frames": np.zeros((), np.int32),
    }


def stack_rows(rows: Sequence[Row]) -> Row:
    """A batch: every array gets a leading dimension."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
