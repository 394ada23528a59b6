"""Kyutai's speech-to-text server (moshi-server, modules Asr and BatchedAsr) as a source of transcripts.

Protocol: kyutai-labs/moshi `rust/moshi-server/src/asr.rs`, `/api/asr-streaming`. Words come with their times; models
that predict pauses end a turn early. A pause is followed by silence sent at once, which flushes the words that are
still inside the model, as kyutai-labs/unmute does it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kame_jax.config import STTConfig
from kame_jax.llm import LLMError, kyutai, one_line
from kame_jax.tandem.networked import RATE, Socketed
from kame_jax.tandem.transcript import Heard

PAUSE_HEAD = 2
"""Of the model's extra heads, the one with the first class "nothing more is said for two seconds"."""
FRAME_SAMPLES = 1920
MOST_WORDS, MOST_WORD_CHARS = 2000, 100
"""Of a turn, and of a word."""
DELAY = 0.5
"""Seconds by which words come late unless set otherwise: the 1B model's."""


class KyutaiServer(Socketed):
    """A running moshi-server.

    Args:
        config: `base_url` is `ws://host:port` (or wss, http, https); limits.
        sample_rate: of the frames, samples a second.
        pause: seconds of silence after which a turn is over, for models that do not predict pauses.

    Raises:
        InputError: another kind of address, or the packages of the extra are missing.
    """

    def __init__(self, config: STTConfig, sample_rate: int, pause: float = 0.8) -> None:
        self._msgpack = kyutai.packages()
        url = kyutai.address(config.base_url or "", "--stt")
        self._pause = pause
        self._delay = DELAY if config.audio_delay is None else config.audio_delay
        self._words: list[str] = []
        self._ended, self._flushes, self._returned = 0.0, 0, 0
        self._heard_until = 0.0
        self._predicts = False
        super().__init__(config, sample_rate, f"{url}/api/asr-streaming", kyutai.headers(config.key_env))

    async def _greet(self, socket: Any) -> None:
        self._flushes = self._returned = 0
        self._predicts = False

    async def _send(self, socket: Any, samples: np.ndarray, time: float) -> None:
        self._heard_until = time
        if len(samples):
            await self._pack(socket, {"type": "Audio", "pcm": samples.tolist()})
        if self._words and not self._predicts and time - self._ended >= self._pause + self._delay:
            self._close_turn()

    async def _receive(self, socket: Any, message: str | bytes) -> None:
        if isinstance(message, str):
            raise ValueError("a text message, expected MessagePack")
        value = self._msgpack.unpackb(message)
        kind = value["type"]
        if kind == "Word":
            self._words = [*self._words[1 - MOST_WORDS :], str(value["text"]).strip()[:MOST_WORD_CHARS]]
            self._ended = max(self._ended, self._time(value["start_time"]))
            self._tell(Heard(" ".join(self._words), False, self._ended))
        elif kind == "EndWord":
            self._ended = max(self._ended, self._time(value["stop_time"]))
        elif kind == "Step":
            self._predicts = self._predicts or len(value["prs"]) > PAUSE_HEAD
            flushing = self._flushes > self._returned
            if self._predicts and self._words and not flushing and self._pauses(value["prs"]):
                await self._flush(socket)
        elif kind == "Marker":
            self._returned += 1
            # The silence that flushed the words is in the server's clock and not in ours.
            if self._origin is not None:
                self._origin -= self._silence / RATE
            self._close_turn()
        elif kind == "Error":
            raise LLMError("server", one_line(value.get("message")))

    def _pauses(self, predicted: list[float]) -> bool:
        return predicted[PAUSE_HEAD] > self.config.pause_threshold

    async def _flush(self, socket: Any) -> None:
        self._flushes += 1
        await self._pack(socket, {"type": "Marker", "id": self._flushes})
        await self._pack(socket, {"type": "Audio", "pcm": [0.0] * self._silence})

    @property
    def _silence(self) -> int:
        """Samples of silence, in whole frames, that flush every word."""
        return (math.ceil(self._delay * RATE / FRAME_SAMPLES) + 1) * FRAME_SAMPLES

    async def _pack(self, socket: Any, message: dict[str, Any]) -> None:
        await socket.send(self._msgpack.packb(message, use_single_float=True))

    def _time(self, seconds: float) -> float:
        """The conversation's time of a time on the server's clock; no word ends later than the sound that was sent."""
        time = float(seconds) + (self._origin or 0.0)
        return min(max(time, 0.0), self._heard_until) if math.isfinite(time) else self._ended

    def _close_turn(self) -> None:
        if self._words:
            self._tell(Heard(" ".join(self._words), True, self._ended))
        self._words = []

    def _lost(self) -> None:
        self._close_turn()
