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
from kame_jax.model import LM
from kame_jax.sharding import tree_shardings
from kame_jax.train.optimizer import group_of
from kame_jax.train.state import abstract_model, init_weights, make_quickly


def first_weights(config: RunConfig, mesh: Mesh) -> tuple[nnx.State, dict[str, Any]]:
    """The weights before the first step, on their devices in float32, and where they came from.

    A checkpoint without an oracle embedding gets a copy of its text embedding where the run has a separate one, as
    kame_finetune does (`models/oracle_embedding_utils.py`); one with a depth transformer for its own voice only is
    extended to the user's where the run's `dep_q` is `n_q`; one without adapters gets new ones where the run has LoRA.

    Raises:
        InputError: the checkpoint is of another model than the run's.
    """
    wanted, source = config.model.architecture, config.model.init_from
    if source is None:
        return init_weights(wanted, config.seed, mesh), {"init": "random", "seed": config.seed}
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
    weights = nnx.state(build_lm(checkpoint, mesh, jnp.float32))
    if extend:
        bare = dataclasses.replace(wanted, lora=None) if adapt else wanted
        weights = extended(weights, tree_shardings(nnx.state(abstract_model(bare)), mesh))
    if adapt:
        weights = nnx.merge_state(weights, new_adapters(wanted, config.seed, mesh))
    return weights, {"init": str(source)} | checkpoint.provenance


def new_adapters(config: ModelConfig, seed: int, mesh: Mesh) -> nnx.State:
    """LoRA weights before the first step, made on their devices: they change nothing yet."""

    def adapters(model: LM) -> nnx.State:
        return nnx.state(model, lambda path, _: group_of(path) == "adapters")

    places = tree_shardings(adapters(abstract_model(config)), mesh)
    return make_quickly(lambda: adapters(LM(config, rngs=nnx.Rngs(seed))), places)


def _is_half(found: ModelConfig, wanted: ModelConfig) -> bool:
    """Whether the depth transformer of `wanted` continues where that of `found` ends, with weights for each step."""
    return (
        wanted.dep_q == wanted.n_q == 2 * found.dep_q == found.n_q
        and found.depth is not None
        and found.depth == wanted.depth
        and found.depth.weights_per_step
        and found.depth.multi_linear
        and found.depth.schedule is None
    )


def extended(weights: nnx.State, places: nnx.State) -> nnx.State:
    """The weights of a depth transformer extended to the user's codebooks, from one that stops at its own.

    Each step's weights are copied to the same codebook of the other speaker. The embedding of the last own code, which
    no step read before, starts as that of the first (kame_finetune `models/utils.py`).

    Args:
        weights: of a model with `dep_q` of half of `n_q`. Their buffers are not kept.
        places: where those of the larger model live.
    """
    where = dict(nnx.to_flat_state(places))

    def twice(path: tuple[str, ...], leaf: nnx.Variable) -> nnx.Variable:
        name = ".".join(path)
        if path[0] != "depth" or name.startswith(
            ("depth.text_emb.", "depth.layers.norm", "depth.layers.scale")
        ):
            return leaf
        per_set = name.startswith(("depth.input.", "depth.heads.", "depth.head_norm."))

        def copied(x: jax.Array) -> jax.Array:
            if name.startswith("depth.audio_emb."):
                return jnp.concatenate([x, x[:1], x])
            return jnp.concatenate([x, x], axis=0 if per_set else 1)

        return leaf.replace(jax.jit(copied, out_shardings=where[path].get_value())(leaf.get_value()))

    return nnx.map_state(twice, weights)


def _differences(found: ModelConfig, wanted: ModelConfig) -> list[str]:
    """What keeps the weights of one architecture from being those of another."""
    if found.oracle == "none" and wanted.oracle == "tie":
        found = dataclasses.replace(found, oracle="tie")
    theirs, ours = to_dict(found), to_dict(wanted)
    return [f"{key}: {theirs[key]}, model.{key} is {ours[key]}" for key in ours if theirs[key] != ours[key]]
