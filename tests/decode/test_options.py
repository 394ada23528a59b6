"""The switches of the engine: flat weights, int8 weights and rings, guidance; and what each does to the logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.decode import frame_step, greedy, init_state
from kame_jax.decode.step import Guidance
from kame_jax.model import tree
from tests.decode import small
from tests.golden.read import QUICK, distance

STEPS = 24
ORACLE = np.random.default_rng(3).integers(0, small.CONFIG.text_card, STEPS)
HEARD = np.random.default_rng(4).integers(0, small.CONFIG.card, (STEPS, 2))
FORCED = np.random.default_rng(5).integers(0, small.CONFIG.card, (STEPS, 3))


def run(model, dtype=jnp.float32, oracle=ORACLE, scale=None):
    """Text logits `[STEPS, classes]` of a conversation whose every token is given, past the ring's wrap."""
    step = jax.jit(frame_step, compiler_options=QUICK)
    keys = jax.random.split(jax.random.key(0), 1)
    state = init_state(small.CONFIG, 1, keys, dtype, guided=scale is not None)
    guidance = None if scale is None else Guidance(jnp.full(1, scale))
    logits = []
    for t in range(STEPS):
        state, out = step(
            model,
            state,
            jnp.array(HEARD[None, t]),
            jnp.array(oracle[None, t]),
            jnp.ones(1, bool),
            greedy(1),
            None,
            jnp.array(FORCED[None, t]),
            guidance,
        )
        logits.append(np.asarray(out.text_logits[0]))
    return np.stack(logits)


@functools.cache
def plain():
    return run(small.model())


def ready():
    model = small.model()
    model.unstack()
    model.flatten()
    return model


def test_unstacked_and_flat_weights_are_the_same_numbers():
    # The same float32 sums in another order.
    assert distance(run(ready()), plain()) < 2e-6


@pytest.mark.parametrize(
    ("what", "bound"),
    # Measured here: 0.9 %, 0.3 % and 0.9 % of the logits' scale; a wrong factor or axis gives tens of percent.
    [("weights", 0.02), ("cache", 0.02), ("bfloat16", 0.02)],
)
def test_fewer_bits_move_the_logits_a_little(what, bound):
    model = ready()
    cache = {"weights": jnp.float32, "cache": jnp.int8, "bfloat16": jnp.bfloat16}[what]
    if what == "weights":
        model.quantize()
        assert model.text_head.weight.dtype == jnp.int8
    if what == "bfloat16":
        half = tree.abstract_lm(small.CONFIG, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16)
        leaves = tree.leaves(small.model())
        model = tree.fill(half, {path: leaf.astype(jnp.bfloat16) for path, leaf in leaves.items()})
    off = distance(run(model, cache), plain())
    assert 1e-4 < off < bound


def test_guidance_leads_away_from_what_is_said_without_the_oracle():
    null = run(small.model(), oracle=np.full(STEPS, small.CONFIG.text_padding_id))
    assert distance(null, plain()) > 0.05
    # Two rows at once sum in another order than one row alone.
    assert distance(run(small.model(), scale=1.0), plain()) < 2e-6
    assert distance(run(small.model(), scale=2.5), null + 2.5 * (plain() - null)) < 1e-5
