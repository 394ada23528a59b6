"""Training-time dropout of what the temporal transformer reads: whole streams of a sample, or single text tokens.

A stream is dropped by feeding the zero id, which embeds to zero. Semantics: SakanaAI/kame_finetune `finetune.py`
(`tempformer_forward`); the depth transformer always reads the true tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kame_jax.config import DropoutConfig, ModelConfig
from kame_jax.streams import ZERO_ID


def drop_inputs(inputs: jax.Array, key: jax.Array, rates: DropoutConfig, config: ModelConfig) -> jax.Array:
    """The temporal transformer's input with parts of it dropped.

    Args:
        inputs: int32 `[batch, rows, length]`, model columns.
        key: random key of the step.
        rates: what is dropped, and how often.
        config: of the model.

    Returns:
        int32 `[batch, rows, length]`.
    """
    text_key, token_key, semantic_key, own_key, user_key, code_key = jax.random.split(key, 6)
    batch = inputs.shape[0]
    text = inputs[:, 0]
    special = (text == config.text_padding_id) | (text == ZERO_ID) | (text == config.text_card)
    flipped = jax.random.bernoulli(token_key, rates.text_token, text.shape) & ~special
    text = jnp.where(flipped, config.text_padding_id, text)
    text = jnp.where(jax.random.bernoulli(text_key, rates.text, (batch, 1)), ZERO_ID, text)
    inputs = inputs.at[:, 0].set(text)
    semantic = jax.random.bernoulli(semantic_key, rates.semantic, (batch, 1))
    inputs = inputs.at[:, 1].set(jnp.where(semantic, ZERO_ID, inputs[:, 1]))
    first_user = 1 + config.n_q // 2
    for rows, rate, row_key in (
        (slice(1, first_user), rates.own, own_key),
        (slice(first_user, None), rates.user, user_key),
    ):
        dropped = jax.random.bernoulli(row_key, rate, (batch, 1, 1))
        inputs = inputs.at[:, rows].set(jnp.where(dropped, ZERO_ID, inputs[:, rows]))
    code = jax.random.bernoulli(code_key, rates.code, inputs[:, 1:].shape)
    return inputs.at[:, 1:].set(jnp.where(code, ZERO_ID, inputs[:, 1:]))
