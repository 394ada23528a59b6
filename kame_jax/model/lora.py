"""LoRA adapters folded into the weights they adapt, `W + scaling * B @ A`.

The scaling is absolute, not alpha / rank (moshi-finetune, `LoRALinear`).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from kame_jax.model.lm import LM


def delta(lora_a: jax.Array, lora_b: jax.Array, weight_ndim: int) -> jax.Array:
    """`B @ A` in float32, shaped like the weight.

    Args:
        lora_a: `[*stack, rank, *in_shape]`.
        lora_b: `[*stack, *out_shape, rank]`.
        weight_ndim: dimensions of the weight `[*stack, *out_shape, *in_shape]`, which determines the stack.
    """
    stack = (lora_a.ndim - 1) + (lora_b.ndim - 1) - weight_ndim
    dims = (((lora_b.ndim - 1,), (stack,)), (tuple(range(stack)),) * 2)
    return jax.lax.dot_general(
        lora_b.astype(jnp.float32), lora_a.astype(jnp.float32), dims, precision=jax.lax.Precision.HIGHEST
    )


def merge(model: LM) -> LM:
    """The same model without adapters: each is added to its weight in float32 and rounded once to its dtype.

    Raises:
        ValueError: the model has no adapters.
    """
    lora = model.config.lora
    if lora is None:
        raise ValueError("this model has no LoRA adapters to merge")
    flat = {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model))}
    merged = {}
    for path, value in flat.items():
        if path[-1] in ("lora_a", "lora_b"):
            continue
        low = (*path[:-1], "lora_a")
        if path[-1] == "weight" and low in flat:
            update = delta(flat[low], flat[(*path[:-1], "lora_b")], value.ndim)
            value = (value.astype(jnp.float32) + lora.scaling * update).astype(value.dtype)
        merged[path] = value
    config = dataclasses.replace(model.config, lora=None)
    bare = nnx.eval_shape(
        lambda: LM(config, rngs=nnx.Rngs(0), param_dtype=model.text_emb.weight.dtype, dtype=model.dtype)
    )
    graphdef, state = nnx.split(bare)
    filled = [(path, leaf.replace(merged[path])) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))
