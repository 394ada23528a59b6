"""Speech for the bundled sample: espeak-ng through its C library, and Ogg Opus files: the same audio, the same bytes.

Needs the shared library of espeak-ng 1.51. Which words are spoken when is `make`'s.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

RATE = 24_000
FILE_RATE = 16_000
OPUS_COMPRESSION = 0.976
"""At fewer bits Opus joins the two channels, and each speaker is heard in both."""
VOICE = b"en-us+f3"
PACE = {"A": (175, 45), "B": (195, 60)}
"""Words a minute and pitch: what the two speakers differ in."""


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


class Espeak:
    """espeak-ng through its C library: audio and the sample at which the word at each character begins."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self.lib.espeak_Initialize(2, 0, None, 0)
        self.audio: list[np.ndarray] = []
        self.starts: dict[int, int] = {}
        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
        )
        self.callback = callback_type(self._receive)
        self.lib.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        i = 0
        while events[i].type != 0:
            if events[i].type == 1:
                self.starts.setdefault(events[i].text_position - 1, events[i].sample)
            i += 1
        if count:
            self.audio.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def __call__(self, text: str, speaker: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
        """Speech (float32 [samples] at 24 kHz) and each word's (start, end) in seconds."""
        words_per_minute, pitch = PACE[speaker]
        if self.lib.espeak_SetVoiceByName(VOICE):
            raise RuntimeError(f"espeak-ng has no voice {VOICE.decode()}")
        self.lib.espeak_SetParameter(1, words_per_minute, 0)
        self.lib.espeak_SetParameter(3, pitch, 0)
        self.audio, self.starts = [], {}
        data = text.encode()
        self.lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
        pcm = np.concatenate(self.audio)
        last = int(np.nonzero(np.abs(pcm) > 150)[0][-1]) + 1
        places = [m.start() for m in re.finditer(r"\S+", text)]
        if missing := [p for p in places if p not in self.starts]:
            raise RuntimeError(f"{text!r}: espeak-ng marked no word at characters {missing}")
        edges = [s / self.rate for s in (*(self.starts[p] for p in places), last)]
        audio = soxr.resample(pcm[:last].astype(np.float32) / 32768, self.rate, RATE)
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
