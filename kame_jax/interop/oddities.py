"""Values that no trained weight has: tensors of zeros, infinities, NaN. A model with some runs, but is silent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from kame_jax.checkpoint.weights import Box, Shapes, Weights
from kame_jax.interop.weights import FileWeights

MAY_BE_ZERO = re.compile(r".*(bias|lora_[bB](\.weight)?|learnt_padding|_?initialized)")
"""Names of tensors that start as zeros and may still be."""
HEAD = 4096
"""Numbers checked before a whole tensor is."""
SHOWN = 5
"""Names in a note."""


class Watched:
    """Weights that are looked at as they are read whole: `zeros` are the tensors without any other number."""

    def __init__(self, weights: Weights):
        self.weights, self.zeros = weights, list[str]()

    @property
    def shapes(self) -> Shapes:
        """See `Weights`."""
        return self.weights.shapes

    def dtype(self, path: str) -> np.dtype:
        """See `Weights`."""
        return self.weights.dtype(path)

    def read(self, path: str, boxes: Sequence[Box], dtype: np.dtype | None = None) -> list[np.ndarray]:
        """See `Weights`."""
        arrays = self.weights.read(path, boxes, dtype)
        if len(boxes) == 1 and arrays[0].shape == tuple(self.shapes[path]):
            tensors = _tensors(self.weights, path)
            self.zeros += [name for name, at in tensors if _is_zero(name, arrays[0][at])]
        return arrays


def find(weights: Weights) -> list[str]:
    """Notes on the numbers of a model, one tensor at a time."""
    zeros: list[str] = []
    strange: list[str] = []
    for path, shape in weights.shapes.items():
        for name, at in _tensors(weights, path):
            box = tuple((i, i + 1) if isinstance(i, int) else (0, size) for i, size in zip(at, shape))
            [array] = weights.read(path, [(*box, *((0, size) for size in shape[len(at) :]))])
            if _is_zero(name, array):
                zeros.append(name)
            elif not np.isfinite(array).all():
                strange.append(name)
    return [*describe_zeros(zeros), *_note("numbers that are infinite or NaN", strange)]


def describe_zeros(zeros: Sequence[str]) -> list[str]:
    """The note on tensors of zeros, where there are some."""
    return _note("nothing but zeros", zeros)


def _note(what: str, names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what} in {', '.join(names[:SHOWN])}{more}"] if names else []


def _tensors(weights: Weights, path: str) -> Iterator[tuple[str, tuple[int | slice, ...]]]:
    """The tensors of the file that an array comes from, by name, and their places in it; else the array itself."""
    slots = weights.plan.slots[path] if isinstance(weights, FileWeights) else ()
    if slots:
        yield from ((slot.key, slot.at) for slot in slots)
    else:
        yield path, ()


def _is_zero(name: str, array: np.ndarray) -> bool:
    if not array.size or MAY_BE_ZERO.fullmatch(name) or array.reshape(-1)[:HEAD].any():
        return False
    return not array.any()
