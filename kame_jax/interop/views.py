"""Files of tensors seen as others: several as one, int8 as floating point, adapters on all linear layers.

Each is a `TensorSource`: nothing is computed before a region is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kame_jax.checkpoint.weights import Box
from kame_jax.interop.assemble import TensorSource
from kame_jax.interop.safetensors_file import TensorInfo
from kame_jax.interop.table import Slot


class Dequantized:
    """A file whose linear layers are int8 with a scale per row (bitsandbytes), seen as floating-point tensors.

    `W = int8 * scb / 127`, computed in float32 and rounded once to `dtype` (kyutai-labs/moshi `utils/quantize.py`).
    """

    def __init__(self, source: TensorSource, dtype: np.dtype):
        self.source = source
        self.scales = {key.removesuffix("_scb"): key for key in source.infos if key.endswith("_scb")}
        self.infos = {
            key: info._replace(dtype=dtype) if key in self.scales else info
            for key, info in source.infos.items()
            if not key.endswith("_scb")
        }

    def read_box(
        self, key: str, view: tuple[int, ...], box: Box, out: np.ndarray | None = None
    ) -> np.ndarray:
        """See `TensorSource`."""
        if key not in self.scales:
            return self.source.read_box(key, view, box, out)
        rows = 1
        while np.prod(view[:rows]) < self.infos[key].shape[0]:
            rows += 1
        scale_box = tuple(box[:rows])
        scale = self.source.read_box(self.scales[key], view[:rows], scale_box).astype(np.float32)
        scale = scale.reshape(scale.shape + (1,) * (len(view) - rows))
        value = self.source.read_box(key, view, box).astype(np.float32) * scale / np.float32(127)
        value = value.astype(self.infos[key].dtype)
        if out is None:
            return value
        out[...] = value
        return out


class Union:
    """Several files seen as one; if several have a key, the last wins."""

    def __init__(self, sources: Sequence[TensorSource]):
        self.owner = {key: source for source in sources for key in source.infos}
        self.infos = {key: source.infos[key] for key, source in self.owner.items()}

    def read_box(
        self, key: str, view: tuple[int, ...], box: Box, out: np.ndarray | None = None
    ) -> np.ndarray:
        """See `TensorSource`."""
        return self.owner[key].read_box(key, view, box, out)


class FilledAdapters:
    """A file with adapters on some linear layers, or of several ranks, seen as one with adapters of one rank on all.

    Zero padding adds nothing to a weight. `note` says how much is padded; empty if nothing is.

    Args:
        source: the file.
        slots: the adapters of every linear layer, by key, in the file's spelling.
    """

    def __init__(self, source: TensorSource, slots: Mapping[str, Slot]):
        self.source = source
        self.slots: dict[str, Slot] = {}
        self.ranks: dict[str, int] = {}
        stems = [key.removesuffix(_B) for key in slots if key.endswith(_B)]
        for a, b in ((stem + _A, stem + _B) for stem in stems):
            rank = slots[b].shape[1]
            ranks = {_rank(source.infos.get(key), slots[key], rank, key) for key in (a, b)}
            if len(ranks) == 1 and (found := ranks.pop()) is not None and found < rank:
                self.slots |= {a: slots[a], b: slots[b]}
                self.ranks |= {a: found, b: found}
        given = next(info.dtype for key, info in source.infos.items() if key.endswith(_B))
        dtypes = {key: source.infos[key].dtype if key in source.infos else given for key in self.slots}
        filled = {key: TensorInfo(slot.shape, dtypes[key]) for key, slot in self.slots.items()}
        self.infos = {**source.infos, **filled}
        self.note = ""
        if self.slots:
            layers, there = len(stems), sum(key.endswith(_B) for key in source.infos)
            given_ranks = sorted({info.shape[-1] for key, info in source.infos.items() if key.endswith(_B)})
            self.note = (
                f"adapters on {there} of {layers} linear layers, of rank {', '.join(map(str, given_ranks))}: "
                "padded with zeros, which change nothing"
            )

    def read_box(
        self, key: str, view: tuple[int, ...], box: Box, out: np.ndarray | None = None
    ) -> np.ndarray:
        """See `TensorSource`."""
        if key not in self.slots:
            return self.source.read_box(key, view, box, out)
        whole = np.zeros(view, self.infos[key].dtype)
        if key in self.source.infos:
            axis = _rank_axis(key, view, self.slots[key].shape)
            stored = [*view[:axis], self.ranks[key], *view[axis + 1 :]]
            extent = tuple((0, size) for size in stored)
            whole[tuple(slice(size) for size in stored)] = self.source.read_box(key, tuple(stored), extent)
        part = whole[tuple(slice(*extent) for extent in box)]
        if out is None:
            return part
        out[...] = part
        return out


_A, _B = ".lora_A.weight", ".lora_B.weight"


def _rank(info: TensorInfo | None, slot: Slot, most: int, key: str) -> int | None:
    """The rank of half an adapter, 0 where it is missing; None where it does not belong to the layer.

    The A of a fused layer has the rows of all weight sets in order.
    """
    if info is None:
        return 0
    if len(info.shape) != 2:
        return None
    if key.endswith(_B):
        return info.shape[1] if info.shape[0] == slot.shape[0] else None
    sets = slot.shape[0] // most
    return info.shape[0] // sets if info.shape[1] == slot.shape[1] and info.shape[0] % sets == 0 else None


def _rank_axis(key: str, view: Sequence[int], shape: Sequence[int]) -> int:
    """The dimension of a view that is an adapter's rank: the last of B, and of A the last of its rows."""
    if key.endswith(_B):
        return len(view) - 1
    return next(axis for axis in range(len(view)) if math.prod(view[: axis + 1]) == shape[0])
