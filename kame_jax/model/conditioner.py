"""Sum conditioning: one learnt vector added to every frame (Hibiki's quality label, for example).

Semantics: kyutai-labs/moshi `conditioners/base.py`, `conditioners/text.py`, `conditioners/tensors.py`.
KAME itself has no condition.
"""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
from flax import nnx

from kame_jax.config import ConditionerConfig, LoRAConfig
from kame_jax.model.layers import Linear, normal, param


class Table(nnx.Module):
    """The rows a "lut" condition chooses from; the last one stands for "not given"."""

    def __init__(self, rngs: nnx.Rngs, entries: int, dim: int):
        self.weight = param(rngs, (entries, dim), ("vocab", "condition"), normal(1.0))


class Conditioner(nnx.Module):
    """Turns a table row ("lut") or a given vector ("tensor") into a condition. Always float32."""

    def __init__(self, rngs: nnx.Rngs, config: ConditionerConfig, dim: int, lora: LoRAConfig | None = None):
        self.config = config
        self.embed = Table(rngs, config.num_bins + 1, config.dim) if config.kind == "lut" else None
        self.output_proj = Linear(rngs, (dim,), (config.dim,), axes=("embed", "condition"), lora=lora)
        self.learnt_padding = param(rngs, (dim,), ("embed",), normal(0.2))

    def __call__(self, value: jax.Array, given: jax.Array) -> jax.Array:
        """The condition vector.

        Args:
            value: int32 `[batch]` table rows ("lut", see `table_row`), or float32 `[batch, config.dim]` ("tensor").
            given: bool `[batch]`; where false, the learnt padding is used.

        Returns:
            float32 `[batch, dim]`.
        """
        x = value.astype(jnp.float32) if self.embed is None else self.embed.weight[...][value]
        return jnp.where(given[:, None], self.output_proj(x), self.learnt_padding[...])


def table_row(config: ConditionerConfig, value: str | None) -> tuple[int, bool]:
    """Row of a "lut" condition for `value`, and whether it is given (None is the row after the last one).

    Raises:
        ValueError: `value` is not among the condition's possible values.
    """
    if value is None:
        return config.num_bins, False
    if not config.possible_values:
        return int(hashlib.sha256(value.encode()).hexdigest(), 16) % config.num_bins, True
    if value not in config.possible_values:
        raise ValueError(
            f"condition {config.name!r} is {value!r}, expected one of {', '.join(config.possible_values)}"
        )
    return config.possible_values.index(value), True
