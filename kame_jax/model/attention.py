"""Attention of the temporal, depth and Mimi transformers: rotary positions, causal window, ring KV cache.

Semantics: kyutai-labs/moshi `modules/transformer.py` and `modules/rope.py`. Positions are absolute step indices
that keep growing; the ring forgets only what the window no longer sees.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

FEW_ROWS = 8
"""Up to this many rows a ring is written slice by slice, in place; a scatter, as for more rows, copies it on CPU."""


class KVCache(NamedTuple):
    """Ring of the last `capacity` keys and values of one layer, each `[batch, heads, capacity, head_dim]`.

    As int8 they carry a factor for each head of each slot, float32 `[batch, heads, capacity]`.
    """

    k: jax.Array
    v: jax.Array
    k_scale: jax.Array | None = None
    v_scale: jax.Array | None = None


def init_kv_cache(batch: int, heads: int, capacity: int, head_dim: int, dtype: jnp.dtype) -> KVCache:
    """An empty ring; which slots are valid is decided by position, so its contents never need clearing."""
    shape = (batch, heads, capacity, head_dim)
    # Separate buffers, so that a cache can be donated.
    if jnp.dtype(dtype) != jnp.int8:
        return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    values, factors = (jnp.zeros(shape, jnp.int8) for _ in range(2)), (jnp.zeros(shape[:3]) for _ in range(2))
    return KVCache(*values, *factors)


def apply_rope(x: jax.Array, positions: jax.Array, max_period: float) -> jax.Array:
    """Rotates the pairs (2i, 2i+1) of `x [batch, steps, heads, head_dim]` by `positions [batch or 1, steps]`.

    Computed in float32, returned in the dtype of `x`.
    """
    half = x.shape[-1] // 2
    frequencies = jnp.exp(jnp.arange(half, dtype=jnp.float32) * (-math.log(max_period) / half))
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], half, 2)
    real, imaginary = pairs[..., 0], pairs[..., 1]
    rotated = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)


def sin_positions(positions: jax.Array, dim: int, max_period: float) -> jax.Array:
    """Sinusoidal encoding of `positions [batch or 1, steps]`: float32 `[batch or 1, steps, dim]`, cosines first."""
    half = dim // 2
    exponent = jnp.arange(half, dtype=jnp.float32) / (half - 1)
    phase = positions.astype(jnp.float32)[..., None] / (max_period**exponent)
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


def window_mask(query_positions: jax.Array, key_positions: jax.Array, context: int | None) -> jax.Array:
    """The attention mask: `[batch or 1, queries, keys]`, true where `0 <= query - key < context` and the key is valid.

    Positions are `[batch or 1, steps]`; a negative key position marks an empty slot.
    """
    delta = query_positions[:, :, None] - key_positions[:, None, :]
    visible = (delta >= 0) & (key_positions[:, None, :] >= 0)
    return visible if context is None else visible & (delta < context)


def segment_positions(segments: jax.Array) -> jax.Array:
    """Steps since the beginning of each step's segment: int32 `[batch, steps]`, from segment numbers of that shape."""
    steps = jnp.arange(segments.shape[1])[None]
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return steps - jax.lax.cummax(jnp.where(begins, steps, 0), axis=1)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    k_scale: jax.Array | None = None,
    v_scale: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention with float32 softmax.

    Args:
        q: `[batch, steps, heads, head_dim]`.
        k, v: `[batch, heads, keys, head_dim]`, the layout of the cache.
        mask: bool `[batch or 1, steps, keys]`. A row that sees nothing gives finite values, never NaN: a session
            slot that is not running must not poison its neighbours.
        k_scale, v_scale: float32 `[batch, heads, keys]`, factors of int8 keys and values; None for others.

    Returns:
        `[batch, steps, heads, head_dim]` in the dtype of `q`.
    """
    k, v = k.astype(q.dtype), v.astype(q.dtype)
    if q.shape[1] == 1:
        # Keys on the left: XLA on CPU would transpose the whole ring at every step.
        scores = jnp.einsum("bhsd,bthd->bhst", k, q, preferred_element_type=jnp.float32).swapaxes(2, 3)
    else:
        scores = jnp.einsum("bthd,bhsd->bhts", q, k, preferred_element_type=jnp.float32)
    if k_scale is not None:
        scores = scores * k_scale[:, :, None]
    scores = scores * (1.0 / math.sqrt(q.shape[-1]))
    scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if v_scale is not None:
        weights = weights * v_scale[:, :, None]
    return jnp.einsum("bhts,bhsd->bthd", weights.astype(q.dtype), v)


def ring_positions(offset: jax.Array, steps: int, capacity: int) -> jax.Array:
    """Absolute position held by each ring slot after `steps` entries were written at `offset [batch]`.

    Returns int32 `[batch, capacity]`; negative where nothing was written yet.
    """
    last = (offset + steps - 1)[:, None]
    delta = jnp.arange(capacity)[None] - last % capacity
    return jnp.where(delta <= 0, last + delta, last + delta - capacity)


def ring_write(cache: KVCache, k: jax.Array, v: jax.Array, offset: jax.Array) -> KVCache:
    """Writes `k, v [batch, steps, heads, head_dim]` at each row's own `offset [batch]`, modulo the capacity."""
    steps, capacity = k.shape[1], cache.k.shape[2]
    slots = (offset[:, None] + jnp.arange(steps)) % capacity
    rows = jnp.arange(k.shape[0])[:, None]

    def put(ring: jax.Array, values: jax.Array) -> jax.Array:
        if steps == 1 and len(ring) <= FEW_ROWS:
            for row in range(len(ring)):
                start = (row, 0, slots[row, 0], *(0,) * (ring.ndim - 3))
                entry = values[row].swapaxes(0, 1)[None].astype(ring.dtype)
                ring = jax.lax.dynamic_update_slice(ring, entry, start)
            return ring
        return ring.at[rows, :, slots].set(values.astype(ring.dtype))

    if cache.k_scale is None or cache.v_scale is None:
        return KVCache(put(cache.k, k), put(cache.v, v))
    (k, k_scale), (v, v_scale) = _to_int8(k), _to_int8(v)
    return KVCache(put(cache.k, k), put(cache.v, v), put(cache.k_scale, k_scale), put(cache.v_scale, v_scale))


def _to_int8(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`x [..., head_dim]` as int8 and its factors float32 `[...]`, symmetric, the largest value at 127."""
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=-1) / 127.0
    return jnp.round(x / jnp.maximum(scale, 1e-30)[..., None]).astype(jnp.int8), scale
