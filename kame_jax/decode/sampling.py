"""Choosing a token from logits, each row with its own temperature, top-k and random key.

Semantics: kyutai-labs/moshi `utils/sampling.py` (`softmax(logits / T)`, cut to the k most likely, drawn by
`argmax(p / Exp(1))`, which is the Gumbel trick that `jax.random.categorical` uses).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

COMMON_TOP_K = 256
"""A full sort of the vocabulary costs far more than its best few: only a larger top-k pays for it."""


class Sampling(NamedTuple):
    """Sampling settings of a batch of rows, each array `[batch]`. Temperature 0 is greedy."""

    text_temperature: jax.Array
    text_top_k: jax.Array
    audio_temperature: jax.Array
    audio_top_k: jax.Array


def sampling(
    batch: int,
    *,
    text_temperature: float = 0.7,
    text_top_k: int = 25,
    audio_temperature: float = 0.8,
    audio_top_k: int = 250,
) -> Sampling:
    """The same settings for every row; the defaults are those of Moshi's and KAME's servers.

    Raises:
        ValueError: as `checked`.
    """
    row = (text_temperature, text_top_k, audio_temperature, audio_top_k)
    return jax.tree.map(jnp.asarray, checked(Sampling(*([value] * batch for value in row)), batch))


def checked(settings: Sampling, batch: int) -> Sampling:
    """The settings as NumPy arrays `[batch]`.

    Raises:
        ValueError: a temperature that is negative or not finite, a top-k that is not a whole number from 1 up, or
            another number of rows.
    """
    rows = {}
    for name, given in settings._asdict().items():
        values, top_k = np.asarray(given, np.float64), name.endswith("top_k")
        if values.shape != (batch,):
            raise ValueError(f"{name} has shape {list(values.shape)}, expected [{batch}]: one value a row")
        wrong = ~((values >= top_k) & (values < np.finfo(np.float32).max))
        if top_k:
            wrong |= values != np.floor(values)
        if wrong.any():
            what = "a whole number of at least 1" if top_k else "a number of at least 0"
            raise ValueError(f"{name} is {values[wrong][0]:g}, expected {what}")
        # A larger top-k than any vocabulary is all of it.
        rows[name] = np.minimum(values, 2**31 - 1).astype(np.int32) if top_k else values.astype(np.float32)
    return Sampling(**rows)


def greedy(batch: int) -> Sampling:
    """Argmax for text and audio on every row."""
    return sampling(batch, text_temperature=0.0, audio_temperature=0.0)


def sample(logits: jax.Array, keys: jax.Array, temperature: jax.Array, top_k: jax.Array) -> jax.Array:
    """Draws one token a row.

    Args:
        logits: float32 `[batch, classes]`.
        keys: random keys `[batch]`.
        temperature: float32 `[batch]`; a row at 0 takes its most likely token.
        top_k: int32 `[batch]`, clipped to the number of classes.

    Returns:
        int32 `[batch]`.
    """
    classes = logits.shape[-1]
    greedy_token = jnp.argmax(logits, axis=-1)

    def draw() -> jax.Array:
        scaled = logits / jnp.maximum(temperature, 1e-6)[:, None]
        most = min(COMMON_TOP_K, classes)

        def threshold(ordered: jax.Array) -> jax.Array:
            return jnp.take_along_axis(ordered, jnp.clip(top_k, 1, ordered.shape[1])[:, None] - 1, axis=-1)

        kth = jax.lax.cond(
            jnp.all(jnp.minimum(top_k, classes) <= most),
            lambda: threshold(jax.lax.top_k(scaled, most)[0]),
            lambda: threshold(jnp.sort(scaled, axis=-1, descending=True)),
        )
        kept = jnp.where(scaled >= kth, scaled, -jnp.inf)
        return jax.vmap(jax.random.categorical)(keys, kept)

    # The sort and the noise cost more than the rest of a small step: skip them when every row is greedy.
    drawn = jax.lax.cond(jnp.any(temperature > 0), draw, lambda: greedy_token)
    return jnp.where(temperature > 0, drawn, greedy_token).astype(jnp.int32)
