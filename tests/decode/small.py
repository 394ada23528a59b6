"""A four-stream model and a codec of a few thousand weights, and how the tests of the engine compile them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax.assets import TINY
from kame_jax.codec.mimi import Mimi
from kame_jax.config import (
    DepthConfig,
    MimiConfig,
    ModelConfig,
    QuantizerConfig,
    SeanetConfig,
    TransformerConfig,
)
from kame_jax.decode.engine import Engine, EngineOptions
from kame_jax.decode.slots import put_slot
from kame_jax.model import LM, tree
from kame_jax.oracle.text import load_tokenizer
from tests.golden.read import QUICK

CODEC = MimiConfig(
    seanet=SeanetConfig(dim=16, filters=2, ratios=(8, 6, 5, 4)),
    transformer=TransformerConfig(
        dim=16,
        num_heads=2,
        num_layers=1,
        ffn_dim=32,
        context=20,
        gating="none",
        norm="layer_norm",
        layer_scale=0.01,
    ),
    quantizer=QuantizerConfig(dim=8, n_q=2, bins=32),
)
CONFIG = ModelConfig(
    n_q=4,
    dep_q=2,
    card=32,
    text_card=512,
    delays=(0, 0, 1, 0, 1),
    temporal=TransformerConfig(dim=16, num_heads=2, num_layers=2, ffn_dim=24, context=12),
    depth=DepthConfig(dim=8, num_heads=2, num_layers=1, ffn_dim=12),
    oracle="separate",
)
FRAME = CODEC.frame_size


def model(config: ModelConfig = CONFIG) -> LM:
    return filled(tree.abstract_lm(config))


def mimi() -> Mimi:
    return filled(tree.abstract_mimi(CODEC))


def filled(module):
    """Random weights, drawn without compiling a generator for each shape."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path.endswith(("norm1.scale", "norm2.scale", "norm.scale", "cluster_usage", "initialized")):
            return jnp.ones(leaf.shape)
        fan_in = leaf.shape[-1] if "transformer" in path or "temporal" in path else np.prod(leaf.shape[1:])
        deviation = 1.0 if "codebooks" in path or "emb" in path else fan_in**-0.5
        return jnp.asarray((rng.standard_normal(leaf.shape) * deviation).astype(np.float32))

    return tree.fill(module, {path: draw(path, leaf) for path, leaf in tree.leaves(module).items()})


@functools.cache
def tokenizer() -> SentencePieceProcessor:
    """The bundled one; its vocabulary is the small model's."""
    return load_tokenizer(TINY / "tokenizer.model")


_put_slot = jax.jit(put_slot, static_argnums=3)


def started_over(state, rows, fresh):
    """`state` with the rows where `rows` is true as they are in `fresh`, one by one, as an engine starts its slots."""
    for row in np.flatnonzero(rows):
        state = _put_slot(state, jax.tree.map(lambda a, row=row: a[row : row + 1], fresh), row, len(rows))
    return state


def engine(sound: bool = True, lm: LM | None = None, **options) -> Engine:
    return Engine(
        lm or model(),
        mimi() if sound else None,
        tokenizer(),
        EngineOptions(**options),
        compiler_options=QUICK,
    )


def voice(frames: int, seed: int = 0) -> np.ndarray:
    """Noise, float32 `[frames, FRAME]`."""
    return np.random.default_rng(seed).standard_normal((frames, FRAME), np.float32) * 0.1
