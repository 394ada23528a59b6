"""Sound files in and out."""

import numpy as np
import pytest
import soundfile

from kame_jax.codec import audio
from kame_jax.errors import InputError


def tone(rate, hertz, seconds=0.5):
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
def test_any_rate_arrives_at_24_khz_with_its_pitch_and_length(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(rate, 500), rate)
    samples = audio.read_audio(tmp_path / "a.wav", 24000)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 12000) <= 1
    spectrum = np.abs(np.fft.rfft(samples, 12000))
    assert spectrum.argmax() == 250  # 500 Hz at 2 Hz a bin
    # The resampler's pass band is flat to well under a percent, its ends ring a little.
    np.testing.assert_allclose(samples[2000:10000].std(), 0.4 / np.sqrt(2), rtol=0.01)


def test_reading_in_blocks_equals_reading_at_once(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(44100, 300), 44100)
    whole = audio.read_audio(tmp_path / "a.wav", 24000)
    monkeypatch.setattr(audio, "BLOCK", 1000)
    np.testing.assert_array_equal(audio.read_audio(tmp_path / "a.wav", 24000), whole)


def test_one_channel_is_picked_or_all_are_mixed(tmp_path):
    left, right = tone(24000, 300), tone(24000, 700)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 24000, subtype="FLOAT")
    for name, expected in {
        "0": left,
        "left": left,
        "1": right,
        "right": right,
        "mix": (left + right) / 2,
    }.items():
        np.testing.assert_allclose(
            audio.read_audio(tmp_path / "a.wav", 24000, name), expected, rtol=0, atol=1e-7
        )
    with pytest.raises(InputError, match="has 2 channels"):
        audio.read_audio(tmp_path / "a.wav", 24000, "2")
    with pytest.raises(InputError, match="got 'centre'"):
        audio.read_audio(tmp_path / "a.wav", 24000, "centre")


def test_bad_sound_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        audio.read_audio(tmp_path / "none.wav", 24000)
    (tmp_path / "junk.wav").write_bytes(b"not sound" * 50)
    with pytest.raises(InputError, match="cannot be read as a sound file"):
        audio.read_audio(tmp_path / "junk.wav", 24000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 24000)
    with pytest.raises(InputError, match="holds no samples"):
        audio.read_audio(tmp_path / "empty.wav", 24000)
    for value in (np.nan, np.inf):
        samples = tone(24000, 300)
        samples[2400] = value
        soundfile.write(tmp_path / "bad.wav", samples, 24000, subtype="FLOAT")
        with pytest.raises(InputError, match=r"at 0\.100 s is not a finite number"):
            audio.read_audio(tmp_path / "bad.wav", 24000)


def test_written_sound_reads_back_and_what_is_too_loud_is_counted(tmp_path):
    samples = tone(24000, 300)
    samples[5:8] = 1.5
    assert audio.write_audio(tmp_path / "a.wav", samples, 24000) == 3
    # 16 bits a sample.
    np.testing.assert_allclose(
        audio.read_audio(tmp_path / "a.wav", 24000), samples.clip(-1, 1), rtol=0, atol=2**-15
    )
