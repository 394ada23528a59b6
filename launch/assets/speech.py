"""Speech for the bundled sample: espeak-ng through its C library, and Ogg Opus files: the same audio, the same bytes.

Needs the shared library of espeak-ng 1.51. Which words are spoken when is decided in `make_dialogues.py`.
"""

from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path

import numpy as np
import soundfile
import soxr

from kame_jax.make.speech import RATE, Espeak

FILE_RATE = 16_000
OPUS_COMPRESSION = 0.976
"""At lower bit rates Opus joins the two channels, and each speaker is heard in both."""
VOICE = "en-us+f3"
PACE = {"A": (175, 45), "B": (195, 60)}
"""Words a minute and pitch: what the two speakers differ in."""


class Speakers:
    """Both speakers, through espeak-ng: audio and the exact time of every word."""

    def __init__(self) -> None:
        self.espeak = Espeak()

    def __call__(self, text: str, speaker: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
        """Speech (float32 [samples] at 24 kHz) and each word's (start, end) in seconds."""
        pcm, starts = self.espeak.synthesize(text, VOICE, *PACE[speaker])
        last = int(np.nonzero(np.abs(pcm) > 150)[0][-1]) + 1
        places = [m.start() for m in re.finditer(r"\S+", text)]
        if missing := [p for p in places if p not in starts]:
            raise RuntimeError(f"{text!r}: espeak-ng marked no word at characters {missing}")
        edges = [s / self.espeak.rate for s in (*(starts[p] for p in places), last)]
        audio = soxr.resample(pcm[:last].astype(np.float32) / 32768, self.espeak.rate, RATE)
        return audio, list(itertools.pairwise(edges))


def _crc_of_byte(byte: int) -> int:
    crc = byte << 24
    for _ in range(8):
        crc = (crc << 1) ^ 0x104C11DB7 if crc & 0x80000000 else crc << 1
    return crc


CRC_TABLE = [_crc_of_byte(byte) for byte in range(256)]


def write_opus(path: Path, audio: np.ndarray, serial: int) -> None:
    """Ogg Opus of `audio [samples, channels]` at 24 kHz.

    A fixed stream serial number makes the same audio the same bytes.
    """
    audio = soxr.resample(audio, RATE, FILE_RATE)
    soundfile.write(path, audio, FILE_RATE, format="OGG", subtype="OPUS", compression_level=OPUS_COMPRESSION)
    data = bytearray(path.read_bytes())
    at = 0
    while at < len(data):
        segments = data[at + 26]
        size = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        data[at + 14 : at + 18] = struct.pack("<I", serial)
        data[at + 22 : at + 26] = bytes(4)
        data[at + 22 : at + 26] = struct.pack("<I", ogg_crc(data[at : at + size]))
        at += size
    path.write_bytes(bytes(data))


def ogg_crc(page: bytes | bytearray) -> int:
    """Checksum of an Ogg page (RFC 3533): polynomial 0x04c11db7, not reflected."""
    crc = 0
    for byte in page:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ CRC_TABLE[(crc >> 24) ^ byte]
    return crc
