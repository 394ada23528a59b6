"""Weights in foreign files under our names, and models derived from others: merged adapters, oracle tables.

Converting, loading onto a mesh and exporting all go through `checkpoint.weights.Weights`, so each derivation (merging
adapters, giving a Moshi an oracle table, folding one away) is written once and costs one array at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kame_jax.checkpoint.weights import Box, Shapes, Weights, cast
from kame_jax.errors import InputError
from kame_jax.interop.assemble import TensorSource, leaf_dtype, read_regions
from kame_jax.interop.safetensors_file import BLOCK_BYTES
from kame_jax.interop.table import Plan

TEXT, ORACLE = "text_emb.", "oracle_emb."


class FileWeights:
    """The tensors of a file, as a plan ties them to our arrays."""

    def __init__(self, plan: Plan, source: TensorSource):
        self.plan, self.source = plan, source
        self.shapes: Shapes = plan.shapes

    def dtype(self, path: str) -> np.dtype:
        """See `Weights`."""
        return leaf_dtype(self.plan, path, self.source) if self.plan.slots[path] else np.dtype(np.float32)

    def read(self, path: str, boxes: Sequence[Box], dtype: np.dtype | None = None) -> list[np.ndarray]:
        """See `Weights`."""
        return read_regions(self.plan, path, self.source, boxes, dtype or self.dtype(path))


class MergedLoRA:
    """Weights with adapters added, `W + scaling * B @ A`, computed in float32 and rounded once to the dtype of W.

    The scaling is absolute, not alpha / rank (moshi-finetune, `LoRALinear`).
    """

    def __init__(self, weights: Weights, scaling: float):
        self.weights, self.scaling = weights, scaling
        self.shapes: Shapes = {
            p: s for p, s in weights.shapes.items() if not p.endswith((".lora_a", ".lora_b"))
        }

    def dtype(self, path: str) -> np.dtype:
        """See `Weights`."""
        return self.weights.dtype(path)

    def read(self, path: str, boxes: Sequence[Box], dtype: np.dtype | None = None) -> list[np.ndarray]:
        """See `Weights`."""
        stem = path.removesuffix("weight")
        if f"{stem}lora_a" not in self.weights.shapes or not path.endswith(".weight"):
            return self.weights.read(path, boxes, dtype)
        return [self._merged(path, stem, box, dtype) for box in boxes]

    def _merged(self, path: str, stem: str, box: Box, dtype: np.dtype | None) -> np.ndarray:
        shapes = self.weights.shapes
        a_shape, b_shape = shapes[f"{stem}lora_a"], shapes[f"{stem}lora_b"]
        stack = len(a_shape) + len(b_shape) - 2 - len(box)
        rank = ((0, b_shape[-1]),)
        a_box, b_box = (*box[:stack], *rank, *box[len(b_shape) - 1 :]), (*box[: len(b_shape) - 1], *rank)
        float32 = np.dtype(np.float32)
        low = self.weights.read(f"{stem}lora_a", [a_box], float32)[0]
        high = self.weights.read(f"{stem}lora_b", [b_box], float32)[0]
        merged = self.weights.read(path, [box])[0]
        for index in np.ndindex(merged.shape[:stack]):
            a = low[index].reshape(rank[0][1], -1)
            b = high[index].reshape(-1, rank[0][1])
            w = merged[index].reshape(b.shape[0], a.shape[1])
            rows = max(1, BLOCK_BYTES // max(1, 4 * a.shape[1]))
            for start in range(0, b.shape[0], rows):
                part = slice(start, start + rows)
                w[part] = (cast(w[part], float32) + self.scaling * (b[part] @ a)).astype(w.dtype)
        return cast(merged, dtype or merged.dtype)


class WithOracle:
    """A Moshi's weights with a separate oracle table.

    `clone` copies the text table, as the reference's loader does: an idle oracle then adds the padding row to every
    frame. `identity` also zeroes the rows of padding and of the initial token, so that without an oracle the model is
    the Moshi it came from.

    Raises:
        InputError: the weights have an oracle table already, or `identity` is impossible.
    """

    def __init__(self, weights: Weights, init: str, padding_id: int, initial_id: int):
        if any(path.startswith(ORACLE) for path in weights.shapes):
            raise InputError("the checkpoint has an oracle embedding already: leave out the oracle option")
        if init == "identity" and f"{TEXT}norm.scale" in weights.shapes:
            raise InputError("no identity oracle under a normalised text embedding (norm_emb): choose clone")
        self.weights = weights
        self.zero_rows = (padding_id, initial_id) if init == "identity" else ()
        copies = {ORACLE + p.removeprefix(TEXT): s for p, s in weights.shapes.items() if p.startswith(TEXT)}
        self.shapes: Shapes = {**weights.shapes, **copies}

    def dtype(self, path: str) -> np.dtype:
        """See `Weights`."""
        return self.weights.dtype(path.replace(ORACLE, TEXT, 1) if path.startswith(ORACLE) else path)

    def read(self, path: str, boxes: Sequence[Box], dtype: np.dtype | None = None) -> list[np.ndarray]:
        """See `Weights`."""
        if not path.startswith(ORACLE):
            return self.weights.read(path, boxes, dtype)
        arrays = self.weights.read(path.replace(ORACLE, TEXT, 1), boxes, dtype)
        if path == f"{ORACLE}weight":
            for box, array in zip(boxes, arrays, strict=True):
                for row in self.zero_rows:
                    if box[0][0] <= row < box[0][1]:
                        array[row - box[0][0]] = 0
        return arrays


class FoldedOracle:
    """A KAME's weights as a Moshi's: the oracle's padding row added to every row of the text table.

    Equal to the model with an idle oracle for every text id of at least 0 (a -1 gets no row, so it misses it).
    With tied embeddings the padding row is the text table's own.

    Raises:
        InputError: the model's text embedding is more than a table, so no row holds the oracle's share.
    """

    def __init__(self, weights: Weights, padding_id: int):
        extra = [p for p in weights.shapes if p.startswith(TEXT) and p != f"{TEXT}weight"]
        if extra:
            raise InputError(
                f"the oracle cannot be folded into a text embedding with {', '.join(sorted(extra))}"
            )
        self.weights, self.padding_id = weights, padding_id
        self.shapes: Shapes = {p: s for p, s in weights.shapes.items() if not p.startswith(ORACLE)}

    def dtype(self, path: str) -> np.dtype:
        """See `Weights`."""
        return self.weights.dtype(path)

    def read(self, path: str, boxes: Sequence[Box], dtype: np.dtype | None = None) -> list[np.ndarray]:
        """See `Weights`."""
        if path != f"{TEXT}weight":
            return self.weights.read(path, boxes, dtype)
        table = f"{ORACLE}weight" if f"{ORACLE}weight" in self.weights.shapes else path
        width = self.shapes[path][1]
        row = self.weights.read(table, [((self.padding_id, self.padding_id + 1), (0, width))])[0].astype(
            np.float32
        )
        own = self.weights.read(path, boxes)
        kind = dtype or self.dtype(path)
        return [
            (a.astype(np.float32) + row[:, slice(*box[1])]).astype(kind)
            for a, box in zip(own, boxes, strict=True)
        ]
