"""Sound files in and out: one channel of float32 samples at the requested rate.

Files are read block by block, so that a long one at a high rate is never in memory whole.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

from kame_jax.codec.sound_file import SoundFile
from kame_jax.errors import InputError
from kame_jax.files import write_whole

LOUDEST = 8.0
"""Times full scale: floating-point sound may well exceed 1, but beyond this, 18 dB, are integers stored as floats, and
junk."""
CHANNEL_NAMES = {"left": 0, "right": 1}


def read_audio(path: str | os.PathLike[str], sample_rate: int, channel: str = "mix") -> np.ndarray:
    """One channel of a sound file at `sample_rate` samples a second.

    Args:
        path: as `read_channels` takes it.
        sample_rate: of the result.
        channel: a number from 0, "left", "right", or "mix", the mean of all channels.

    Returns:
        float32 `[samples]`, full scale is 1.

    Raises:
        InputError: as `read_channels`, or the file lacks the channel.
    """
    with SoundFile(path) as file:
        return _resampled(file, sample_rate, _picker(path, channel, file.channels), 1)[:, 0]


def read_channels(path: str | os.PathLike[str], sample_rate: int) -> np.ndarray:
    """All channels of a sound file at `sample_rate` samples a second.

    A file that is shorter than its header says is used as far as it goes, with a warning.

    Args:
        path: any format that libsndfile knows (wav, flac, ogg, mp3, ...), any rate, any number of channels.
        sample_rate: of the result; other rates are converted (soxr, high quality).

    Returns:
        float32 `[channels, samples]`, full scale is 1.

    Raises:
        InputError: the file is missing, unreadable or empty, or holds an invalid sample: NaN, an infinity, or
            far beyond full scale.
    """
    with SoundFile(path) as file:
        return np.ascontiguousarray(_resampled(file, sample_rate, lambda block: block, file.channels).T)


def write_audio(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int) -> int:
    """Writes a 16-bit wav file, under its name only once complete.

    Args:
        path: replaced if it exists.
        samples: float32 `[samples]` or `[samples, channels]`; what is outside [-1, 1] is clipped.
        sample_rate: samples a second.

    Returns:
        How many samples were clipped.

    Raises:
        InputError: the file cannot be written there.
    """

    wav = io.BytesIO()  # libsndfile does not report a full disk
    soundfile.write(wav, np.clip(samples, -1.0, 1.0), sample_rate, format="WAV", subtype="PCM_16")
    write_whole(path, lambda file: file.write(wav.getbuffer()))
    return int(np.count_nonzero(np.abs(samples) > 1.0))


def _resampled(
    file: SoundFile, sample_rate: int, pick: Callable[[np.ndarray], np.ndarray], channels: int
) -> np.ndarray:
    """What `pick` takes of each block, float32 `[samples, channels]`, at `sample_rate`."""
    resampler = soxr.ResampleStream(file.samplerate, sample_rate, channels, dtype="float32")
    parts, position = [], 0
    for block in file.blocks_to_end():
        samples = pick(block)
        sound = np.abs(samples) <= LOUDEST
        if not sound.all():
            first = int(np.argmin(sound.all(axis=1)))
            raise InputError(
                f"{file.path}: the sample at {(position + first) / file.samplerate:.3f} s is "
                f"{samples[first][~sound[first]][0]:g}, expected -1 to 1, which is full scale"
            )
        position += len(block)
        parts.append(samples.copy() if file.samplerate == sample_rate else resampler.resample_chunk(samples))
    if file.samplerate != sample_rate:
        parts.append(resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True))
    return np.concatenate(parts)


def _picker(path: str | os.PathLike[str], channel: str, channels: int) -> Callable[[np.ndarray], np.ndarray]:
    """The function that takes one channel, or the mean, out of a block: `[samples, channels]` to `[samples, 1]`."""
    if channel == "mix":
        return lambda block: block.mean(axis=1, keepdims=True)
    index = CHANNEL_NAMES.get(channel)
    if index is None:
        if not channel.isdecimal():
            raise InputError(f'channel must be a number from 0, "left", "right" or "mix", got {channel!r}')
        index = int(channel)
    if index >= channels:
        raise InputError(
            f"{path}: has {channels} channel{'s' if channels > 1 else ''}, so channel {channel!r} does not exist"
        )
    return lambda block: np.ascontiguousarray(block[:, index, None])
