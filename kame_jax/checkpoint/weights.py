"""Sets of weights under our names, from any storage, readable whole or in regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import ml_dtypes
import numpy as np

Box = tuple[tuple[int, int], ...]
"""A region of an array: (start, stop) for each dimension."""

Shapes = Mapping[str, tuple[int, ...]]
"""Our paths (`temporal.layers.attn_in.weight`) and the shapes of the arrays there."""


class Weights(Protocol):
    """Arrays by path (`temporal.layers.attn_in.weight`)."""

    @property
    def shapes(self) -> Shapes:
        """Path -> shape."""

    def dtype(self, path: str) -> np.dtype:
        """Dtype of an array as stored."""

    def read(self, path: str, boxes: Sequence[Box], dtype: np.dtype | None = None) -> list[np.ndarray]:
        """Regions of an array, cast to `dtype` unless None; the caller owns what comes back."""


def whole(weights: Weights, path: str, dtype: np.dtype | None = None) -> np.ndarray:
    """One array, all of it."""
    return weights.read(path, [tuple((0, size) for size in weights.shapes[path])], dtype)[0]


class ArrayWeights:
    """Arrays in memory."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = arrays
        self.shapes: Shapes = {path: array.shape for path, array in arrays.items()}

    def dtype(self, path: str) -> np.dtype:
        """See `Weights`."""
        return self.arrays[path].dtype

    def read(self, path: str, boxes: Sequence[Box], dtype: np.dtype | None = None) -> list[np.ndarray]:
        """See `Weights`."""
        array = self.arrays[path]
        parts = [np.array(array[tuple(slice(*extent) for extent in box)]) for box in boxes]
        return [cast(part, dtype or array.dtype) for part in parts]


def cast(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Casts between floating-point dtypes, rounding to nearest.

    bfloat16 to float32 and back, if nothing changed in between, keeps every bit, NaN payloads included.
    """
    if value.dtype == dtype:
        return value
    if value.dtype == ml_dtypes.bfloat16 and dtype == np.float32:
        return (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if value.dtype == np.float32 and dtype == ml_dtypes.bfloat16:
        bits = np.ascontiguousarray(value).view(np.uint32)
        if not np.any(bits & 0xFFFF):
            return (bits >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)
    with np.errstate(over="ignore"):  # infinities are for the caller to detect
        return value.astype(dtype)
