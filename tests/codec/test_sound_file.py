"""Sound whose header says too much, too little or nothing about its length: its true samples, or one line."""

import io
import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from kame_jax.codec import sound_file
from kame_jax.codec.audio import read_audio, read_channels

RATE = 24000
TONE = (np.linspace(0.05, 0.5, 3 * RATE) * np.sin(np.arange(3 * RATE) * 0.1)).astype(np.float32)
"""Three seconds of about 380 Hz that become louder."""
MP3_DELAY = 1105
"""Samples that an encoder puts before the first, where no frame tells a decoder to drop them."""


def encoded(kind, subtype, sound=TONE):
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.fixture
def read(tmp_path, caplog):
    """Reads bytes as a file, twice with the same samples; returns them with the warnings."""

    def read(content):
        path = tmp_path / "sound"
        path.write_bytes(content)
        samples = read_audio(path, RATE)
        warnings = [record.getMessage().removeprefix(f"{path}: ") for record in caplog.records]
        np.testing.assert_array_equal(samples, read_audio(path, RATE))
        return samples, warnings

    return read


@pytest.mark.parametrize(
    ("kind", "subtype", "noise"),
    [
        *[("WAV", name, 1e-4) for name in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")],
        *[("WAV", name, 0.03) for name in ("PCM_U8", "ULAW", "ALAW")],
        *[("WAV", name, 0.1) for name in ("IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32")],
        *[(name, "PCM_16", 1e-4) for name in ("WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC")],
        *[
            ("AIFF", "PCM_S8", 0.03),
            ("OGG", "VORBIS", 0.1),
            ("OGG", "OPUS", 0.1),
            ("MP3", "MPEG_LAYER_III", 0.1),
        ],
    ],
)
def test_every_encoding_gives_its_samples(kind, subtype, noise, read):
    samples, warnings = read(encoded(kind, subtype))
    assert not warnings
    assert 0 <= len(samples) - len(TONE) < 2048  # codecs in blocks fill their last
    # As root mean square; a codec's own noise, by its bits.
    assert np.sqrt(np.mean((samples[: len(TONE)] - TONE) ** 2)) < noise * TONE.std()


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "ULAW"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
    ]
    + [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")],
)
def test_a_file_that_was_cut_is_used_as_far_as_it_goes_and_says_what_is_missing(kind, subtype, read):
    content = encoded(kind, subtype)
    samples, (warning,) = read(content[: len(content) * 2 // 3])
    seconds = len(samples) / RATE
    assert 0.9 < seconds < 2.5
    assert np.sqrt(np.mean((samples - TONE[: len(samples)]) ** 2)) < 0.1 * TONE.std()
    if kind == "OGG":  # has no length in front
        assert warning == f"ends after {seconds:.2f} s without the mark of an end; its rest may be missing"
    else:
        told = re.fullmatch(
            r"ends after ([\d.]+) s, ([\d.]+) s of what its header promises are missing", warning
        )
        assert float(told[1]) == pytest.approx(seconds, abs=0.01)
        assert float(told[2]) == pytest.approx(3 - seconds, abs=0.02)


def test_an_mp3_that_promises_twice_what_it_holds_ends_where_it_ends(read):
    content = encoded("MP3", "MPEG_LAYER_III")
    at = re.search(b"Xing|Info", content).start() + 8
    frames = int.from_bytes(content[at : at + 4])
    samples, (warning,) = read(content[:at] + (2 * frames).to_bytes(4) + content[at + 4 :])
    assert len(samples) == pytest.approx(len(TONE), abs=2 * 1152)
    assert "of what its header promises are missing" in warning


def test_an_mp3_without_a_xing_frame_is_read_to_its_end(read, monkeypatch):
    quiet = np.concatenate([TONE, np.random.default_rng(0).normal(0, 0.2, 3 * RATE).astype(np.float32)])
    content = encoded("MP3", "MPEG_LAYER_III", quiet)
    second = sound_file.MP3_FRAME.search(content, re.search(b"Xing|Info", content).start()).start()
    samples, warnings = read(content[second:])
    assert not warnings
    assert len(quiet) <= len(samples) < len(quiet) + 3 * 1152
    shifted = samples[MP3_DELAY:][: len(TONE)]
    assert np.sqrt(np.mean((shifted - TONE) ** 2)) < 0.1 * TONE.std()
    # No block changes what another gives, as it would with a seek between them.
    monkeypatch.setattr(sound_file, "BLOCK", 1000)
    np.testing.assert_array_equal(read(content[second:])[0], samples)


def test_of_mp3s_one_behind_the_other_all_are_read(read):
    samples, warnings = read(2 * encoded("MP3", "MPEG_LAYER_III"))
    assert not warnings
    assert 2 * len(TONE) <= len(samples) < 2 * len(TONE) + 6 * 1152


def test_of_ogg_streams_one_behind_the_other_the_first_is_read_and_the_others_are_told(read):
    samples, warnings = read(2 * encoded("OGG", "OPUS"))
    assert len(samples) == len(TONE)
    assert warnings == ["holds several recordings in a row, of which the first is used"]


def test_what_stands_behind_the_end_of_a_flac_file_costs_no_sample(read):
    samples, _ = read(encoded("FLAC", "PCM_16") + b"TAG" + bytes(125))
    np.testing.assert_allclose(samples, TONE, rtol=0, atol=2**-15)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("sound", [TONE, 0 * TONE], ids=["tone", "silence"])
def test_a_wav_file_whose_writer_left_its_length_open_is_read_to_its_end(size, sound, read):
    content = encoded("WAV", "PCM_16", sound)
    at = content.index(b"data") + 4
    for riff in (content[4:8], size.to_bytes(4, "little")):
        samples, warnings = read(
            content[:4] + riff + content[8:at] + size.to_bytes(4, "little") + content[at + 4 :]
        )
        assert not warnings
        np.testing.assert_allclose(samples, sound, rtol=0, atol=2**-15)


def test_other_chunks_behind_an_empty_one_are_not_sound(read):
    content = encoded("WAV", "PCM_16", TONE[:0])
    with pytest.raises(sound_file.InputError, match="holds no samples"):
        read(content + b"LIST\x04\0\0\0INFO" + b"note\x03\0\0\0abc\0")


def test_64_channels_arrive_in_order(tmp_path):
    sound = np.linspace(-1, 1, 64)[None] * TONE[:2400, None]
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_channels(tmp_path / "a.wav", RATE), sound.T, rtol=0, atol=1e-7)
    assert read_audio(tmp_path / "a.wav", 8000, "63").shape == (800,)


def test_sound_comes_through_a_pipe():
    for kind, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")):
        here, there = os.pipe()
        content = encoded(kind, subtype)

        def fill(there=there, content=content):
            with os.fdopen(there, "wb") as file:
                file.write(content)

        with os.fdopen(here), ThreadPoolExecutor() as pool:
            filled = pool.submit(fill)
            assert len(read_audio(f"/dev/fd/{here}", RATE)) == len(TONE)
            filled.result()
