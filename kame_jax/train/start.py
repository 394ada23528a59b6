"""The weights a run starts from: random ones, or those of any checkpoint that `interop` reads."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from kame_jax.config import ModelConfig, RunConfig, to_dict
from kame_jax.errors import InputError
from kame_jax.interop import open_checkpoint
from kame_jax.interop.load import build_lm
from kame_jax.model import LM, tree
from kame_jax.train.optimizer import GROUPS
from kame_jax.train.state import (
    Frozen,
    Params,
    abstract_model,
    init_params,
    joined,
    make_quickly,
    param_shardings,
    params_of,
)


def first_params(config: RunConfig, mesh: Mesh) -> tuple[Params, dict[str, Any]]:
    """The weights before the first step, on their devices in float32, and where they came from.

    A checkpoint without an oracle embedding gets a copy of its text embedding where the run has one of its own, as
    kame_finetune does (`models/oracle_embedding_utils.py`); one whose depth transformer stops at its own voice goes on
    to the user's where the run's `dep_q` is `n_q`; one without adapters gets new ones where the run has LoRA.

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
    extend, adapt = _is_half(found, wanted), found.lora is None and wanted.lora is not None
    if extend:
        found = dataclasses.replace(found, dep_q=wanted.dep_q)
    if adapt:
        found = dataclasses.replace(found, lora=wanted.lora)
    if problems := _differences(found, wanted):
        raise InputError(f"model.init_from: {source} is of another model than this run's", problems)
    params = params_of(build_lm(checkpoint, mesh, jnp.float32))
    if extend:
        bare = dataclasses.replace(wanted, lora=None) if adapt else wanted
        params = extended(params, param_shardings(abstract_model(bare), mesh))
    if adapt:
        params = joined(params, new_adapters(wanted, config.seed, mesh))
    return params, {"init": str(source)} | checkpoint.provenance


def new_adapters(config: ModelConfig, seed: int, mesh: Mesh) -> Params:
    """LoRA weights before the first step, made where they live: they change nothing yet."""
    frozen = Frozen(frozenset(GROUPS) - {"adapters"})
    places = frozen.split(param_shardings(abstract_model(config), mesh))[0]
    return make_quickly(lambda: frozen.split(params_of(LM(config, rngs=nnx.Rngs(seed))))[0], places)


def _is_half(found: ModelConfig, wanted: ModelConfig) -> bool:
    """Whether the depth transformer of `wanted` goes on where that of `found` ends, with a set of weights a step."""
    return (
        wanted.dep_q == wanted.n_q == 2 * found.dep_q == found.n_q
        and found.depth is not None
        and found.depth == wanted.depth
        and found.depth.weights_per_step
        and found.depth.multi_linear
        and found.depth.schedule is None
    )


def extended(params: Params, places: Params) -> Params:
    """The weights of a depth transformer that goes on to the user's codebooks, from one that stops at its own.

    Each step's weights are copied to the same codebook of the other speaker. The embedding of the last own code, which
    no step read before, starts as that of the first (kame_finetune `models/utils.py`).

    Args:
        params: of a model with `dep_q` of half of `n_q`. Their buffers are not kept.
        places: where those of the larger model live.
    """

    def twice(path: str, leaf: jax.Array) -> jax.Array:
        if path.startswith("depth.audio_emb."):
            return jnp.concatenate([leaf, leaf[:1], leaf])
        per_set = path.startswith(("depth.input.", "depth.heads.", "depth.head_norm."))
        axis = 0 if per_set else 1
        return jnp.concatenate([leaf, leaf], axis=axis)

    flat, where = tree.flatten(params), tree.flatten(places)
    for path in flat:
        shared = path.startswith(("depth.text_emb.", "depth.layers.norm", "depth.layers.scale"))
        if path.startswith("depth.") and not shared:
            flat[path] = jax.jit(twice, static_argnums=0, out_shardings=where[path])(path, flat[path])
    return tree.nest(flat)


def _differences(found: ModelConfig, wanted: ModelConfig) -> list[str]:
    """What keeps the weights of one architecture from being those of another."""
    if found.oracle == "none" and wanted.oracle == "tie":
        found = dataclasses.replace(found, oracle="tie")
    theirs, ours = to_dict(found), to_dict(wanted)
    return [f"{key}: {theirs[key]}, model.{key} is {ours[key]}" for key in ours if theirs[key] != ours[key]]
