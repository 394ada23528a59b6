"""Samples to fixed-length training rows: the oracle's augmentation, drawn from one generator, and padding.

Where tokens land is `oracle.schedule`'s. Semantics: SakanaAI/kame_finetune `utils/data.py` (`DataCollator`), its
random draws in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kame_jax.data.cutting import Sample
from kame_jax.errors import InputError
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.streams import ZERO_ID

Row = dict[str, np.ndarray]
"""`inputs` and `labels` int32 `[rows, length]`, `oracle` int32 `[length]`, `frames` int32 `[]`: real columns. Of packed
samples also `segments` int32 `[length]`: the number of each column's sample, -1 behind the last."""


@dataclass(frozen=True)
class OracleAugment:
    """How the oracle of a sample is disturbed in training. The default leaves it as it was recorded."""

    shift_prob: float = 0.0
    """Probability of moving the whole oracle row, to the left or to the right with equal chances."""
    right_shift: tuple[int, int] = (1, 10)
    """Fewest and most frames to the right (later)."""
    left_shift: tuple[int, int] = (1, 15)
    """Fewest and most frames to the left (earlier: the oracle may then know what was not yet said)."""
    skip_min: float = 0.0
    """Each event but a turn's last is dropped with a probability drawn per sample from [skip_min, skip_max]."""
    skip_max: float = 0.0
    jitter: int = 0
    """Each event is moved later by 0 to this many frames."""
    hint_only: bool = False
    """Only the true reply is ever shown; events without one, or that are not to show it, are dropped."""
    hint_warmup: tuple[int, int] | None = None
    """With `hint_only`: always up to the first step, never from the second on, linearly rarer between."""
    causal: bool = False
    """A row that is moved is moved to the right: never earlier than the words it is based on."""
    start_first: bool = False
    """The first column of a dialogue is a start of the oracle, as in the reference's forward pass; else it is idle."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} {value}, expected 0 to 1"
            for name, value in (
                ("shift_prob", self.shift_prob),
                ("skip_min", self.skip_min),
                ("skip_max", self.skip_max),
            )
            if not 0 <= value <= 1
        ]
        problems += [
            f"{name} {value}, expected (fewest, most) with 0 <= fewest <= most"
            for name, value in (("right_shift", self.right_shift), ("left_shift", self.left_shift))
            if not 0 <= value[0] <= value[1]
        ]
        if self.jitter < 0:
            problems.append(f"jitter {self.jitter}, expected >= 0")
        if self.hint_warmup and self.hint_warmup[0] > self.hint_warmup[1]:
            problems.append(f"hint_warmup {self.hint_warmup}, expected (first step, last step)")
        if problems:
            raise InputError("oracle augmentation", problems)


REFERENCE = OracleAugment(shift_prob=1.0, skip_min=0.1, skip_max=0.7)
"""kame_finetune's defaults, to be used with the schedule's tail "keep"."""


def oracle_row(
    sample: Sample,
    schedule: OracleSchedule,
    augment: OracleAugment = OracleAugment(),
    rng: np.random.Generator | None = None,
    step: int = 0,
) -> np.ndarray:
    """The oracle beside the columns of a sample: int32 `[n]`.

    Answers that begin in the sample's lead are laid out there, and what of them reaches the sample is read.

    Args:
        sample: its events are laid out.
        schedule: where their tokens land.
        augment: what is disturbed.
        rng: the generator; needed as soon as something is disturbed.
        step: of the optimizer, for `hint_warmup`.
    """
    rng = rng or np.random.default_rng(0)
    events, length = sample.events, sample.columns.shape[1]
    skip = 0.0
    if augment.skip_min > 0 or augment.skip_max > 0:
        skip = float(
            rng.uniform(min(augment.skip_min, augment.skip_max), max(augment.skip_min, augment.skip_max))
        )
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


def _hint_only(augment: OracleAugment, rng: np.random.Generator, step: int) -> bool:
    if not augment.hint_only or augment.hint_warmup is None:
        return augment.hint_only
    start, end = augment.hint_warmup
    if step <= start:
        return True
    if step >= end:
        return False
    return bool(rng.random() < 1.0 - (step - start) / (end - start))


def _shifted(row: np.ndarray, pad_id: int, augment: OracleAugment, rng: np.random.Generator) -> np.ndarray:
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
    augment: OracleAugment = OracleAugment(),
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
    augment: OracleAugment = OracleAugment(),
    rng: np.random.Generator | None = None,
    step: int = 0,
) -> Row:
    """Several samples as one row, one behind the other, with their segments; arguments as in `collate_row`.

    Each has its own initial column and delays. A sample's first column is no label: nothing is learnt over a seam.

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
    """A row without a real column: it adds nothing to a loss."""
    return {
        "inputs": np.full((rows, length), ZERO_ID, np.int32),
        "labels": np.full((rows, length), ZERO_ID, np.int32),
        "oracle": np.full(length, pad_id, np.int32),
        "frames": np.zeros((), np.int32),
    }


def stack_rows(rows: Sequence[Row]) -> Row:
    """A batch: every array gets a leading dimension."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
