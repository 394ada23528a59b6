"""The rows of a token grid: its rate, special ids, delays, and the shift between codes and model columns.

Row order of a grid `[batch, rows, frames]`: text, own audio (semantic first), user audio (semantic first). The oracle
is a separate row `[batch, frames]`: it is read, never predicted. Semantics: kyutai-labs/moshi `models/lm.py` and
`models/lm_utils.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kame_jax.config import MimiConfig, ModelConfig

FRAME_RATE: float = MimiConfig.frame_rate
"""Frames a second of every model of the family, and of its codec."""
FRAME_SECONDS = 1 / FRAME_RATE
ZERO_ID = -1
"""Embeds to exactly zero; as a label, it is ignored."""
UNGENERATED_ID = -2
"""Nothing generated here yet; never fed to a model."""


def initial_ids(config: ModelConfig) -> tuple[int, ...]:
    """The initial token of each row, length `1 + n_q`: what the model reads before a row's first code."""
    return (config.text_card,) + (config.card,) * config.n_q


def oracle_start_id(config: ModelConfig) -> int:
    """Marks the start of a new oracle in the oracle row."""
    return config.text_card


def delay(codes: jax.Array, delays: tuple[int, ...], initial: tuple[int, ...]) -> jax.Array:
    """Shifts row k of `codes [batch, rows, frames]` right by `delays[k]`; the first cells become `initial[k]`.

    The last `delays[k]` codes of a row are dropped, so the shape is kept.
    """
    frames = codes.shape[2]
    source = jnp.arange(frames)[None] - jnp.array(delays)[:, None]
    shifted = jnp.take_along_axis(codes, jnp.maximum(source, 0)[None], axis=2)
    return jnp.where(source[None] < 0, jnp.array(initial, codes.dtype)[None, :, None], shifted)


def undelay(x: jax.Array, delays: tuple[int, ...], fill: float) -> tuple[jax.Array, jax.Array]:
    """Shifts row k of `x [batch, rows, frames, ...]` left by `delays[k]`, the inverse of `delay`.

    Returns the shifted array, its last `delays[k]` frames set to `fill`, and a mask bool `[batch, rows, frames]`
    that is false there.
    """
    frames = x.shape[2]
    source = jnp.arange(frames)[None] + jnp.array(delays)[:, None]
    valid = source < frames
    trailing = (1,) * (x.ndim - 3)
    index = jnp.minimum(source, frames - 1).reshape(1, len(delays), frames, *trailing)
    shifted = jnp.take_along_axis(x, index, axis=2)
    mask = jnp.broadcast_to(valid[None], x.shape[:3])
    return jnp.where(mask.reshape(*mask.shape, *trailing), shifted, fill), mask


def model_columns(codes: jax.Array, config: ModelConfig) -> jax.Array:
    """Delayed columns with the initial one in front: `codes [batch, rows, frames]` to `[batch, rows, 1 + frames]`.

    Column j is the model's input, and column j + 1 what it predicts from there.
    """
    initial = initial_ids(config)
    first = jnp.broadcast_to(
        jnp.array(initial, codes.dtype)[None, :, None], (codes.shape[0], len(initial), 1)
    )
    return jnp.concatenate([first, delay(codes, config.delays, initial)], axis=2)


def oracle_columns(oracle: jax.Array, first_id: int) -> jax.Array:
    """The oracle row as the model's input columns: `oracle [batch, frames]` moved one column right.

    `oracle[:, t]` enters with column t + 1, with frame t of the user. `first_id` fills column 0: the padding id
    (what the training collator and a live session put there) or the start id (what the reference's
    `LMModel.forward` puts there).
    """
    first = jnp.full((oracle.shape[0], 1), first_id, oracle.dtype)
    return jnp.concatenate([first, oracle[:, :-1]], axis=1)
