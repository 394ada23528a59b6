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
    for name, content in {"junk.wav": b"not sound" * 50, "a.raw": b"12" * 50}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="convert it"):
            audio.read_audio(tmp_path / name, 24000)
    (tmp_path / "nothing.wav").write_bytes(b"")
    with pytest.raises(InputError, match="is empty, expected a sound file"):
        audio.read_audio(tmp_path / "nothing.wav", 24000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 24000)
    with pytest.raises(InputError, match="holds no samples"):
        audio.read_audio(tmp_path / "empty.wav", 24000)
    for value in (np.nan, np.inf, -1e38, 12_000.0):
        samples = np.stack([tone(24000, 300)] * 2, axis=1)
        samples[2400, 1] = value
        soundfile.write(tmp_path / "bad.wav", samples, 24000, subtype="FLOAT")
        for read in (audio.read_audio, audio.read_channels):
            with pytest.raises(InputError, match=r"at 0\.100 s is .*, expected -1 to 1"):
                read(tmp_path / "bad.wav", 24000)
    for rate in (1, 10_000_000):
        soundfile.write(tmp_path / "rate.wav", samples, rate)
        with pytest.raises(InputError, match=f"says {rate} samples a second, expected 1000 to 1000000"):
            audio.read_audio(tmp_path / "rate.wav", 24000)


def test_written_sound_reads_back_and_what_is_too_loud_is_counted(tmp_path):
    samples = tone(24000, 300)
    samples[5:8] = 1.5
    assert audio.write_audio(tmp_path / "a.wav", samples, 24000) == 3
    # 16 bits a sample.
    np.testing.assert_allclose(
        audio.read_audio(tmp_path / "a.wav", 24000), samples.clip(-1, 1), rtol=0, atol=2**-15
    )
