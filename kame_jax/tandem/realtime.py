"""An OpenAI-compatible realtime transcription session (`/realtime?intent=transcription`) as a source of transcripts.

The server finds where turns begin and end. Events: OpenAI's API reference, "Realtime transcription". Extra `realtime`.
"""

from __future__ import annotations

import base64
import json
import math
import os
from typing import Any

import numpy as np

from kame_jax.config import STTConfig
from kame_jax.config.stt import OPENAI
from kame_jax.errors import InputError
from kame_jax.llm import LLMError, one_line
from kame_jax.tandem.networked import RATE, Socketed
from kame_jax.tandem.transcript import Heard
from kame_jax.tandem.words import MOST_CHARS, join_words, split_words

TRANSCRIPTION = "conversation.item.input_audio_transcription."
MOST_OPEN = 16
"""Turns with pending transcripts; beyond that, the oldest ends with what is known of it."""


class Realtime(Socketed):
    """A session of one conversation.

    Args:
        config: the endpoint and limits.
        sample_rate: of the frames, samples a second.
        pause: seconds of silence after which the server should end a turn.

    Raises:
        InputError: websockets is not installed, or OpenAI's own endpoint is asked without a key.
    """

    def __init__(self, config: STTConfig, sample_rate: int, pause: float = 0.8) -> None:
        try:
            import websockets  # noqa: F401
        except ImportError:
            raise InputError(
                "realtime transcription needs websockets: pip install 'kame_jax[realtime]'"
            ) from None
        key = os.environ.get(config.key_env, "").strip()
        if not key and config.base_url is None:
            raise InputError(
                f"--stt realtime: the environment variable {config.key_env} holds no key for OpenAI's endpoint; "
                "set it, or give the base_url of another"
            )
        url = (config.base_url or OPENAI).rstrip("/").replace("http", "ws", 1)
        self._pause = pause
        self._texts: dict[str, str] = {}
        self._ends: dict[str, float] = {}
        self._heard_until = 0.0
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        super().__init__(config, sample_rate, f"{url}/realtime?intent=transcription", headers)

    async def _greet(self, socket: Any) -> None:
        transcription = {"model": self.config.model or "gpt-4o-transcribe"}
        if self.config.language:
            transcription["language"] = self.config.language
        sound = {
            "format": {"type": "audio/pcm", "rate": RATE},
            "transcription": transcription,
            "turn_detection": {"type": "server_vad", "silence_duration_ms": round(self._pause * 1000)},
        }
        session = {"type": "transcription", "audio": {"input": sound}}
        await socket.send(json.dumps({"type": "session.update", "session": session}))

    async def _send(self, socket: Any, samples: np.ndarray, time: float) -> None:
        self._heard_until = time
        if len(samples):
            pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
            audio = base64.b64encode(pcm).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))

    async def _receive(self, socket: Any, message: str | bytes) -> None:
        event = json.loads(message)
        kind, item = event["type"], str(event.get("item_id", ""))
        if kind == "input_audio_buffer.speech_stopped":
            end = event["audio_end_ms"] / 1000 + (self._origin or 0.0)
            if math.isfinite(end):
                self._ends[item] = end
        elif kind == f"{TRANSCRIPTION}delta":
            before = self._texts.get(item, "")
            self._texts[item] = text = (before + event["delta"])[-MOST_CHARS:]
            if (words := _whole(text)) != _whole(before):
                self._tell(Heard(words, False, self._end_of(item)))
            if len(self._texts) > MOST_OPEN:
                oldest = next(iter(self._texts))
                self._finish(oldest, self._texts[oldest])
        elif kind == f"{TRANSCRIPTION}completed":
            self._finish(item, event["transcript"][-MOST_CHARS:])
        elif kind == f"{TRANSCRIPTION}failed":
            self.counts["failed_turn"] += 1
            self._finish(item, self._texts.get(item, ""))
        elif kind == "error":
            raise LLMError("server", one_line(event.get("error", {}).get("message")))

    def _finish(self, item: str, text: str) -> None:
        text, time = " ".join(text.split()), self._end_of(item)
        self._texts.pop(item, None)
        self._ends.pop(item, None)
        if text:
            self._tell(Heard(text, True, time))

    def _end_of(self, item: str) -> float:
        return self._ends.get(item, self._heard_until)

    def _lost(self) -> None:
        for item, text in list(self._texts.items()):
            self._finish(item, text)
        self._ends.clear()


def _whole(text: str) -> str:
    """The words of a text that grows, without the last: a piece may end within it."""
    return join_words(split_words(text)[:-1] if text and not text[-1].isspace() else split_words(text))
