"""Sound files in and out: one channel of float32 samples at the rate that is asked for.

Reads whatever libsndfile reads, block by block, so that a long file at a high rate never lies in memory whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from kame_jax.errors import InputError
from kame_jax.files import write_whole

BLOCK = 1 << 18
"""Samples of each channel read at once."""
CHANNEL_NAMES = {"left": 0, "right": 1}


def read_audio(path: str | os.PathLike[str], sample_rate: int, channel: str = "mix") -> np.ndarray:
    """One channel of a sound file at `sample_rate` samples a second.

    Args:
        path: any format that libsndfile knows (wav, flac, ogg, mp3, ...), any rate, any number of channels.
        sample_rate: of the result; other rates are converted (soxr, high quality).
        channel: a number from 0, "left", "right", or "mix", the mean of all channels.

    Returns:
        float32 `[samples]`, full scale is 1.

    Raises:
        InputError: the file is missing, unreadable or empty, lacks the channel, or holds a NaN or an infinity.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, expected a sound file")
    try:
        with soundfile.SoundFile(path) as file:
            pick = _picker(path, channel, file.channels)
            resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32")
            same, parts, position = file.samplerate == sample_rate, [], 0
            for block in file.blocks(BLOCK, dtype="float32", always_2d=True):
                samples = pick(block)
                if not np.isfinite(samples).all():
                    at = (position + int(np.argmin(np.isfinite(samples)))) / file.samplerate
                    raise InputError(f"{path}: the sample at {at:.3f} s is not a finite number")
                position += len(block)
                parts.append(samples if same else resampler.resample_chunk(samples))
            if not position:
                raise InputError(f"{path}: holds no samples")
            if not same:
                parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: cannot be read as a sound file: {error.error_string.strip()}") from None
    return np.concatenate(parts)


def write_audio(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int) -> int:
    """Writes a 16-bit wav file, under its name only once complete.

    Args:
        path: replaced if it exists.
        samples: float32 `[samples]` or `[samples, channels]`; what lies outside [-1, 1] is clipped.
        sample_rate: samples a second.

    Returns:
        How many samples were clipped.

    Raises:
        InputError: the file cannot be written there.
    """

    def write(file: BinaryIO) -> None:
        soundfile.write(file, np.clip(samples, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")

    write_whole(path, write)
    return int(np.count_nonzero(np.abs(samples) > 1.0))


def _picker(path: str | os.PathLike[str], channel: str, channels: int) -> Callable[[np.ndarray], np.ndarray]:
    """The function that takes one channel, or the mean, out of a block `[samples, channels]`."""
    if channel == "mix":
        return lambda block: block.mean(axis=1)
    index = CHANNEL_NAMES.get(channel)
    if index is None:
        if not channel.isdecimal():
            raise InputError(f'channel must be a number from 0, "left", "right" or "mix", got {channel!r}')
        index = int(channel)
    if index >= channels:
        raise InputError(
            f"{path}: has {channels} channel{'s' if channels > 1 else ''}, so there is no channel {channel!r}"
        )
    return lambda block: np.ascontiguousarray(block[:, index])
