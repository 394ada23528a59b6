"""Text to speech with word times, behind one interface: espeak-ng offline, or any OpenAI-compatible speech endpoint.

An engine gives mono sound and, where it knows them, the times of the words; where it does not, `word_times` guesses.
"""

from __future__ import annotations

import ctypes
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import soxr

from kame_jax.errors import InputError

RATE = 24_000
SILENCE = 0.005
"""Of full scale: anything quieter at the ends is not speech."""


class SpeechError(RuntimeError):
    """A sentence that was not spoken; one line."""


@dataclass(frozen=True)
class Speech:
    """One turn, spoken."""

    audio: np.ndarray
    """float32 `[samples]` at `RATE`."""
    words: tuple[tuple[str, float, float], ...]
    """Each word as it is written, with its start and end in seconds."""


class Engine(Protocol):
    """Anything that speaks."""

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it."""

    def speak(self, text: str, voice: str) -> Speech:
        """Speaks a text; raises SpeechError when it cannot."""

    def close(self) -> None:
        """Ends what is open."""


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
    """espeak-ng through its shared library, with the times of its own word events. One per process.

    Args:
        words_per_minute: how fast.
        library: name of the shared library.

    Raises:
        InputError: espeak-ng is not installed.
    """

    def __init__(self, words_per_minute: int = 175, library: str = "libespeak-ng.so.1") -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError:
            raise InputError(
                f"{library} is not there: install espeak-ng (Debian, Ubuntu: apt install espeak-ng), or name a speech "
                "endpoint with --tts openai"
            ) from None
        self.rate = self._library.espeak_Initialize(2, 0, None, 0)
        """Of what `synthesize` gives, in Hz."""
        if self.rate <= 0:
            raise InputError("espeak-ng does not start: are its voice files (espeak-ng-data) installed?")
        self._speed = words_per_minute
        self._audio: list[np.ndarray] = []
        self._starts: dict[int, int] = {}
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
        )
        self._callback = kind(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"engine": "espeak-ng", "words_per_minute": self._speed}

    def require(self, voices: Sequence[str]) -> None:
        """Raises InputError when a voice is not there."""
        for voice in voices:
            if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise InputError(
                    f"espeak-ng has no voice {voice!r}: `espeak-ng --voices` lists them, +m1 to +f5 vary them"
                )

    def close(self) -> None:
        """Nothing is open: the library stays loaded."""

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        for event in itertools.takewhile(lambda e: e.type != 0, (events[i] for i in itertools.count())):
            if event.type == 1:
                self._starts.setdefault(event.text_position - 1, event.sample)
        if count:
            self._audio.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def synthesize(
        self, text: str, voice: str, words_per_minute: int, pitch: int | None = None
    ) -> tuple[np.ndarray, dict[int, int]]:
        """Samples (int16 `[n]` at `rate`), and the first sample of the word at each character that begins one.

        Args:
            text: what is said.
            voice: as espeak-ng names it.
            words_per_minute: how fast.
            pitch: 0 to 99; None takes the voice's own.

        Raises:
            SpeechError: there is no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(1, words_per_minute, 0)
        if pitch is not None:
            self._library.espeak_SetParameter(3, pitch, 0)
        self._audio, self._starts = [], {}
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
        return (np.concatenate(self._audio) if self._audio else np.zeros(0, np.int16)), self._starts

    def speak(self, text: str, voice: str) -> Speech:
        """Speaks a text; `voice` as espeak-ng names it (`en-us+f3`)."""
        samples, starts_at = self.synthesize(text, voice, self._speed)
        pcm = samples.astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(pcm) > SILENCE)
        if not len(loud):
            raise SpeechError(f"espeak-ng said nothing for {text[:60]!r}")
        end = int(loud[-1]) + 1
        places = [(match.start(), match.group()) for match in re.finditer(r"\S+", text)]
        starts = [min(starts_at[at], end) / self.rate if at in starts_at else None for at, _ in places]
        audio = soxr.resample(pcm[:end], self.rate, RATE)
        edges = _filled([len(word) for _, word in places], starts, end / self.rate)
        words = zip((word for _, word in places), edges, edges[1:])
        return Speech(audio, tuple((word, start, stop) for word, start, stop in words))


def _filled(sizes: Sequence[int], starts: Sequence[float | None], end: float) -> list[float]:
    """Starts of words and the end, ascending; an unknown start shares the time around it by the words' sizes."""
    known = [(i, start) for i, start in enumerate(starts) if start is not None]
    if not known or known[0][0] != 0:
        known.insert(0, (0, 0.0))
    known.append((len(sizes), end))
    edges = [0.0] * (len(sizes) + 1)
    for (i, start), (j, stop) in itertools.pairwise(known):
        stop = max(start, stop)
        total, done = sum(sizes[i:j]) or 1, 0
        for k in range(i, j):
            edges[k] = start + (stop - start) * done / total
            done += sizes[k]
    edges[-1] = end
    return list(np.maximum.accumulate(edges))


def word_times(text: str, audio: np.ndarray, rate: int = RATE) -> tuple[tuple[str, float, float], ...]:
    """Word times where an engine gives none: characters share the time between the first sound and the last."""
    loud = np.flatnonzero(np.abs(audio) > SILENCE)
    if not len(loud):
        raise SpeechError(f"no sound for {text[:60]!r}")
    words = text.split()
    first, last = loud[0] / rate, (loud[-1] + 1) / rate
    edges = _filled([len(word) + 1 for word in words], [first, *([None] * (len(words) - 1))], last)
    return tuple(zip(words, edges, edges[1:]))
