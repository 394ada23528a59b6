"""Loading any checkpoint as a model, on one device or sliced onto a mesh.

Each device's part is read from the file into host memory and put there, one array at a time: no host ever holds the
model, and a byte that several of its devices share is read once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from kame_jax.checkpoint.native import NativeWeights, jax_arrays
from kame_jax.codec.mimi import Mimi
from kame_jax.config import MimiConfig, ModelConfig
from kame_jax.errors import InputError
from kame_jax.interop.checkpoint import Checkpoint, open_checkpoint
from kame_jax.interop.safetensors_file import Box
from kame_jax.interop.weights import Weights
from kame_jax.model import tree
from kame_jax.model.lm import LM
from kame_jax.sharding import shardings

HELD_IN: dict[str, np.dtype] = {
    "float8_e4m3fn": np.dtype(ml_dtypes.bfloat16),
    "float8_e5m2": np.dtype(ml_dtypes.bfloat16),
    "float64": np.dtype(np.float32),
}
"""Dtypes of files in which no model computes, and the dtypes that hold them here; computation is in float32."""

log = logging.getLogger(__name__)


def load_checkpoint(
    spec: str | os.PathLike[str], mesh: Mesh | None = None, dtype: Any = None, **options: Any
) -> tuple[ModelConfig, LM]:
    """A language model from a checkpoint of any readable layout.

    Args:
        spec: an Orbax checkpoint of ours, a folder, a safetensors file, or `hf://org/repo[@revision]`.
        mesh: where the weights go, cut by `kame_jax.sharding`; None puts them on the default device.
        dtype: dtype of the weights (conditioners stay float32) and of the computation; None keeps each weight's own
            and computes in the text embedding's, where those are dtypes to compute in (`HELD_IN`).
        **options: as `open_checkpoint` takes them: config, base, lora, oracle.

    Returns:
        The configuration, and the model with its weights.

    Raises:
        InputError: see `open_checkpoint`; or a weight is too large for `dtype`.
    """
    checkpoint = open_checkpoint(spec, **options)
    if not isinstance(checkpoint.config, ModelConfig):
        raise InputError(f"{spec}: this is the codec Mimi, expected a language model")
    for note in checkpoint.notes:
        log.info("%s: %s", checkpoint.name, note)
    return checkpoint.config, build_lm(checkpoint, mesh, dtype)


def load_mimi(
    spec: str | os.PathLike[str], config: MimiConfig | str | os.PathLike[str] | None = None
) -> Mimi:
    """The codec from a safetensors file (its own layout or Hugging Face's), a checkpoint of ours, a folder or `hf://`.

    Always float32, regardless of the file's dtype. The weights of a decoder that the file lacks are NaN.

    Raises:
        InputError: see `open_checkpoint`.
    """
    checkpoint = open_checkpoint(spec, wanted="mimi", config=config)
    if not isinstance(checkpoint.config, MimiConfig):
        raise InputError(f"{spec}: this is a language model, expected the codec Mimi")
    mimi = tree.abstract_mimi(checkpoint.config)
    place = SingleDeviceSharding(jax.devices()[0])
    paths = dict.fromkeys(checkpoint.weights.shapes, place)
    arrays = place_arrays(checkpoint.weights, paths, dict.fromkeys(paths, np.float32))
    for note in checkpoint.notes:
        log.warning("%s: %s", checkpoint.name, note)
    missing = {p: s for p, s in tree.shapes(mimi).items() if p not in arrays}
    return tree.fill(mimi, arrays | {path: jnp.full(shape, jnp.nan) for path, shape in missing.items()})


def build_lm(checkpoint: Checkpoint, mesh: Mesh | None = None, dtype: Any = None) -> LM:
    """The model of an opened checkpoint; arguments as in `load_checkpoint`."""
    weights, config = checkpoint.weights, checkpoint.config
    assert isinstance(config, ModelConfig)
    held = {path: HELD_IN.get(weights.dtype(path).name, weights.dtype(path)) for path in weights.shapes}
    computed = weights.dtype("text_emb.weight")
    kind = jnp.dtype(dtype or (np.float32 if computed.name in HELD_IN else computed))
    model = tree.abstract_lm(config, param_dtype=kind, dtype=kind)
    if dtype is not None:
        held = {path: np.dtype(leaf.dtype) for path, leaf in tree.leaves(model).items()}
    if mesh is None:
        places: dict[str, Sharding] = dict.fromkeys(weights.shapes, SingleDeviceSharding(jax.devices()[0]))
    else:
        places = dict(shardings(model, mesh))
    arrays = place_arrays(weights, places, held)
    if dtype is not None:
        _check_range(checkpoint, arrays)
    return tree.fill(model, arrays)


def _check_range(checkpoint: Checkpoint, arrays: Mapping[str, jax.Array]) -> None:
    """Raises InputError where a shorter dtype has made a weight infinite."""
    for path, array in arrays.items():
        if jnp.finfo(array.dtype).maxexp < jnp.finfo(checkpoint.weights.dtype(path)).maxexp and bool(
            jnp.isinf(array).any()
        ):
            raise InputError(
                f"{checkpoint.name}: {path} has numbers beyond {array.dtype}: choose another dtype"
            )


def place_arrays(
    weights: Weights, places: Mapping[str, Sharding], dtypes: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Every array on the devices its sharding names.

    Args:
        weights: where the arrays are read.
        places: path -> sharding.
        dtypes: path -> dtype to cast to.

    Returns:
        Path -> array.
    """
    if isinstance(weights, NativeWeights):
        return jax_arrays(weights, places, dtypes)
    return {path: _place(weights, path, places[path], dtypes[path]) for path in weights.shapes}


def _place(weights: Weights, path: str, place: Sharding, dtype: Any) -> jax.Array:
    shape = weights.shapes[path]
    regions: dict[Box, None] = {}
    for index in place.addressable_devices_indices_map(shape).values():
        regions[_box(index, shape)] = None
    boxes = list(regions)
    parts = dict(zip(boxes, weights.read(path, boxes, np.dtype(dtype)), strict=True))
    return jax.make_array_from_callback(shape, place, lambda index: parts[_box(index, shape)])


def _box(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Box:
    """A device's slices as (start, stop) pairs."""
    return tuple(s.indices(size)[:2] for s, size in zip(index or (), shape, strict=True))
