"""An OpenAI-compatible transcription endpoint (`/audio/transcriptions`): whole recordings in, used on a growing turn.

The turn so far is sent again and again; words count when two transcripts in a row begin with them, so that they do not
flap (local agreement: Machacek, Dabre and Bojar, arXiv 2307.14743). Silence is never sent: such models invent words.
"""

from __future__ import annotations

import io
import json
import re
from collections import deque

import numpy as np
import soundfile
import soxr

from kame_jax.config import STTConfig
from kame_jax.llm import Endpoint, LLMError, one_line
from kame_jax.llm.endpoint import deadline
from kame_jax.llm.errors import reported
from kame_jax.streams import FRAME_SECONDS
from kame_jax.tandem.networked import Networked
from kame_jax.tandem.transcript import Heard
from kame_jax.tandem.words import MOST_CHARS, join_words, split_words, spoken_part

WHISPER_RATE = 16_000
BEFORE = 4
"""Frames before the first loud one that belong to a turn."""
LEAST_LOUD = 2
"""Loud frames that make a turn: fewer are a click."""
PROMPT_CHARS = 200
MAX_BYTES = 1 << 20
"""Of a reply."""


class Activity:
    """Whether a frame holds a voice: well above the quietest of late. Levels are decibels of full scale."""

    ABOVE = 12.0
    LEAST = -50.0
    QUIETEST = -65.0
    RISE = 2.0 * FRAME_SECONDS
    """How fast the estimate of quiet rises, decibels a frame."""

    def __init__(self) -> None:
        self._quiet = self.QUIETEST

    def push(self, samples: np.ndarray) -> bool:
        """Takes a frame, float32 `[samples]`."""
        level = 10 * np.log10(float(np.mean(np.square(samples, dtype=np.float64))) + 1e-12)
        self._quiet = max(min(self._quiet + self.RISE, level), self.QUIETEST)
        return level > max(self._quiet + self.ABOVE, self.LEAST)


class Agreement:
    """The words on which two transcripts of a growing recording agree; a word once released stays."""

    def __init__(self) -> None:
        self.words: list[str] = []
        """Released so far."""
        self.last: list[str] = []
        """The newest transcript."""

    def push(self, text: str) -> list[str]:
        """Takes the next transcript; gives the words so far."""
        new, agreed = split_words(text), 0
        for a, b in zip(self.last, new):
            if _plain(a) != _plain(b):
                break
            agreed += 1
        self.last = new
        if agreed > len(self.words):
            self.words = self.words + new[len(self.words) : agreed]
        return self.words


def _plain(word: str) -> str:
    return re.sub(r"[\W_]+", "", word.lower()) or word


