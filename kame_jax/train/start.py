"""The weights a run starts from: random ones, or those of any checkpoint that `interop` reads."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from kame_jax.config import ModelConfig, RunConfig, to_dict
from kame_jax.errors import InputError
from kame_jax.interop import open_checkpoint
from kame_jax.interop.load import build_lm
from kame_jax.train.state import Params, init_params, params_of


def first_params(config: RunConfig, mesh: Mesh) -> tuple[Params, dict[str, Any]]:
    """The weights before the first step, on their devices in float32, and where they came from.

    A checkpoint without an oracle embedding gets a copy of its text embedding where the run has one of its own, as
    kame_finetune does (`models/oracle_embedding_utils.py`).

    Raises:
        InputError: the checkpoint is of another model than the run's.
    """
    wanted, source = config.model.architecture, config.model.init_from
    if source is None:
        return init_params(wanted, config.seed, mesh), {"init": "random", "seed": config.seed}
    lora = "merge" if wanted.lora is None else "keep"
    checkpoint = open_checkpoint(source, lora=lora)
    found = checkpoint.config
    if isinstance(found, ModelConfig) and found.oracle == "none" and wanted.oracle == "separate":
        checkpoint = open_checkpoint(source, lora=lora, oracle="clone")
        found = checkpoint.config
    if not isinstance(found, ModelConfig):
        raise InputError(f"model.init_from: {source} is the codec Mimi, expected a language model")
    if problems := _differences(found, wanted):
        raise InputError(f"model.init_from: {source} is of another model than this run's", problems)
    params = params_of(build_lm(checkpoint, mesh, jnp.float32))
    return params, {"init": str(source)} | checkpoint.provenance


def _differences(found: ModelConfig, wanted: ModelConfig) -> list[str]:
    """What keeps the weights of one architecture from being those of another."""
    if found.oracle == "none" and wanted.oracle == "tie":
        found = dataclasses.replace(found, oracle="tie")
    theirs, ours = to_dict(found), to_dict(wanted)
    return [f"{key}: {theirs[key]}, model.{key} is {ours[key]}" for key in ours if theirs[key] != ours[key]]
