"""Reads the golden files for the tests: checkpoints through the interop, outputs as NumPy arrays."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file

from kame_jax.interop.lm_tables import written
from kame_jax.interop.load import load_checkpoint
from kame_jax.interop.table import expand
from kame_jax.model import LM, tree
from kame_jax.model.conditioner import condition_values

LM_FILES = Path(__file__).parent / "lm"

QUICK = {"xla_backend_optimization_level": 0}
"""`jax.jit(..., compiler_options=QUICK)` compiles in half the time; these models are too small to run slowly."""

CONDITIONS = {
    "dev_2b": [{"description": "good", "speaker": "someone"}, {"description": "bad", "speaker": None}],
    "lora": [{"description": "calm"}, {"description": None}],
}
"""Conditions of each row of the batch, as `make_lm.py` gives them."""


@functools.cache
def model(case: str) -> LM:
    """The checkpoint of a case, adapters kept."""
    return load_checkpoint(LM_FILES / case, lora="keep")[1]


@functools.cache
def outputs(case: str, name: str) -> dict[str, np.ndarray]:
    """A file of reference outputs."""
    return load_file(LM_FILES / case / f"{name}.safetensors")


def condition(case: str) -> jax.Array | None:
    """The condition vectors `[batch, dim]` that the reference's outputs of a case were made with."""
    rows = CONDITIONS.get(case)
    if case == "norms":
        rows = [{"voice": outputs("norms", "forward")["voice"][0]}, {"voice": None}]
    lm = model(case)
    return None if rows is None else lm.condition(condition_values(lm.config.conditioners, rows))


def reference_names(module: LM) -> dict[str, np.ndarray]:
    """Every array of a model-shaped pytree (weights or gradients) under the reference's parameter names."""
    arrays = tree.leaves(module)
    slots = expand(written(module.config, "kame"), {path: a.shape for path, a in arrays.items()})
    return {key: np.asarray(arrays[slot.path])[slot.at].reshape(slot.shape) for key, slot in slots.items()}


def distance(ours: jax.Array | np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest magnitude of `theirs`; infinite where shapes or NaN cells differ."""
    ours = np.asarray(ours, np.float64)
    if ours.shape != theirs.shape or not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        return np.inf
    scale = np.nanmax(np.abs(theirs))
    return float(np.nanmax(np.abs(ours - theirs)) / (scale or 1.0))
