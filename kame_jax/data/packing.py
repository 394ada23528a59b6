"""Several short samples to one row: a plan made once, from lengths alone; the order stays a function of the step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OPEN = 32
"""Rows that are filled at the same time; more of them pack a little tighter but take a little longer to plan."""


class Plan(Sequence[np.ndarray]):
    """Which samples share a row: `plan[i]` is int64 `[samples of row i]`, each sample in exactly one row."""

    def __init__(self, rows: Sequence[Sequence[int]]):
        self._order = np.array([index for row in rows for index in row], np.int64)
        self._offsets = np.cumsum([0, *map(len, rows)])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._order[self._offsets[index] : self._offsets[index + 1]]


def pack(lengths: np.ndarray, length: int, seed: int) -> Plan:
    """Fills rows of `length` with samples in an order drawn from `seed`, each into the row where it leaves least room.

    Args:
        lengths: int `[samples]`, none above `length`.
        length: columns of a row.
        seed: of the order.
    """
    rows: list[list[int]] = []
    left: dict[int, int] = {}
    for index in np.random.default_rng(seed).permutation(len(lengths)).tolist():
        size = int(lengths[index])
        fits = [row for row, room in left.items() if room >= size]
        row = min(fits, key=left.__getitem__, default=-1)
        if row < 0:
            row = len(rows)
            rows.append([])
            left[row] = length
            if len(left) > OPEN:
                del left[min(left, key=left.__getitem__)]
        rows[row].append(index)
        if row in left:
            left[row] -= size
    return Plan(rows)
