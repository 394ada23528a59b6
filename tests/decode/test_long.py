"""A conversation of 300 seconds: the rings wrap again and again, memory stays flat, and no figure drifts."""

import jax
import numpy as np
import pytest

from kame_jax.decode import greedy
from kame_jax.decode.offline import generate
from tests.decode import small

FRAMES = 3750


@pytest.mark.slow
def test_300_seconds_of_sound_stay_exact_and_memory_flat():
    engine = small.engine(slots=2)
    voice = small.voice(50)
    with engine.join(settings=greedy(1)) as session:
        live = []
        for index in range(FRAMES):
            if index % 40 == 0:
                session.replace([4 + (index + i) % 300 for i in range(30)])
            frame = session.push(voice[index % 50])
            assert np.isfinite(frame.samples).all()
            if index in (500, FRAMES - 1):
                live.append(sum(array.nbytes for array in jax.live_arrays()))
        assert session.counts["late"] == session.counts["overflow"] == 0
        assert session.counts["read"] == 31 * (FRAMES // 40) + FRAMES % 40
    assert live[0] == live[1]


@pytest.mark.slow
def test_300_seconds_of_codes_equal_the_frame_step_alone():
    engine = small.engine(sound=False, slots=3)
    rng = np.random.default_rng(0)
    heard = rng.integers(0, small.CONFIG.card, (1, 2, FRAMES)).astype(np.int32)
    with engine.join(settings=greedy(1)) as session:
        frames = [session.push(heard[0, :, t]) for t in range(FRAMES)]
    said = np.stack([f.tokens for f in frames if f.tokens is not None], axis=1)
    idle = np.full((1, FRAMES), small.CONFIG.text_padding_id, np.int32)
    alone = generate(small.model(), heard, idle, greedy(1), jax.random.key(4242)[None])[0]
    np.testing.assert_array_equal(said, alone)
