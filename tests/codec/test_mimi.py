"""Mimi against the PyTorch reference: codes, audio, streams that pause and start over."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from kame_jax.codec import mimi as codec
from kame_jax.interop import load_mimi

GOLDEN = Path(__file__).parents[1] / "golden" / "mimi"
FRAME, FRAMES = 1920, 12
# float32 rounding through some thirty layers, on audio that reaches 2.4; a wrong tap or mask shows above 1e-3.
AUDIO_ATOL = 1e-5

encode = jax.jit(codec.encode, static_argnames="codebooks")
decode = jax.jit(codec.decode)
encode_frame = jax.jit(codec.encode_frame)
decode_frame = jax.jit(codec.decode_frame)
reset = jax.jit(codec.reset)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """What the reference made: see `tests/golden/make_mimi.py`."""
    out = load_file(GOLDEN / "outputs.safetensors")
    out["audio"] = out["audio"].astype(np.float32)
    out["padded"] = np.pad(out["audio"], ((0, 0), (0, FRAMES * FRAME - out["audio"].shape[1])))
    return out


@pytest.fixture(scope="module")
def stored() -> codec.Mimi:
    """The tiny Mimi as its file holds it."""
    return load_mimi(GOLDEN)


@pytest.fixture(scope="module")
def mimi(stored: codec.Mimi) -> codec.Mimi:
    """The same, ready for inference."""
    return codec.prepare(stored)


def stream(mimi, audio, codes, state, exec_mask=None, reset_mask=None):
    """Both directions frame by frame: codes of `audio`, audio of `codes`."""
    exec_mask = np.ones((FRAMES, 2), bool) if exec_mask is None else exec_mask
    all_codes, all_audio = [], []
    for i in range(FRAMES):
        if reset_mask is not None:
            state = reset(mimi, state, reset_mask[i])
        new, state = encode_frame(mimi, state, audio[:, i * FRAME : (i + 1) * FRAME], exec_mask=exec_mask[i])
        all_codes.append(new)
        sound, state = decode_frame(mimi, state, codes[:, :, i : i + 1], exec_mask=exec_mask[i])
        all_audio.append(sound)
    return np.concatenate(all_codes, axis=2), np.stack(all_audio, axis=1)


def test_no_code_of_the_golden_recording_is_near_a_tie(golden):
    assert golden["margin"] > 1e-4


def test_codes_are_those_of_the_reference(mimi, golden):
    np.testing.assert_array_equal(encode(mimi, golden["audio"]), golden["codes"])


def test_audio_is_that_of_the_reference(mimi, golden):
    np.testing.assert_allclose(decode(mimi, golden["codes"]), golden["decoded"], rtol=0, atol=AUDIO_ATOL)


def test_a_prefix_of_the_codebooks_is_a_coarser_code(stored, golden):
    np.testing.assert_array_equal(encode(codec.prepare(stored, 3), golden["audio"]), golden["codes"][:, :3])


def test_fewer_codebooks_decode_without_preparing(stored, golden):
    audio = decode(stored, golden["codes"][:1, :3])
    np.testing.assert_allclose(audio, golden["decoded_3"], rtol=0, atol=AUDIO_ATOL)


def test_streaming_equals_offline_past_the_window(mimi, golden):
    codes, audio = stream(mimi, golden["padded"], golden["codes"], codec.init_state(mimi, 2))
    np.testing.assert_array_equal(codes, golden["codes"])
    # The same sums in other block sizes: a few units in the last place of audio that reaches 2.4.
    offline = decode(mimi, golden["codes"])
    np.testing.assert_allclose(audio.reshape(2, -1), offline, rtol=0, atol=5e-6)


def test_the_reference_ring_streams_as_the_reference_does(mimi, golden):
    state = codec.init_state(mimi, 2, reference_ring=True)
    codes, audio = stream(mimi, golden["padded"], golden["stream_codes"], state)
    assert (golden["stream_codes"] != golden["codes"]).any()
    np.testing.assert_array_equal(codes, golden["stream_codes"])
    np.testing.assert_allclose(audio.reshape(2, -1), golden["stream_decoded"], rtol=0, atol=AUDIO_ATOL)


def test_rows_pause_and_start_over_on_their_own(mimi, golden):
    runs = golden["exec_mask"].T
    state = codec.init_state(mimi, 2, reference_ring=True)
    codes, audio = stream(
        mimi, golden["padded"], golden["masked_codes"], state, golden["exec_mask"], golden["reset_mask"]
    )
    # What a paused row puts out means nothing, here and in the reference.
    np.testing.assert_array_equal(codes.swapaxes(1, 2)[runs], golden["masked_codes"].swapaxes(1, 2)[runs])
    expected = golden["masked_decoded"].reshape(2, FRAMES, FRAME)
    np.testing.assert_allclose(audio[runs], expected[runs], rtol=0, atol=AUDIO_ATOL)


def test_one_compiled_frame_serves_every_session_of_a_batch(mimi, golden):
    masks = golden["exec_mask"], golden["reset_mask"]
    stream(mimi, golden["padded"], golden["codes"], codec.init_state(mimi, 2), *masks)
    compiled = encode_frame._cache_size(), decode_frame._cache_size(), reset._cache_size()
    stream(mimi, golden["padded"][:, ::-1], golden["codes"], codec.init_state(mimi, 2), *masks)
    assert compiled == (encode_frame._cache_size(), decode_frame._cache_size(), reset._cache_size())


def test_bad_shapes_are_refused_with_what_was_expected(mimi):
    state = codec.init_state(mimi, 1)
    with pytest.raises(ValueError, match=r"n \* 1920"):
        codec.encode_frame(mimi, state, jnp.zeros((1, 1000)))
    with pytest.raises(ValueError, match="between 1 and 8"):
        codec.encode_frame(mimi, state, jnp.zeros((1, FRAME)), codebooks=9)
    with pytest.raises(ValueError, match="init_state"):
        codec.encode_frame(mimi, state, jnp.zeros((1, 3 * FRAME)))
    with pytest.raises(ValueError, match="at least one sample"):
        codec.encode(mimi, jnp.zeros((1, 0)))
    with pytest.raises(ValueError, match="at least one frame"):
        codec.decode(mimi, jnp.zeros((1, 8, 0), jnp.int32))
    with pytest.raises(ValueError, match="between 1 and 8"):
        codec.decode(mimi, jnp.zeros((1, 9, 1), jnp.int32))
