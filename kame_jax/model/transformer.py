"""A stack of pre-norm transformer layers: the temporal transformer, and those inside Mimi.

Called on a whole sequence (training, offline codec) it scans over stacked layers; called step by step it walks them
one by one with a ring KV cache per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from kame_jax.config import LoRAConfig, TransformerConfig
from kame_jax.model.attention import (
    KVCache,
    apply_rope,
    attend,
    init_kv_cache,
    ring_positions,
    ring_write,
    segment_positions,
    sin_positions,
    window_mask,
)
from kame_jax.model.execution import Execution, rematerialised
from kame_jax.model.layers import Axes, Initializer, LayerScale, Linear, Norm, take, uniform, unstacked
from kame_jax.model.window_attention import attend_window
from kame_jax.sharding import constrain, constrain_weights

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


class TransformerLayer(nnx.Module):
    """`x += attention(norm1 x); x += feed_forward(norm2 x)`.

    `stack` prefixes every weight (layers); `sets` additionally prefixes the linear maps (depth weight sets).
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        config: TransformerConfig,
        *,
        stack: Sequence[int] = (),
        sets: Sequence[int] = (),
        init: Callable[[int], Initializer] = uniform,
        dtype: jnp.dtype = jnp.float32,
        lora: LoRAConfig | None = None,
    ):
        self.config = config
        stack_axes: Axes = ("layers",) * len(stack)
        lead, lead_axes = (*stack, *sets), (*stack_axes, *("sets",) * len(sets))
        dim, heads, head_dim, ffn = config.dim, config.num_heads, config.head_dim, config.ffn_dim

        def linear(out_shape: Sequence[int], in_shape: Sequence[int], axes: Axes) -> Linear:
            return Linear(
                rngs,
                out_shape,
                in_shape,
                stack=lead,
                axes=(*lead_axes, *axes),
                init=init,
                dtype=dtype,
                lora=lora,
            )

        def norm() -> Norm:
            return Norm(rngs, config.norm, dim, stack=stack, stack_axes=stack_axes, dtype=dtype)

        self.norm1 = norm()
        self.attn_in = linear((3, heads, head_dim), (dim,), ("qkv", "heads", "head_dim", "embed"))
        self.attn_out = linear((dim,), (heads, head_dim), ("embed", "heads", "head_dim"))
        self.norm2 = norm()
        if config.gating == "none":
            self.mlp_in = linear((ffn,), (dim,), ("mlp_in", "embed_in"))
        else:
            self.mlp_in = linear((2, ffn), (dim,), ("gate", "mlp_in", "embed_in"))
        self.mlp_out = linear((dim,), (ffn,), ("embed", "mlp"))
        scale = config.layer_scale
        self.scale1 = None if scale is None else LayerScale(rngs, dim, scale, stack, stack_axes, dtype)
        self.scale2 = None if scale is None else LayerScale(rngs, dim, scale, stack, stack_axes, dtype)

    def __call__(
        self,
        x: jax.Array,
        attend: Callable[[TransformerLayer, jax.Array], jax.Array],
        apply: Callable[[Linear, jax.Array], jax.Array] = lambda linear, x: linear(x),
        cut: tuple[str | None, str | None] = ("batch", None),
    ) -> jax.Array:
        """Whole sequence `x [batch, steps, dim]`, or `[steps, batch, dim]` where the other arguments have it so.

        `attend` makes attention of the layer and its qkv, `apply` maps, `cut` names the first two dimensions.
        """
        x = constrain(x, *cut, None)
        qkv = checkpoint_name(apply(self.attn_in, self.norm1(x)), "qkv")
        update = apply(self.attn_out, checkpoint_name(attend(self, qkv), "attended"))
        x = self.add_attention(x, checkpoint_name(constrain(update, *cut, None), "attention_update"))
        hidden = checkpoint_name(apply(self.mlp_in, self.norm2(x)), "hidden")
        hidden = constrain(hidden, *cut, *(None,) * (hidden.ndim - 3), "mlp")
        update = constrain(self.feed_forward(hidden, lambda y: apply(self.mlp_out, y)), *cut, None)
        return self.add_feed_forward(x, checkpoint_name(update, "ffn_update"))

    def step(self, x: jax.Array, cache: KVCache, offset: jax.Array) -> tuple[jax.Array, KVCache]:
        """The next steps of each row: `x [batch, steps, dim]`, `offset [batch]` steps seen so far."""
        steps = x.shape[1]
        positions = offset[:, None] + jnp.arange(steps)
        q, k, v = self.rotate(self.attn_in(self.norm1(x)), positions)
        cache = ring_write(cache, k, v, offset)
        held = ring_positions(offset, steps, cache.k.shape[2])
        mask = window_mask(positions, held, self.config.context)
        attended = attend(q, cache.k, cache.v, mask, cache.k_scale, cache.v_scale)
        x = self.add_attention(x, self.attn_out(attended))
        return self.add_feed_forward(x, self.feed_forward(self.mlp_in(self.norm2(x)), self.mlp_out)), cache

    def rotate(self, qkv: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Splits `qkv [batch, steps, 3, heads, head_dim]` and rotates q and k where the config says so."""
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.config.positions in ("rope", "sin_rope"):
            q = apply_rope(q, positions, self.config.max_period)
            k = apply_rope(k, positions, self.config.max_period)
        return q, k, v

    def feed_forward(self, hidden: jax.Array, mlp_out: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Gate, activate and project the output of `mlp_in` (`[..., 2, ffn]` gated, else `[..., ffn]`)."""
        if self.config.gating == "none":
            return mlp_out(jax.nn.gelu(hidden, approximate=False))
        return mlp_out(ACTIVATIONS[self.config.gating](hidden[..., 0, :]) * hidden[..., 1, :])

    def add_attention(self, x: jax.Array, update: jax.Array) -> jax.Array:
        """The first residual sum, with its layer scale."""
        return x + (self.scale1(update) if self.scale1 is not None else update)

    def add_feed_forward(self, x: jax.Array, update: jax.Array) -> jax.Array:
        """The second residual sum, with its layer scale."""
        return x + (self.scale2(update) if self.scale2 is not None else update)


class Transformer(nnx.Module):
    """`num_layers` layers with stacked weights, causal, attending to the last `context` steps."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        config: TransformerConfig,
        *,
        init: Callable[[int], Initializer] = uniform,
        dtype: jnp.dtype = jnp.float32,
        lora: LoRAConfig | None = None,
    ):
        self.config = config
        self.layers: TransformerLayer | nnx.List = TransformerLayer(
            rngs, config, stack=(config.num_layers,), init=init, dtype=dtype, lora=lora
        )

    def __call__(
        self, x: jax.Array, execution: Execution = Execution(), segments: jax.Array | None = None
    ) -> jax.Array:
        """Whole sequence from position 0: `x [batch, steps, dim]` to the same shape (no final norm).

        With `segments` (int32 `[batch, steps]`) each of them is a separate sequence, from position 0.
        """
        positions = jnp.arange(x.shape[1])[None] if segments is None else segment_positions(segments)
        x = add_sin_positions(x, positions, self.config)

        def attend(layer: TransformerLayer, qkv: jax.Array) -> jax.Array:
            q, k, v = (constrain(y, "batch", None, "heads", None) for y in layer.rotate(qkv, positions))
            return attend_window(q, k, v, self.config.context, execution.attention, segments=segments)

        def body(x: jax.Array, layer: TransformerLayer) -> tuple[jax.Array, None]:
            return constrain_weights(layer, taken=1)(x, attend), None

        return jax.lax.scan(rematerialised(body, execution.remat), x, self.layers)[0]

    def layer(self, index: int) -> TransformerLayer:
        """One layer, sliced out of the stacked weights, or the list's own after `unstack`."""
        return take(self.layers, index)

    def unstack(self) -> None:
        """Makes each layer's weights separate arrays, for `step` alone.

        A slice of a stacked weight is copied at every step: on a CPU that doubled the time of Mimi's 8 layers.
        """
        self.layers = unstacked(self.layers)

    def init_cache(self, batch: int, dtype: jnp.dtype, capacity: int | None = None) -> list[KVCache]:
        """Empty rings, one per layer.

        `capacity` defaults to the context, as in the reference. A call that writes T > 1 steps then overwrites the
        T - 1 oldest keys before its first queries read them; `context + T - 1` keeps them and equals the whole
        sequence exactly.

        Raises:
            ValueError: the config has no context, so no ring is large enough.
        """
        if self.config.context is None:
            raise ValueError(
                "a transformer without a context cannot stream: set `context` to a number of steps"
            )
        slots = capacity or self.config.context
        shape = (batch, self.config.num_heads, slots, self.config.head_dim)
        return [init_kv_cache(*shape, dtype) for _ in range(self.config.num_layers)]

    def step(self, x: jax.Array, caches: list[KVCache], offset: jax.Array) -> tuple[jax.Array, list[KVCache]]:
        """The next steps of each row.

        Args:
            x: `[batch, steps, dim]`.
            caches: one ring per layer (`init_cache`).
            offset: int32 `[batch]`, steps each row has seen. The caller advances it; where it does not (a paused
                row), what was written here is overwritten by that row's next real step.

        Returns:
            `[batch, steps, dim]` and the rings with the new steps written.
        """
        x = add_sin_positions(x, offset[:, None] + jnp.arange(x.shape[1]), self.config)
        new = []
        for index, cache in enumerate(caches):
            x, cache = self.layer(index).step(x, cache, offset)
            new.append(cache)
        return x, new


def add_sin_positions(x: jax.Array, positions: jax.Array, config: TransformerConfig) -> jax.Array:
    """Adds the sinusoidal encoding where the config asks for one."""
    if config.positions not in ("sin", "sin_rope"):
        return x
    return x + sin_positions(positions, config.dim, config.max_period).astype(x.dtype)