class Whisper(Networked):
    """See the top of this file.

    Args:
        config: the endpoint, how often it is asked, and limits.
        sample_rate: of the frames, samples a second.
        pause: seconds of silence after which a turn is over.

    Raises:
        InputError: what `Endpoint` raises.
    """

    def __init__(self, config: STTConfig, sample_rate: int, pause: float = 0.8) -> None:
        self._model = config.model or "whisper-1"
        self._endpoint = Endpoint(self._model, config.base_url, config.key_env, config.timeout, MAX_BYTES)
        self._pause = pause
        self._activity = Activity()
        self._resampler = soxr.ResampleStream(sample_rate, WHISPER_RATE, 1, dtype="float32")
        self._before: deque[np.ndarray] = deque(maxlen=BEFORE)
        self._asked_at = -np.inf
        self._begin()
        super().__init__(config, sample_rate, f"speech-to-text {self._endpoint}")

    def _begin(self) -> None:
        """A new turn."""
        self._sound: list[np.ndarray] = []
        self._loud = 0
        self._loud_at = self._asked_loud_at = self._now = -np.inf
        self._fixed = ""
        self._agreement = Agreement()
        self._said = Heard("", False, 0.0)

    async def _session(self) -> None:
        while True:
            self._add(*await self._next())
            if self._loud and self._now - self._loud_at >= self._pause:
                await self._finish()
            elif self._due():
                await self._ask()

    def _add(self, samples: np.ndarray, time: float) -> None:
        loud = self._activity.push(samples)
        chunk = self._resampler.resample_chunk(samples)
        if not self._loud:
            self._before.append(chunk)
            self._sound = list(self._before)
        else:
            self._sound.append(chunk)
        if loud:
            self._loud, self._loud_at = self._loud + 1, time
        self._now = time
        if self._seconds(self._sound) > 2 * self.config.window:
            # The server does not answer: sound too old for a request is dropped.
            self.counts["frames_left_out"] += 1
            self._sound.pop(0)

    def _due(self) -> bool:
        """Whether there is something new to ask about, all waiting sound has been taken, and it is not too soon."""
        new = self._loud >= LEAST_LOUD and self._loud_at > self._asked_loud_at
        soon = self._loop.time() - self._asked_at < self.config.interval
        return new and not soon and not self._waiting

    async def _ask(self) -> None:
        """Sends the turn so far; reports what two answers agree on."""
        if self._seconds(self._sound) > self.config.window:
            await self._cut()
        asked = self._loud_at
        text = self._text(self._agreement.push(await self._transcribe(self._sound)))
        # What both transcripts share had been said when the earlier one was made.
        known, self._asked_loud_at = self._asked_loud_at, asked
        if text != self._said.text:
            self._tell_turn(text, final=False, time=known)

    async def _finish(self) -> None:
        """Ends the turn with the transcript of all of it, or with what is known where that fails."""
        try:
            if self._loud >= LEAST_LOUD and self._asked_loud_at < self._loud_at:
                self._agreement.push(await self._transcribe(self._sound))
        finally:
            text, time = self._text(self._agreement.last), self._loud_at
            if text or self._said.text:
                self._tell_turn(text or self._said.text, final=True, time=time)
            self._begin()

    async def _cut(self) -> None:
        """Fixes the text of the first part of a long turn, up to a quiet place."""
        sizes = [float(np.square(chunk).mean()) if len(chunk) else np.inf for chunk in self._sound]
        first, last = len(sizes) // 3, 2 * len(sizes) // 3
        place = first + int(np.argmin(sizes[first : last + 1]))
        text = await self._transcribe(self._sound[:place])
        self._fixed = f"{self._fixed} {text}".strip()[-MOST_CHARS:]
        self._sound, self._agreement = self._sound[place:], Agreement()

    def _text(self, words: list[str]) -> str:
        return join_words([*split_words(self._fixed), *words])

    def _tell_turn(self, text: str, final: bool, time: float) -> None:
        self._said = Heard(text, final, max(time, self._said.time))
        self._tell(self._said)

    async def _transcribe(self, sound: list[np.ndarray]) -> str:
        samples = np.concatenate(sound)
        self._asked_at = self._loop.time()
        self.counts["requests"] += 1
        self._sending(len(samples) / WHISPER_RATE)
        file = io.BytesIO()
        soundfile.write(file, samples, WHISPER_RATE, format="WAV", subtype="PCM_16")
        options = {"language": self.config.language, "prompt": self._fixed[-PROMPT_CHARS:]}
        async with deadline(self.config.timeout, "no transcript"), self._endpoint.failures():
            reply = await self._endpoint.api.audio.transcriptions.with_raw_response.create(
                file=("turn.wav", file.getvalue(), "audio/wav"),
                model=self._model,
                response_format="json",
                **{name: value for name, value in options.items() if value},
            )
            text = _transcript(reply.http_response.content)
        self._failures = 0
        return spoken_part(text)

    def _seconds(self, sound: list[np.ndarray]) -> float:
        return sum(map(len, sound)) / WHISPER_RATE

    async def _end(self) -> None:
        await self._endpoint.close()


def _transcript(body: bytes) -> str:
    """The text in a reply."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise LLMError("malformed", f"expected JSON with a text, got {one_line(body[:80])}") from None
    if error := reported(value):
        raise LLMError(error[0], one_line(error[1]))
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise LLMError("malformed", f"a transcript without text: {one_line(json.dumps(value))[:80]}")
    return text
