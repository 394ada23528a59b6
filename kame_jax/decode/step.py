"""The streaming frame step: 80 ms of user codes and one oracle token in, one frame of text and own audio codes out.

One pure function over one state. Every row of the batch is a conversation with its own offset and random key; rows
join, pause and leave without touching each other. Semantics: kyutai-labs/moshi `models/lm.py`, `LMGen._step`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kame_jax import streams
from kame_jax.config import ModelConfig
from kame_jax.decode.sampling import Sampling, sample
from kame_jax.model import LM
from kame_jax.model.attention import KVCache, init_kv_cache


class DecodeState(NamedTuple):
    """Everything a batch of conversations remembers between frames."""

    ring: jax.Array
    """int32 `[batch, 1 + n_q, max_delay + 2]`: the token grid near the present, one column a slot."""
    offset: jax.Array
    """int32 `[batch]`: frames each row has run."""
    caches: list[KVCache]
    """Keys and values of the temporal transformer, one ring per layer."""
    keys: jax.Array
    """Random keys `[batch]`; a row's draws depend on its own key and offset alone."""


class Guidance(NamedTuple):
    """Classifier-free guidance: `logits = null + scale * (given - null)`, for text and every codebook.

    The null half of the batch reads the same audio and text, an idle oracle (the reference cannot do this one: it
    gives both halves the same) and its own condition. Semantics otherwise: kyutai-labs/moshi `LMGen._step`.
    """

    scale: jax.Array
    """float32 `[batch]`; 1 is exactly no guidance."""
    condition: jax.Array | None = None
    """float32 `[batch, dim]` of the null half; None takes the given one, so that only the oracle guides."""


class FrameOutput(NamedTuple):
    """The outputs of one step."""

    tokens: jax.Array
    """int32 `[batch, 1 + dep_q]`: text and own codes of frame `offset - max_delay - 1`, time-aligned; -2 in rows
    that are paused or have not run long enough."""
    ready: jax.Array
    """bool `[batch]`: rows whose `tokens` are a frame."""
    text_logits: jax.Array
    """float32 `[batch, text classes]` of this step."""
    extra_heads: jax.Array
    """float32 `[batch, extra_heads, extra_head_dim]`, softmax of each extra head on this step."""


def init_state(
    config: ModelConfig, batch: int, keys: jax.Array, dtype: jnp.dtype, guided: bool = False
) -> DecodeState:
    """A batch of fresh conversations.

    Args:
        config: the model's.
        batch: rows.
        keys: random keys `[batch]`.
        dtype: of the KV cache: the model's compute dtype, or int8.
        guided: the caches hold a second half, of the same conversations without what guides them.

    Raises:
        ValueError: the temporal transformer has no context, or the depth transformer leaves no row for the user.
    """
    temporal = config.temporal
    if temporal.context is None:
        raise ValueError(
            "a model without `temporal.context` cannot stream: set the attention window in frames"
        )
    ring = jnp.full((batch, config.num_rows, config.max_delay + 2), streams.UNGENERATED_ID, jnp.int32)
    shape = (batch * (1 + guided), temporal.num_heads, temporal.context, temporal.head_dim)
    # Distinct buffers, also from the caller's: the state is donated, which invalidates what it holds.
    caches = [init_kv_cache(*shape, dtype) for _ in range(temporal.num_layers)]
    return DecodeState(ring, jnp.zeros(batch, jnp.int32), caches, keys.copy())


