"""AdamW in groups: which weights learn at which rate, which are frozen, and how the rates change over the steps.

Semantics: SakanaAI/kame_finetune `finetune.py` (its two parameter groups) with DeepSpeed's `WarmupLR`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from kame_jax.config import GroupConfig, OptimizerConfig

Schedule = Callable[[jax.Array | int], jax.Array]
GROUPS = ("temporal", "depth", "embeddings", "oracle", "adapters")


def group_of(path: Sequence[Any]) -> str:
    """The group of a weight, by the names on its path.

    "adapters" are all LoRA weights, in any layer; "depth" the depth transformer with its embeddings and heads;
    "oracle" the oracle embedding; "embeddings" those of text and audio; "temporal" everything else.
    """
    if path[-1] in ("lora_a", "lora_b"):
        return "adapters"
    return {
        "depth": "depth",
        "oracle_emb": "oracle",
        "text_emb": "embeddings",
        "audio_emb": "embeddings",
    }.get(path[0], "temporal")


def frozen_groups(config: OptimizerConfig) -> frozenset[str]:
    """The frozen groups."""
    return frozenset(name for name in GROUPS if _settings(config, name).freeze)


def learning_rates(config: OptimizerConfig, steps: int) -> dict[str, Schedule]:
    """The learning rate of each group that learns, as a function of the update, counted from 0.

    The warm-up is DeepSpeed's: updates 0 and 1 have rate 0, update n has `(n - 1) / max(2, warmup_steps)` of the full
    rate until that is 1. `warmup_steps` 0 starts at the full rate, as a run without a scheduler does.

    Args:
        config: rates and form.
        steps: of the whole run, where a cosine ends.
    """
    rates = {}
    for name in GROUPS:
        group = _settings(config, name)
        usual = config.depth_learning_rate if name == "depth" else config.learning_rate
        if not group.freeze:
            rates[name] = _rate(config, steps, usual if group.learning_rate is None else group.learning_rate)
    return rates


def _rate(config: OptimizerConfig, steps: int, peak: float) -> Schedule:
    warmup = max(2, config.warmup_steps) + 1 if config.warmup_steps else 0

    def rate(update: jax.Array | int) -> jax.Array:
        n = jnp.asarray(update, jnp.float32)
        value = jnp.asarray(peak, jnp.float32)
        if config.schedule == "cosine":
            done = jnp.clip((n - warmup) / max(1, steps - 1 - warmup), 0.0, 1.0)
            end = config.final_learning_rate
            value = end + (peak - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return value * jnp.clip((n - 1.0) / (warmup - 1), 0.0, 1.0) if warmup else value

    return rate


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The update rule for the weights that learn: the gradient's global norm clipped, then AdamW by group.

    Args:
        config: rates, moments, decay and clipping.
        steps: of the whole run.
    """
    groups = {}
    for name, rate in learning_rates(config, steps).items():
        decay = _settings(config, name).weight_decay
        adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps)
        groups[name] = optax.chain(
            _stored_as(adam, jnp.dtype(config.moments)),
            optax.add_decayed_weights(config.weight_decay if decay is None else decay),
            optax.scale_by_learning_rate(rate),
        )
    rule = optax.partition(groups, _labels)
    return (
        rule if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)
    )


def _stored_as(adam: optax.GradientTransformation, dtype: Any) -> optax.GradientTransformation:
    """Adam with both of its moments kept in `dtype` between the updates, which are computed in float32."""

    def cast(state: optax.ScaleByAdamState, dtype: Any) -> optax.ScaleByAdamState:
        moments = (jax.tree.map(lambda x: x.astype(dtype), moment) for moment in (state.mu, state.nu))
        return optax.ScaleByAdamState(state.count, *moments)

    def init(params: Any) -> Any:
        return cast(adam.init(params), dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = adam.update(updates, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(init, update)


def _settings(config: OptimizerConfig, name: str) -> GroupConfig:
    settings: GroupConfig = getattr(config, name)
    return settings


def _labels(params: nnx.State) -> nnx.State:
    return nnx.map_state(lambda path, _: group_of(path), params)
