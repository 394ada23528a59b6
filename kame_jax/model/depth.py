"""The depth transformer: within one frame, from the temporal output and the text token to the audio codes.

It runs over the `dep_q` codebooks with separate weights (or shared by a schedule), norms shared by all, and no memory
from frame to frame. Semantics: kyutai-labs/moshi `models/lm.py`, `forward_depformer_training` and
`depformer_step`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from kame_jax.config import ModelConfig
from kame_jax.model.attention import attend
from kame_jax.model.execution import Execution, rematerialised
from kame_jax.model.layers import Embedding, Linear, Norm, take, truncated_normal, unstacked
from kame_jax.model.transformer import TransformerLayer, add_sin_positions
from kame_jax.model.window_attention import attend_window
from kame_jax.sharding import constrain, constrain_weights


class Depth(nnx.Module):
    """Predicts the audio codes of a frame one codebook at a time."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig, *, dtype: jnp.dtype = jnp.float32):
        depth = config.depth
        assert depth is not None
        self.config = depth
        self.schedule = config.depth_schedule
        self.input_schedule = config.depth_input_schedule
        self.codebooks = config.dep_q
        inputs = max(self.input_schedule) + 1
        self.input = Linear(
            rngs,
            (depth.dim,),
            (config.temporal.dim,),
            stack=(inputs,),
            axes=("sets", "embed_out", "embed"),
            dtype=dtype,
            lora=config.lora,
        )
        self.text_emb = Embedding(
            rngs,
            config.text_card + 1,
            depth.dim,
            low_rank=depth.low_rank,
            demux=config.demux_text,
            norm=config.norm_emb,
            dtype=dtype,
            lora=config.lora,
        )
        self.audio_emb = Embedding(
            rngs,
            config.card + 1,
            depth.dim,
            stack=(self.codebooks - 1,),
            low_rank=depth.low_rank,
            norm=config.norm_emb,
            dtype=dtype,
            lora=config.lora,
        )
        self.layers: TransformerLayer | nnx.List = TransformerLayer(
            rngs, depth, stack=(depth.num_layers,), sets=(config.depth_sets,), dtype=dtype, lora=config.lora
        )
        head_norm, stack = depth.head_norm, (self.codebooks,)
        self.head_norm = (
            Norm(rngs, head_norm, depth.dim, stack=stack, stack_axes=("codebooks",), dtype=dtype)
            if head_norm
            else None
        )
        self.heads = Linear(
            rngs,
            (config.card,),
            (depth.dim,),
            stack=stack,
            axes=("codebooks", "bins", "depth_embed"),
            init=truncated_normal,
            dtype=dtype,
            lora=config.lora,
        )

    def __call__(
        self, h: jax.Array, text: jax.Array, codes: jax.Array, execution: Execution = Execution()
    ) -> jax.Array:
        """Teacher-forced logits of every codebook, float32 `[dep_q, n, card]`; arguments as `hidden`."""
        return self.logits(self.hidden(h, text, codes, execution))

    def logits(self, x: jax.Array) -> jax.Array:
        """The head of each codebook on `x [dep_q, ..., depth dim]`: float32 `[dep_q, ..., card]`."""
        return self.heads.per_step(x, tuple(range(self.codebooks)), out_dtype=jnp.float32)

    def hidden(
        self, h: jax.Array, text: jax.Array, codes: jax.Array, execution: Execution = Execution()
    ) -> jax.Array:
        """What the heads read, teacher-forced.

        Args:
            h: temporal output `[n, temporal dim]`, any frames of any rows side by side.
            text: int32 `[n]`, the text token of the frame.
            codes: int32 `[dep_q, n]`, the frame's codes; the last codebook is not read.
            execution: what the backward pass recomputes; its attention is always XLA's.

        Returns:
            `[dep_q, n, depth dim]`.
        """
        steps = self.codebooks
        tokens = self.text_emb(text, h.dtype)[None]
        if steps > 1:
            tokens = jnp.concatenate([tokens, self.audio_emb.per_codebook(codes[: steps - 1], h.dtype)])
        x = self.input.each_step(h, self.input_schedule) + tokens
        # Steps stay in front, so that the weights of all steps make one batched matrix product.
        positions = jnp.arange(steps)[None]
        x = add_sin_positions(x, positions.T, self.config)

        def attend(layer: TransformerLayer, qkv: jax.Array) -> jax.Array:
            qkv = constrain(qkv, None, "batch", None, "heads", None).swapaxes(0, 1)
            return attend_window(*layer.rotate(qkv, positions), None, "xla").swapaxes(0, 1)

        def apply(linear: Linear, x: jax.Array) -> jax.Array:
            return linear.per_step(x, self.schedule)

        def body(x: jax.Array, layer: TransformerLayer) -> tuple[jax.Array, None]:
            return constrain_weights(layer, taken=1)(x, attend, apply, (None, "batch")), None

        x = jax.lax.scan(
            rematerialised(body, execution.remat), constrain(x, None, "batch", None), self.layers
        )[0]
        if self.head_norm is not None:
            x = jax.vmap(lambda norm, x: norm(x))(self.head_norm, x)
        return x

    def generate(
        self, h: jax.Array, text: jax.Array, choose: Callable[[int, jax.Array], jax.Array]
    ) -> jax.Array:
        """Generates a frame's codes one by one.

        Args:
            h: temporal output of the frame, `[batch, temporal dim]`.
            text: int32 `[batch]`, the text token just chosen.
            choose: called while tracing with a codebook index and its float32 logits `[batch, card]`; returns the
                code int32 `[batch]` (sampling, argmax, or a forced one).

        Returns:
            int32 `[batch, dep_q]`.
        """
        keys: list[list[jax.Array]] = [[] for _ in range(self.config.num_layers)]
        values: list[list[jax.Array]] = [[] for _ in range(self.config.num_layers)]
        layers = [take(self.layers, index) for index in range(self.config.num_layers)]
        tokens: list[jax.Array] = []
        for step in range(self.codebooks):
            weights, position = self.schedule[step], jnp.full((1, 1), step)
            if step == 0:
                embedded = self.text_emb(text, h.dtype)
            else:
                embedded = take(self.audio_emb, step - 1)(tokens[-1], h.dtype)
            x = (take(self.input, self.input_schedule[step])(h) + embedded)[:, None]
            x = add_sin_positions(x, position, self.config)
            mask = jnp.ones((1, 1, step + 1), bool)
            for index, layer in enumerate(layers):
                q, k, v = layer.rotate(take(layer.attn_in, weights)(layer.norm1(x)), position)
                keys[index].append(k[:, 0])
                values[index].append(v[:, 0])
                attended = attend(q, jnp.stack(keys[index], axis=2), jnp.stack(values[index], axis=2), mask)
                x = layer.add_attention(x, take(layer.attn_out, weights)(attended))
                hidden = take(layer.mlp_in, weights)(layer.norm2(x))
                x = layer.add_feed_forward(x, layer.feed_forward(hidden, take(layer.mlp_out, weights)))
            x = x[:, 0]
            if self.head_norm is not None:
                x = take(self.head_norm, step)(x)
            tokens.append(choose(step, take(self.heads, step)(x, out_dtype=jnp.float32)))
        return jnp.stack(tokens, axis=1)

    def unstack(self) -> None:
        """Makes each layer's, weight set's and codebook's weights separate arrays, for `generate` alone."""
        self.layers = unstacked(self.layers)
        for layer in self.layers:
            for name in ("attn_in", "attn_out", "mlp_in", "mlp_out"):
                setattr(layer, name, unstacked(getattr(layer, name)))
        for name in ("input", "audio_emb", "heads", "head_norm"):
            if getattr(self, name) is not None and (name != "audio_emb" or self.codebooks > 1):
                setattr(self, name, unstacked(getattr(self, name)))
