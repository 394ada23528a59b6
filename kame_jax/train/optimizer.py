"""AdamW in groups: which weight learns at which rate, and how the rates go over the steps.

Semantics: SakanaAI/kame_finetune `finetune.py` (its two parameter groups) with DeepSpeed's `WarmupLR`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kame_jax.config import OptimizerConfig

Schedule = Callable[[jax.Array | int], jax.Array]
GROUPS = ("temporal", "depth")


def group_of(path: str) -> str:
    """The group of a weight, by its dotted path: "depth" for the depth transformer, its embeddings and heads."""
    return "depth" if path.startswith("depth.") else "temporal"


def learning_rates(config: OptimizerConfig, steps: int) -> dict[str, Schedule]:
    """Each group's learning rate as a function of the update, counted from 0.

    The warm-up is DeepSpeed's: updates 0 and 1 have rate 0, update n has `(n - 1) / max(2, warmup_steps)` of the full
    rate until that is 1. `warmup_steps` 0 starts at the full rate, as a run without a scheduler does.

    Args:
        config: rates and form.
        steps: of the whole run, where a cosine ends.
    """
    peaks = {"temporal": config.learning_rate, "depth": config.depth_learning_rate}
    return {group: _rate(config, steps, peak) for group, peak in peaks.items()}


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
    """The update rule for a tree of weights: the gradient's global norm clipped, then AdamW by group.

    Args:
        config: rates, moments, decay and clipping.
        steps: of the whole run.
    """
    adamw = {
        group: optax.adamw(
            rate, b1=config.beta1, b2=config.beta2, eps=config.eps, weight_decay=config.weight_decay
        )
        for group, rate in learning_rates(config, steps).items()
    }
    groups = optax.partition(adamw, _labels)
    return (
        groups
        if config.clip_norm is None
        else optax.chain(optax.clip_by_global_norm(config.clip_norm), groups)
    )


def _labels(params: Any) -> Any:
    def label(path: tuple[Any, ...], _: Any) -> str:
        return group_of(jax.tree_util.keystr(path, simple=True, separator="."))

    return jax.tree_util.tree_map_with_path(label, params)