def frame_step(
    model: LM,
    state: DecodeState,
    user: jax.Array,
    oracle: jax.Array | None,
    running: jax.Array,
    settings: Sampling,
    condition: jax.Array | None = None,
    forced: jax.Array | None = None,
    guidance: Guidance | None = None,
) -> tuple[DecodeState, FrameOutput]:
    """Runs one frame for every row.

    Args:
        model: the weights.
        state: what came before; donate it.
        user: int32 `[batch, n_q - dep_q]`, the user's codes of this frame. Those given at a row's step 0 are never
            read: the model hears the frame of step s at step s, its acoustic codes `delay` steps later.
        oracle: int32 `[batch]`, the oracle token of this step (`OracleSchedule`), or None for no oracle term.
        running: bool `[batch]`; a paused row does not advance and outputs -2.
        settings: sampling of each row.
        condition: float32 `[batch, dim]` from `LM.condition`, or None.
        forced: int32 `[batch, 1 + dep_q]` tokens to take instead of the model's own; -2 where it chooses itself.
        guidance: leads the choices away from what the model would say without oracle and condition; the state must
            have been made for it. Each step then runs every row twice.

    Returns:
        The new state and the frame.
    """
    config = model.config
    slots = state.ring.shape[2]
    delays = jnp.array(config.delays)
    own = 1 + config.dep_q
    offset = state.offset

    ring = _write(state.ring, own, (offset[:, None] + delays[own:]) % slots, user, running)

    start = (offset[:, None] <= delays) | ~running[:, None]
    present = jnp.take_along_axis(ring, (offset % slots)[:, None, None], axis=2)[:, :, 0]
    column = jnp.where(start, jnp.array(streams.initial_ids(config)), present)

    position = offset
    if guidance is not None:
        column, position = _twice(column), _twice(offset)
        if oracle is not None:
            oracle = jnp.concatenate([oracle, jnp.full_like(oracle, config.text_padding_id)])
        if condition is not None:
            null = condition if guidance.condition is None else guidance.condition
            condition = jnp.concatenate([condition, null])

    def guided(logits: jax.Array) -> jax.Array:
        if guidance is None:
            return logits
        given, null = jnp.split(logits, 2)
        # Written so that scale 1 gives the bits of `given`.
        return given + (guidance.scale[:, None] - 1.0) * (given - null)

    oracle_column = None if oracle is None else oracle[:, None]
    h, text_logits, caches = model.temporal_step(
        column[:, :, None], oracle_column, condition, state.caches, position
    )
    text_logits = guided(text_logits)

    draws = jax.vmap(lambda key, step: jax.random.split(jax.random.fold_in(key, step), own))(
        state.keys, offset
    )

    def choose(row: int, token: jax.Array) -> jax.Array:
        if forced is None:
            return token
        return jnp.where(forced[:, row] == streams.UNGENERATED_ID, token, forced[:, row])

    text = choose(0, sample(text_logits, draws[:, 0], settings.text_temperature, settings.text_top_k))

    def choose_audio(codebook: int, logits: jax.Array) -> jax.Array:
        drawn = sample(
            guided(logits), draws[:, codebook + 1], settings.audio_temperature, settings.audio_top_k
        )
        chosen = choose(codebook + 1, drawn)
        return chosen if guidance is None else _twice(chosen)

    generated = text[:, None]
    if model.depth is not None:
        codes = model.depth.generate(h, text if guidance is None else _twice(text), choose_audio)
        generated = jnp.concatenate([generated, codes[: len(text)]], axis=1)

    offset = jnp.where(running, offset + 1, offset)
    ring = _write(ring, 0, (offset % slots)[:, None], generated, running)

    ready = running & (offset > config.max_delay)
    aligned = (offset[:, None] - config.max_delay + delays[:own]) % slots
    tokens = jnp.take_along_axis(ring[:, :own], aligned[:, :, None], axis=2)[:, :, 0]
    tokens = jnp.where(ready[:, None], tokens, streams.UNGENERATED_ID)
    new_state = DecodeState(ring, offset, caches, state.keys)
    return new_state, FrameOutput(tokens, ready, text_logits, _extra_heads(model, h[: len(text)]))


def _twice(x: jax.Array) -> jax.Array:
    return jnp.concatenate([x, x])


def _write(ring: jax.Array, first: int, slots: jax.Array, tokens: jax.Array, running: jax.Array) -> jax.Array:
    """Puts `tokens [batch, n]` into ring rows from `first` on at `slots [batch, n or 1]`, where a row runs."""
    at = jnp.arange(len(ring))[:, None], first + jnp.arange(tokens.shape[1])[None], slots
    return ring.at[at].set(jnp.where(running[:, None], tokens, ring[at]))


def _extra_heads(model: LM, h: jax.Array) -> jax.Array:
    if model.extra_heads is None:
        return jnp.zeros((h.shape[0], 0, model.config.extra_head_dim), jnp.float32)
    heads = model.config.extra_heads
    logits = model.extra_heads.per_step(
        jnp.broadcast_to(h[None], (heads, *h.shape)), tuple(range(heads)), out_dtype=jnp.float32
    )
    return jax.nn.softmax(logits, axis=-1).swapaxes(0, 1)
