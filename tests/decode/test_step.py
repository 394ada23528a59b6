"""The frame step against the training forward, and rows against each other. One tiny model, few compilations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kame_jax import streams
from kame_jax.config import DepthConfig, ModelConfig, TransformerConfig
from kame_jax.decode import frame_step, greedy, init_state, sample, sampling
from kame_jax.model import LM
from kame_jax.train.state import make_quickly
from tests.decode import small
from tests.golden.read import QUICK, distance
from tests.rounding import LOGITS

FRAMES = 40
CONFIG = ModelConfig(
    n_q=6,
    dep_q=3,
    card=11,
    text_card=13,
    delays=(0, 0, 2, 2, 0, 2, 2),
    temporal=TransformerConfig(dim=16, num_heads=2, num_layers=2, ffn_dim=24, context=9),
    depth=DepthConfig(dim=8, num_heads=2, num_layers=2, ffn_dim=12),
    oracle="separate",
)


@pytest.fixture(scope="module")
def model():
    return make_quickly(lambda: LM(CONFIG, rngs=nnx.Rngs(0)))


@functools.cache
def step():
    return jax.jit(frame_step, donate_argnums=1, compiler_options=QUICK)


def user_codes(batch, seed=1):
    return np.array(
        jax.random.randint(jax.random.key(seed), (batch, FRAMES, CONFIG.num_user_rows), 0, CONFIG.card)
    )


def oracle_tokens(batch, seed=2):
    return np.array(jax.random.randint(jax.random.key(seed), (batch, FRAMES), 0, CONFIG.text_card + 1))


def run(model, user, oracle, settings, running=None, resets=None, seed=0):
    batch = user.shape[0]
    keys = jax.random.split(jax.random.key(seed), batch)
    state = init_state(CONFIG, batch, keys, jnp.float32)
    tokens, logits = [], []
    for t in range(user.shape[1]):
        if resets is not None and resets[t].any():
            state = small.started_over(state, resets[t], init_state(CONFIG, batch, keys, jnp.float32))
        on = jnp.ones(batch, bool) if running is None else jnp.array(running[t])
        state, out = step()(model, state, jnp.array(user[:, t]), jnp.array(oracle[:, t]), on, settings)
        tokens.append(np.asarray(out.tokens))
        logits.append(np.asarray(out.text_logits))
    return np.stack(tokens, 1), np.stack(logits, 1)


def teacher_forced(model, tokens, user, oracle):
    """The training forward over what a conversation said: user frame of step s is frame s - 1 of the grid."""
    own = tokens[:, CONFIG.max_delay :].swapaxes(1, 2)
    frames = own.shape[2]
    codes = np.concatenate([own, user[:, 1 : frames + 1].swapaxes(1, 2)], axis=1)
    forward = jax.jit(lambda model, codes, oracle: model(codes, oracle), compiler_options=QUICK)
    return own, forward(model, codes, oracle[:, 1 : frames + 1])


@pytest.fixture(scope="module")
def conversation(model):
    user, oracle = user_codes(2), oracle_tokens(2)
    oracle[:, 0] = CONFIG.text_padding_id
    tokens, logits = run(model, user, oracle, greedy(2))
    return logits, *teacher_forced(model, tokens, user, oracle)


def test_streaming_equals_teacher_forcing_past_the_ring(conversation):
    logits, own, out = conversation
    assert distance(logits[:, : own.shape[2]], np.asarray(out.text_logits[:, 0])) <= LOGITS


def test_greedy_tokens_are_the_argmax_of_teacher_forcing(conversation):
    _, own, out = conversation
    frames, mask = own.shape[2], np.asarray(out.mask)
    assert mask.sum() == 2 * (frames + 2 * (frames - 2))
    np.testing.assert_array_equal(np.asarray(out.logits.argmax(-1))[mask], own[:, 1:][mask])
    np.testing.assert_array_equal(np.asarray(out.text_logits[:, 0].argmax(-1)), own[:, 0])


def test_a_row_does_not_depend_on_its_neighbours_pauses_and_restarts(model):
    user, oracle = user_codes(3), oracle_tokens(3)
    settings = sampling(3)
    rng = np.random.default_rng(0)
    running = rng.random((FRAMES, 3)) < 0.7
    running[:, 0] = True
    resets = rng.random((FRAMES, 3)) < 0.05
    resets[:, 0] = False
    alone, _ = run(model, user, oracle, settings)
    among, _ = run(model, user, oracle, settings, running, resets)
    np.testing.assert_array_equal(alone[0], among[0])
    assert (among[1][~running[:, 1]] == streams.UNGENERATED_ID).all()


def test_a_restarted_row_repeats_a_fresh_conversation(model):
    user, oracle = user_codes(2), oracle_tokens(2)
    half = FRAMES // 2
    user[:, half:], oracle[:, half:] = user[:, :half], oracle[:, :half]
    resets = np.zeros((FRAMES, 2), bool)
    resets[half, 1] = True
    tokens, logits = run(model, user, oracle, sampling(2), resets=resets)
    np.testing.assert_array_equal(tokens[1, :half], tokens[1, half:])
    np.testing.assert_array_equal(logits[1, :half], logits[1, half:])


def test_a_paused_row_continues_where_it_stopped(model):
    user, oracle = user_codes(2), oracle_tokens(2)
    straight, _ = run(model, user, oracle, sampling(2))
    running = np.ones((FRAMES + 5, 2), bool)
    running[12:17, 1] = False
    late_user = np.concatenate([user[:, :12], user[:, :5], user[:, 12:]], axis=1)
    late_oracle = np.concatenate([oracle[:, :12], oracle[:, :5], oracle[:, 12:]], axis=1)
    paused, _ = run(model, late_user, late_oracle, sampling(2), running)
    np.testing.assert_array_equal(np.delete(paused[1], range(12, 17), axis=0), straight[1])


def test_forced_tokens_are_taken_and_returned(model):
    state = init_state(CONFIG, 1, jax.random.split(jax.random.key(0), 1), jnp.float32)
    forced = jnp.array([[5, 1, 2, streams.UNGENERATED_ID]])
    outs = []
    for t in range(6):
        state, out = jax.jit(frame_step)(
            model, state, jnp.array(user_codes(1)[:, t]), None, jnp.ones(1, bool), greedy(1), None, forced
        )
        outs.append(np.asarray(out.tokens[0]))
    assert outs[1].tolist() == [streams.UNGENERATED_ID] * 4
    assert outs[-1][:3].tolist() == [5, 1, 2]


def test_top_k_and_temperature_follow_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys = jax.random.split(jax.random.key(0), 4000)
    many = jnp.broadcast_to(logits, (4000, 4))
    drawn = np.asarray(sample(many, keys, jnp.ones(4000), jnp.full(4000, 2)))
    share = np.bincount(drawn, minlength=4) / 4000
    # Four standard errors of a proportion over 4,000 draws.
    np.testing.assert_allclose(share, [0.625, 0.375, 0, 0], atol=4 * 0.5 / 4000**0.5)
    cold = sample(many[:8], keys[:8], jnp.array([0.0] * 4 + [1.0] * 4), jnp.full(8, 4))
    assert (np.asarray(cold[:4]) == 0).all()


def test_bad_sampling_settings_are_refused():
    with pytest.raises(ValueError, match="text_top_k is 0"):
        sampling(1, text_top_k=0)
