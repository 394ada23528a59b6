"""Moving bytes between foreign tensors and our stacked arrays: whole arrays, or only the regions a host needs.

Nothing here knows a tensor's name; `table.py` says what belongs where, `weights.py` and `safetensors_file.py` read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import ml_dtypes
import numpy as np

from kame_jax.checkpoint.weights import Box, cast
from kame_jax.interop.safetensors_file import BLOCK_BYTES, TensorInfo
from kame_jax.interop.table import Plan, Slot, to_ours, to_theirs

Deviations = dict[str, list[tuple[list[int | None], str]]]
"""Path -> (slice, dtype) for each slice stored in another dtype than its stacked array: what exact export needs."""

_EXACT = (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)


class TensorSource(Protocol):
    """Named tensors that can be read in parts: a file, or a view that computes them (`weights.py`)."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Keys, shapes and dtypes."""

    def read_box(
        self, key: str, view: tuple[int, ...], box: Box, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A region of a tensor seen as an array of shape `view` (see `SafetensorsFile.read_box`)."""


def common_dtype(dtypes: Iterable[np.dtype]) -> np.dtype:
    """The narrowest dtype that holds all of the given floating-point ones exactly."""
    kinds = set(dtypes)
    if len(kinds) == 1:
        return kinds.pop()
    if all(dtype in [np.dtype(d) for d in (*_EXACT, np.float32)] for dtype in kinds):
        return np.dtype(np.float32)
    return np.dtype(np.float64)


def leaf_dtype(plan: Plan, path: str, source: TensorSource) -> np.dtype:
    """The dtype one of our arrays takes from the tensors that fill it."""
    return common_dtype(source.infos[slot.key].dtype for slot in plan.slots[path])


def deviations(plan: Plan, source: TensorSource) -> Deviations:
    """The slices whose own dtype is not their array's."""
    found: Deviations = {}
    for path, slots in plan.slots.items():
        if not slots:
            continue
        dtype = leaf_dtype(plan, path, source)
        own = [(list(s.index), source.infos[s.key].dtype) for s in slots]
        if other := [(index, d.name) for index, d in own if d != dtype]:
            found[path] = other
    return found


def read_regions(
    plan: Plan, path: str, source: TensorSource, boxes: Sequence[Box], dtype: np.dtype | None = None
) -> list[np.ndarray]:
    """Regions of one of our arrays, reading each stored byte once where the regions are close together.

    Args:
        plan: what fills the array.
        path: which array.
        source: where the tensors are.
        boxes: the regions, distinct.
        dtype: what to cast to; None keeps the file's.

    Returns:
        One array for each region.
    """
    if dtype is None and plan.slots[path]:
        dtype = leaf_dtype(plan, path, source)
    buffers = [np.empty([stop - start for start, stop in box], dtype) for box in boxes]
    for slot in plan.slots[path]:
        parts = [
            part for box, buffer in zip(boxes, buffers, strict=True) if (part := _part(slot, box, buffer))
        ]
        if parts:
            _read_parts(slot, source, parts)
    return buffers


Part = tuple[Box, np.ndarray]
"""A region of a slot's view, and where it goes."""


def _part(slot: Slot, box: Box, buffer: np.ndarray) -> Part | None:
    """The part of a region that one tensor fills, or None."""
    where: list[int | slice] = []
    view_box: list[tuple[int, int]] = []
    for axis, (start, stop) in enumerate(box):
        fixed = slot.index[axis] if axis < len(slot.index) else None
        if fixed is None:
            where.append(slice(None))
            view_box.append((start, stop))
        elif start <= fixed < stop:
            where.append(fixed - start)
        else:
            return None
    target = buffer[tuple(where)] if where else buffer
    return tuple(view_box), target


def _read_parts(slot: Slot, source: TensorSource, parts: list[Part]) -> None:
    stored = source.infos[slot.key].dtype
    if slot.order:
        whole = source.read_box(slot.key, slot.view, tuple((0, size) for size in slot.view))
        whole = to_ours(slot.order, whole)
        for box, target in parts:
            target[...] = cast(whole[tuple(slice(*extent) for extent in box)], target.dtype)
        return
    bounds = tuple(
        (min(box[axis][0] for box, _ in parts), max(box[axis][1] for box, _ in parts))
        for axis in range(len(slot.view))
    )
    together = len(parts) > 1 and _volume(bounds) <= 2 * sum(_volume(box) for box, _ in parts)
    for shared, group in [(bounds, parts)] if together else [(box, [(box, target)]) for box, target in parts]:
        box, target = group[0]
        if len(group) == 1 and target.dtype == stored and target.flags.c_contiguous:
            source.read_box(slot.key, slot.view, box, target)
            continue
        for block in blocks(shared, stored.itemsize):
            values = source.read_box(slot.key, slot.view, block)
            for box, target in group:
                _copy_overlap(block, values, box, target)


def _copy_overlap(block: Box, values: np.ndarray, box: Box, target: np.ndarray) -> None:
    """Copies what a read block and a wanted region share."""
    from_block: list[slice] = []
    to_target: list[slice] = []
    for (block_start, block_stop), (start, stop) in zip(block, box, strict=True):
        low, high = max(block_start, start), min(block_stop, stop)
        if low >= high:
            return
        from_block.append(slice(low - block_start, high - block_start))
        to_target.append(slice(low - start, high - start))
    target[tuple(to_target)] = cast(values[tuple(from_block)], target.dtype)


def blocks(box: Box, itemsize: int) -> Iterator[Box]:
    """Cuts a region along its first dimension into pieces of bounded size."""
    if not box:
        yield box
        return
    start, stop = box[0]
    step = max(1, BLOCK_BYTES // max(1, _volume(box[1:]) * itemsize))
    for begin in range(start, stop, step):
        yield ((begin, min(begin + step, stop)), *box[1:])


def _volume(box: Box) -> int:
    return math.prod(stop - start for start, stop in box)


def stored_dtype(slot: Slot, shape: tuple[int, ...], dtype: np.dtype, other: Deviations) -> np.dtype:
    """The dtype a slice had in the file that an array came from; the array's own where it gathers several.

    Args:
        slot: the slice, in any layout.
        shape: the array's shape.
        dtype: the array's dtype.
        other: what `deviations` recorded.
    """
    recorded = other.get(slot.path, ())
    axes = max((len(index) for index, _ in recorded), default=0)
    names = np.full(shape[:axes], dtype.name, object)
    for index, name in recorded:
        names[tuple(slice(None) if i is None else i for i in index)] = name
    found = set(np.ravel(names[slot.at[:axes]]))
    return np.dtype(getattr(ml_dtypes, name := found.pop(), name)) if len(found) == 1 else dtype


def slot_value(slot: Slot, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The foreign tensor of a slot, cut out of our array and cast."""
    value = to_theirs(slot.order, array[slot.at] if slot.index else array)
    return cast(value, dtype).reshape(slot.shape)
