"""The four-stream language model: user audio, own audio, inner monologue and oracle in; text and own audio out.

A temporal transformer runs over frames; the depth transformer (`depth.py`) over the codebooks of one. This file
gives the pieces (embed, temporal, depth) and the training forward; the streaming frame step is `kame_jax.decode`.
Semantics: SakanaAI/kame and kyutai-labs/moshi, `models/lm.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kame_jax import streams
from kame_jax.config import ModelConfig
from kame_jax.model.attention import KVCache
from kame_jax.model.conditioner import Conditioner
from kame_jax.model.depth import Depth
from kame_jax.model.execution import Execution
from kame_jax.model.layers import Embedding, Linear, Norm, truncated_normal
from kame_jax.model.transformer import Transformer
from kame_jax.sharding import constrain


class LMOutput(NamedTuple):
    """Logits aligned with the codes they predict, and masks of where they are valid."""

    logits: jax.Array
    """float32 `[batch, dep_q, frames, card]`; NaN where a delay leaves no prediction."""
    mask: jax.Array
    """bool `[batch, dep_q, frames]`."""
    text_logits: jax.Array
    """float32 `[batch, 1, frames, text classes]`."""
    text_mask: jax.Array
    """bool `[batch, 1, frames]`."""


class LM(nnx.Module):
    """The model's weights, and the pure functions over them.

    Args:
        config: sizes and options.
        rngs: the `params` stream initialises the weights.
        param_dtype: dtype of the weights (conditioners stay float32).
        dtype: dtype of the computation; norms, rotary angles, softmax and logits are float32 throughout.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: jnp.dtype = jnp.float32,
        dtype: jnp.dtype | None = None,
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype or param_dtype)
        temporal, dim = config.temporal, config.temporal.dim

        def text_table() -> Embedding:
            entries, demux, norm = config.text_card + 1, config.demux_text, config.norm_emb
            return Embedding(rngs, entries, dim, demux=demux, norm=norm, dtype=param_dtype, lora=config.lora)

        self.text_emb = text_table()
        self.audio_emb = Embedding(
            rngs, config.card + 1, dim, stack=(config.n_q,), norm=config.norm_emb, dtype=param_dtype
        )
        self.oracle_emb = text_table() if config.oracle == "separate" else None
        self.temporal = Transformer(
            rngs, temporal, init=truncated_normal, dtype=param_dtype, lora=config.lora
        )
        self.out_norm = Norm(rngs, temporal.norm, dim, dtype=param_dtype)
        self.text_head = Linear(
            rngs,
            (config.text_card_out or config.text_card,),
            (dim,),
            axes=("vocab", "embed"),
            init=truncated_normal,
            dtype=param_dtype,
            lora=config.lora,
        )
        self.depth = Depth(rngs, config, dtype=param_dtype) if config.dep_q else None
        self.extra_heads = (
            Linear(
                rngs,
                (config.extra_head_dim,),
                (dim,),
                stack=(config.extra_heads,),
                axes=("extra_heads", "bins", "embed"),
                dtype=param_dtype,
                lora=config.lora,
            )
            if config.extra_heads
            else None
        )
        unused = config.unused_depth_input_dim
        self.unused_depth_input = (
            Linear(rngs, (unused,), (dim,), axes=("embed_out", "embed"), dtype=param_dtype, lora=config.lora)
            if unused
            else None
        )
        self.conditioners = nnx.Dict(
            {c.name: Conditioner(rngs, c, dim, lora=config.lora) for c in config.conditioners}
        )

    def unstack(self) -> None:
        """Makes every layer's weights separate arrays, for streaming alone: `temporal_step` and `Depth.generate`.

        Sliced at every step instead, stacked weights are copied, which costs as much as reading them.
        """
        self.temporal.unstack()
        if self.depth is not None:
            self.depth.unstack()

    def flatten(self) -> None:
        """Makes the linear maps of an unstacked model matrices (`Linear.flatten`); not for a mesh that cuts heads."""
        for module in self._unstacked():
            module.flatten()

    def quantize(self) -> None:
        """Rounds the linear maps of an unstacked model to int8 per output channel; embeddings and norms are kept."""
        for module in self._unstacked():
            module.quantize()

    def _unstacked(self) -> list[Linear]:
        """The linear maps without a leading stack; two-dimensional ones of `per_step` calls have one."""
        return [
            module
            for _, module in nnx.iter_modules(self)
            if isinstance(module, Linear)
            and (module.flat is not None or module.weight.ndim == module.num_in + module.num_out)
        ]

    def condition(self, values: dict[str, tuple[jax.Array, jax.Array]]) -> jax.Array:
        """Sums the conditions: name -> (value, given) as `Conditioner` takes them, to float32 `[batch, dim]`.

        Raises:
            ValueError: a configured condition is missing, or an unknown one is given.
        """
        known = set(self.conditioners)
        if set(values) != known:
            raise ValueError(f"conditions are {sorted(known)}, got {sorted(values)}")
        return sum((self.conditioners[name](*values[name]) for name in sorted(known)), jnp.zeros(()))

    def embed(self, tokens: jax.Array, oracle: jax.Array | None, condition: jax.Array | None) -> jax.Array:
        """Sums the streams of each column into the temporal input.

        Args:
            tokens: int32 `[batch, 1 + n_q, steps]`, model columns (delayed); -1 embeds to zero.
            oracle: int32 `[batch, steps]`, or None for no oracle term at all.
            condition: float32 `[batch, dim]` added to every step, or None.

        Returns:
            `[batch, steps, dim]` in the compute dtype.

        Raises:
            ValueError: an oracle is given to a model that has no oracle embedding.
        """
        x = self.audio_emb.summed(tokens[:, 1:].swapaxes(0, 1), self.dtype)
        text = self.text_emb(tokens[:, 0], self.dtype)
        if oracle is not None:
            if self.config.oracle == "none":
                raise ValueError(
                    "this model has no oracle embedding: set model.oracle to 'separate' or 'tie'"
                )
            table = self.text_emb if self.oracle_emb is None else self.oracle_emb
            text = text + table(oracle, self.dtype)
        x = constrain(x + text, "batch", None, None)
        return x if condition is None else x + condition.astype(self.dtype)[:, None]

    def temporal_forward(
        self,
        tokens: jax.Array,
        oracle: jax.Array | None = None,
        condition: jax.Array | None = None,
        execution: Execution = Execution(),
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the temporal transformer over whole columns from position 0 (arguments as `embed`).

        Returns:
            h: `[batch, steps, dim]`, normed, what the heads and the depth transformer read.
            text_logits: float32 `[batch, steps, text classes]`.
        """
        h = self.temporal_hidden(tokens, oracle, condition, execution)
        return h, self.text_logits(h)

    def temporal_hidden(
        self,
        tokens: jax.Array,
        oracle: jax.Array | None = None,
        condition: jax.Array | None = None,
        execution: Execution = Execution(),
        segments: jax.Array | None = None,
    ) -> jax.Array:
        """`temporal_forward` without the text head.

        `segments` (int32 `[batch, steps]`) number the sequences that share a row; none sees another.
        """
        return self.out_norm(self.temporal(self.embed(tokens, oracle, condition), execution, segments))

    def text_logits(self, h: jax.Array) -> jax.Array:
        """The text head on `h [batch, steps, dim]`: float32 `[batch, steps, text classes]`."""
        return constrain(self.text_head(h, out_dtype=jnp.float32), "batch", None, "vocab")

    def temporal_step(
        self,
        tokens: jax.Array,
        oracle: jax.Array | None,
        condition: jax.Array | None,
        caches: list[KVCache],
        offset: jax.Array,
    ) -> tuple[jax.Array, jax.Array, list[KVCache]]:
        """The next column of each row: `tokens [batch, 1 + n_q, 1]`, `offset int32 [batch]` columns seen so far.

        Returns h `[batch, dim]`, text logits float32 `[batch, text classes]`, and the new caches.
        """
        x, caches = self.temporal.step(self.embed(tokens, oracle, condition), caches, offset)
        h = self.out_norm(x)[:, 0]
        return h, self.text_head(h, out_dtype=jnp.float32), caches

    def depth_forward(
        self, targets: jax.Array, h: jax.Array, execution: Execution = Execution()
    ) -> jax.Array:
        """Teacher-forced audio logits.

        Args:
            targets: int32 `[batch, 1 + n_q or 1 + dep_q, steps]`, the columns being predicted.
            h: `[batch, steps, dim]`, temporal output of the columns before them.

        Returns:
            float32 `[batch, dep_q, steps, card]`.
        """
        return self.audio_logits(self.depth_hidden(targets, h, execution)).swapaxes(0, 1)

    def depth_hidden(self, targets: jax.Array, h: jax.Array, execution: Execution = Execution()) -> jax.Array:
        """`depth_forward` without the audio heads: `[dep_q, batch, steps, depth dim]`."""
        assert self.depth is not None
        batch, steps, dim = h.shape
        flat = targets.swapaxes(0, 1).reshape(targets.shape[1], batch * steps)
        codes = flat[1 : 1 + self.config.dep_q]
        x = self.depth.hidden(h.reshape(batch * steps, dim), flat[0], codes, execution)
        return constrain(x.reshape(self.config.dep_q, batch, steps, -1), None, "batch", None, None)

    def audio_logits(self, x: jax.Array) -> jax.Array:
        """The audio heads on `x [dep_q, batch, steps, depth dim]`: float32 `[dep_q, batch, steps, card]`."""
        assert self.depth is not None
        return constrain(self.depth.logits(x), None, "batch", None, "vocab")

    def __call__(
        self,
        codes: jax.Array,
        oracle: jax.Array | None = None,
        condition: jax.Array | None = None,
        *,
        oracle_first: str = "pad",
        execution: Execution = Execution(),
    ) -> LMOutput:
        """Training forward over undelayed codes; logits at frame t predict the codes of frame t.

        Args:
            codes: int32 `[batch, 1 + n_q, frames]`; -1 reads as zero and does not count.
            oracle: int32 `[batch, frames]`, or None for no oracle term.
            condition: float32 `[batch, dim]`, or None.
            oracle_first: oracle id of the initial column: "pad", as training data and a live session have it, or
                "initial", as the reference's `LMModel.forward` does.
            execution: how it runs.
        """
        config = self.config
        columns = streams.model_columns(codes, config)
        if oracle is not None:
            first = {"pad": config.text_padding_id, "initial": streams.oracle_start_id(config)}[oracle_first]
            oracle = streams.oracle_columns(oracle, first)
        h, text_logits = self.temporal_forward(columns[:, :, :-1], oracle, condition, execution)
        text_logits, text_mask = streams.undelay(text_logits[:, None], config.delays[:1], jnp.nan)
        text_mask &= codes[:, :1] != streams.ZERO_ID
        batch, _, frames = codes.shape
        if self.depth is None:
            empty = jnp.zeros((batch, 0, frames, config.card), jnp.float32)
            return LMOutput(empty, jnp.zeros((batch, 0, frames), bool), text_logits, text_mask)
        own = slice(1, 1 + config.dep_q)
        logits = self.depth_forward(columns[:, :, 1:], h, execution)
        logits, mask = streams.undelay(logits, config.delays[own], jnp.nan)
        return LMOutput(logits, mask & (codes[:, own] != streams.ZERO_ID), text_logits, text_mask)
