"""Sum conditioning: one learnt vector added to every frame (Hibiki's quality label, for example).

Semantics: kyutai-labs/moshi `conditioners/base.py`, `conditioners/text.py`, `conditioners/tensors.py`.
KAME itself has no condition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kame_jax.config import ConditionerConfig, LoRAConfig
from kame_jax.errors import InputError
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


def condition_values(
    conditioners: Sequence[ConditionerConfig], rows: Sequence[Mapping[str, str | np.ndarray | None]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The input of `LM.condition`, from what a user gives.

    Args:
        conditioners: the model's.
        rows: for each row of the batch, condition -> a word ("lut"), a vector `[dim]` ("tensor"), or None for "not
            given", which has its own learnt vector.

    Returns:
        Condition -> (values, given), NumPy arrays with a row each.

    Raises:
        InputError: everything that does not fit: a missing or unknown condition, a value that is not one of its values.
    """
    known = {config.name: config for config in conditioners}
    problems: list[str] = []
    for row in rows:
        problems += [
            f"condition {name!r} is missing, expected {_expected(known[name])}"
            for name in known
            if name not in row
        ]
        problems += [f"condition {name!r} is unknown" for name in row if name not in known]
    values = {}
    for name, config in known.items():
        try:
            parts = [_row(config, row.get(name)) for row in rows]
        except ValueError as error:
            problems.append(str(error))
            continue
        values[name] = (np.stack([value for value, _ in parts]), np.array([given for _, given in parts]))
    if problems:
        raise InputError(f"{'; '.join(dict.fromkeys(problems))} (the model has {', '.join(known) or 'none'})")
    return values


def _row(config: ConditionerConfig, value: str | np.ndarray | None) -> tuple[np.ndarray, bool]:
    """One row of a condition's values, and whether it is given.

    Raises:
        ValueError: a value of the wrong kind, or one that the condition does not know.
    """
    if config.kind == "lut":
        if not isinstance(value, str | None):
            raise ValueError(f"condition {config.name!r} is {value!r}, expected {_expected(config)}")
        row, given = table_row(config, value)
        return np.asarray(row, np.int32), given
    if value is None:
        return np.zeros(config.dim, np.float32), False
    vector = np.asarray(value)
    if vector.shape != (config.dim,) or vector.dtype.kind not in "iuf" or not np.isfinite(vector).all():
        raise ValueError(f"condition {config.name!r} is not {_expected(config)}")
    return vector.astype(np.float32), True


def _expected(config: ConditionerConfig) -> str:
    if config.kind == "tensor":
        return f"{config.dim} finite numbers"
    return f"one of {', '.join(config.possible_values)}" if config.possible_values else "any text"


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
        raise ValueError(f"condition {config.name!r} is {value!r}, expected {_expected(config)}")
    return config.possible_values.index(value), True
