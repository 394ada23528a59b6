"""What an engine is given and cannot use: refused before any session has run, or heard as silence and counted."""

import gc
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.decode import greedy, sampling
from kame_jax.decode.engine import _say_if_slow
from kame_jax.errors import InputError
from kame_jax.oracle import OracleOp
from kame_jax.sharding import make_mesh
from tests.decode import small
from tests.decode.test_engine import converse, of_codes, shared, sound_and_tokens

FRAMES = 12
NOISE = small.voice(FRAMES)


def alone(audio, changes=()):
    """What a session says that hears `audio` and is never disturbed."""
    with shared().join(settings=greedy(1)) as session:
        return [frame.oracle for frame in converse(session, audio, changes)], session.silenced


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (NOISE[0][:-1], r"shape \[1920\], got \[1919\]"),
        (NOISE[:1], r"shape \[1920\], got \[1, 1920\]"),
        (np.zeros(small.FRAME, np.int32), "or int16, got int32"),
        (np.zeros(small.FRAME, bool), "or int16, got bool"),
        (np.zeros(small.FRAME, complex), "or int16, got complex128"),
        (np.zeros(small.FRAME, object), "or int16, got object"),
    ],
)
def test_a_step_with_one_bad_frame_takes_nothing_from_anybody(frame, message):
    change = OracleOp(0, "replace", (20, 21, 22))
    undisturbed, _ = alone(NOISE, [change])
    with shared().join(settings=greedy(1)) as session, shared().join() as other:
        session.change(change)
        for bad in ({session: NOISE[0], other: frame}, {other: frame, session: NOISE[0]}):
            with pytest.raises(ValueError, match=message):
                shared().step(bad)
        assert (session.frames, other.frames) == (0, 0)
        assert [frame.oracle for frame in converse(session, NOISE)] == undisturbed


def test_a_step_with_a_session_that_has_left_takes_nothing_either():
    with shared().join(settings=greedy(1)) as session, shared().join() as gone:
        session.replace([20, 21])
        gone.leave()
        with pytest.raises(ValueError, match="has left"):
            shared().step({session: NOISE[0], gone: NOISE[0]})
        assert [session.push(samples).oracle for samples in NOISE[:3]] == [512, 20, 21]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, 32767.0])
def test_a_sample_that_is_no_sound_is_heard_as_silence_and_counted(value):
    spoilt, cleaned = NOISE.copy(), NOISE.copy()
    spoilt[3, [5, 6, 1900]], cleaned[3, [5, 6, 1900]] = value, 0.0
    with shared().join(settings=greedy(1)) as session:
        found = sound_and_tokens(converse(session, spoilt))
        assert session.silenced == 3
    with shared().join(settings=greedy(1)) as session:
        expected = sound_and_tokens(converse(session, cleaned))
        assert session.silenced == 0
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float64, np.int16])
def test_samples_of_other_kinds_are_converted_by_rule(dtype):
    whole = np.round(NOISE * 32768).clip(-32768, 32767)
    given = whole.astype(np.int16) if dtype == np.int16 else (whole / 32768).astype(dtype)
    found = []
    for audio in (given, (whole / 32768).astype(np.float32)):
        with shared().join(settings=greedy(1)) as session:
            found.append(sound_and_tokens(converse(session, audio)))
    for a, b in zip(*found):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_temperature": np.nan}, "text_temperature is nan, expected a number of at least 0"),
        ({"audio_temperature": np.inf}, "audio_temperature is inf"),
        ({"audio_temperature": -0.1}, "audio_temperature is -0.1"),
        ({"text_top_k": np.nan}, "text_top_k is nan, expected a whole number of at least 1"),
        ({"audio_top_k": 2.5}, "audio_top_k is 2.5"),
        ({"audio_top_k": 0}, "audio_top_k is 0"),
    ],
)
def test_sampling_settings_that_are_no_numbers_are_refused_however_they_are_made(settings, message):
    with pytest.raises(ValueError, match=message):
        sampling(1, **settings)
    (name,) = settings
    by_hand = sampling(1)._replace(**{name: np.array([settings[name]])})
    with pytest.raises(ValueError, match=message):
        shared().join(settings=by_hand)
    assert shared().free == 3


def test_a_top_k_beyond_every_vocabulary_is_all_of_it():
    assert sampling(1, text_top_k=10**12).text_top_k > 10**9


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (np.full((3, 4), 10**6), "says 1000000 in row 0 at frame 0, expected 0 to 511"),
        (np.array([[3], [32], [0]]), "says 32 in row 1 at frame 0, expected 0 to 31"),
        (np.array([[3], [-1], [0]]), "says -1 in row 1"),
        (np.full((3, 4), np.nan), "got float64"),
        (np.zeros((2, 4), int), r"integers \[3, frames\] .* got int64 \[2, 4\]"),
        (np.zeros(3, int), r"got int64 \[3\]"),
    ],
)
def test_a_prompt_that_cannot_be_said_is_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        shared().join(prompt=prompt)
    assert shared().free == 3


def test_settings_of_more_rows_guidance_that_is_no_number_and_unknown_changes_are_refused():
    with pytest.raises(ValueError, match=r"has shape \[2\], expected \[1\]"):
        shared().join(settings=sampling(2))
    with pytest.raises(InputError, match="guidance is nan"):
        shared().join(guidance=np.nan)
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match="expected 0 to 4294967295"):
            shared().join(seed=seed)
    with shared().join() as session:
        with pytest.raises(ValueError, match="oracle change 'push', expected one of replace, append, clear"):
            session.change(OracleOp(0, "push", (4,)))
        with pytest.raises(TypeError):
            session.replace([4.5])
        assert session.log == []


def test_codes_that_are_none_are_refused():
    with of_codes().join() as session:
        for codes in ([32.0, 0.0], [33, 0], [-2, 0], [True, False]):
            with pytest.raises(ValueError, match="codes are integers from 0 to 32"):
                session.push(np.array(codes))
        assert session.push(np.array([32, -1])).index == 0


def test_a_session_that_is_dropped_without_leaving_frees_its_slot():
    dropped = [shared().join() for _ in range(3)]
    with pytest.raises(InputError, match="slots are taken"):
        shared().join()
    del dropped[1:]
    gc.collect()
    assert shared().free == 2
    del dropped
    gc.collect()
    shared().join().leave()
    assert shared().free == 3


@pytest.mark.parametrize(
    ("dtype", "int8_weights", "kind"), [(jnp.float32, True, "int8"), (jnp.bfloat16, False, "bfloat16")]
)
def test_weights_that_are_slow_on_a_cpu_are_said_in_one_line(dtype, int8_weights, kind, caplog):
    mesh = make_mesh(1, 1, 1, jax.devices("cpu")[:1])
    with caplog.at_level(logging.WARNING):
        _say_if_slow(mesh, jnp.dtype(dtype), int8_weights)
        _say_if_slow(mesh, jnp.dtype(jnp.float32), False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{kind} weights make a frame about 4 times slower than float32 on a CPU")
