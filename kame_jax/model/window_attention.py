"""Causal windowed attention over whole sequences: plain XLA, cuDNN's kernel on GPU, the splash kernel on TPU.

All three compute the same; tests hold the kernels against the plain one with a window shorter than the sequence.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

from kame_jax.sharding import activation_spec, traced_mesh

BLOCK = 128
"""The splash kernel's sequence is padded to a multiple of this; its blocks are multiples of it."""
LARGEST_BLOCK = 512


def attend_window(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    context: int | None,
    kind: str,
    *,
    segments: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Attention of every step to the last `context` ones, itself included.

    Args:
        q, k, v: `[batch, steps, heads, head_dim]`, rotated.
        context: window in steps; None sees everything before.
        kind: "xla", "cudnn" (16-bit types on an NVIDIA GPU, no segments) or "splash" (TPU).
        segments: int32 `[batch, steps]`, a step sees only its own segment; None for one segment per row.
        interpret: run the splash kernel in Pallas's interpreter, on any device.

    Returns:
        `[batch, steps, heads, head_dim]` in the dtype of `q`.

    Raises:
        ValueError: segments for "cudnn".
    """
    if kind == "splash":
        return _splash(q, k, v, context, segments, interpret)
    if kind == "cudnn" and segments is not None:
        raise ValueError("the cudnn kernel cannot keep segments apart: use xla")
    mask = None if segments is None else (segments[:, :, None] == segments[:, None, :])[:, None]
    # The window is inclusive on its left; with is_causal off cuDNN would see the future.
    window = None if context is None or context >= q.shape[1] else (context - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=True, local_window_size=window, implementation=kind
    )


def _splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    context: int | None,
    segments: jax.Array | None,
    interpret: bool,
) -> jax.Array:
    steps, scale = q.shape[1], 1.0 / math.sqrt(q.shape[-1])
    padded = -(-steps // BLOCK) * BLOCK
    block = max(size for size in range(BLOCK, LARGEST_BLOCK + 1, BLOCK) if padded % size == 0)
    # The padding comes after every real step, so that no real step sees it.
    q, k, v = (jnp.pad(x, ((0, 0), (0, padded - steps), (0, 0), (0, 0))).swapaxes(1, 2) for x in (q, k, v))
    numbers = () if segments is None else (jnp.pad(segments, ((0, 0), (0, padded - steps))),)

    def local(q: jax.Array, k: jax.Array, v: jax.Array, *numbers: jax.Array) -> jax.Array:
        shape = (padded, padded)
        window = splash_mask.CausalMask(shape)
        if context is not None and context < padded:
            window = splash_mask.LocalMask(shape, (context - 1, 0), 0)
        kernel = splash.make_splash_mha(
            splash_mask.MultiHeadMask([window] * q.shape[1]),
            block_sizes=splash.BlockSizes(
                block_q=block,
                block_kv=block,
                block_kv_compute=block,
                block_q_dkv=block,
                block_kv_dkv=block,
                block_kv_dkv_compute=block,
                block_q_dq=block,
                block_kv_dq=block,
            ),
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name="attended",
            interpret=interpret,
        )

        def row(q: jax.Array, k: jax.Array, v: jax.Array, *numbers: jax.Array) -> jax.Array:
            return kernel(q, k, v, *(splash.SegmentIds(n, n) for n in numbers))

        return jax.vmap(row)(q * jnp.asarray(scale, q.dtype), k, v, *numbers)

    mesh = traced_mesh()
    if mesh is not None:
        # XLA cannot partition a kernel: each device runs it on its own rows and heads.
        spec = activation_spec(("batch", "heads", None, None), q.shape, mesh)
        rows = (activation_spec(("batch", None), number.shape, mesh) for number in numbers)
        local = jax.shard_map(local, in_specs=((spec,) * 3 + tuple(rows)), out_specs=spec, check_vma=False)
    return local(q, k, v, *numbers).swapaxes(1, 2)[:, :steps]
