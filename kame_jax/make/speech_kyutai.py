"""Kyutai's text-to-speech server (moshi-server, module Tts or Py) as an engine: sound and word times over a WebSocket.

Protocol: kyutai-labs/moshi `rust/moshi-server` (`/api/tts_streaming`, format PcmMessagePack). Needs the extra `kyutai`.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import numpy as np

from kame_jax.config import TTSConfig
from kame_jax.llm import LLMError, kyutai, one_line
from kame_jax.llm.sockets import connect, socket_failure
from kame_jax.make.speech import RATE, Speech, word_times
from kame_jax.make.speech_endpoint import Served

MOST_SECONDS = 600
"""Of a sentence."""


class KyutaiSpeech(Served):
    """A running moshi-server. Without a key it is sent "public_token", as the server's own samples do.

    Args:
        config: `base_url` is `ws://host:port` (or wss, http, https).

    Raises:
        InputError: another kind of address, or the packages of the extra are missing.
    """

    def __init__(self, config: TTSConfig) -> None:
        super().__init__(config)
        self._msgpack = kyutai.packages()
        self._url = kyutai.address(config.base_url or "", "--tts-url")

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"engine": "kyutai", "url": self._url}

    async def _spoken(self, text: str, voice: str) -> Speech:
        query = urlencode({"voice": voice, "format": "PcmMessagePack"})
        headers = kyutai.headers(self.config.key_env)
        try:
            async with connect(
                f"{self._url}/api/tts_streaming?{query}", headers, self.config.timeout
            ) as socket:
                await socket.send(self._msgpack.packb({"type": "Text", "text": text}))
                await socket.send(self._msgpack.packb({"type": "Eos"}))
                return await self._received(text, socket)
        except Exception as error:
            raise socket_failure(error, headers) from None

    async def _received(self, text: str, socket: Any) -> Speech:
        from websockets.exceptions import ConnectionClosedOK

        pcm: list[np.ndarray] = []
        spoken: list[tuple[str, float, float]] = []
        while True:
            try:
                async with asyncio.timeout(self.config.timeout):
                    message = self._msgpack.unpackb(await socket.recv())
            except ConnectionClosedOK:
                break
            kind = message["type"]
            if kind == "Audio":
                pcm.append(np.asarray(message["pcm"], np.float32))
                if sum(map(len, pcm)) > MOST_SECONDS * RATE:
                    raise LLMError("oversized", f"more than {MOST_SECONDS} s of sound for {text[:60]!r}")
            elif kind == "Text":
                spoken.append((str(message["text"]), float(message["start_s"]), float(message["stop_s"])))
            elif kind == "Error":
                raise LLMError("server", one_line(message.get("message")))
        audio = np.concatenate([np.zeros(0, np.float32), *pcm])
        if not len(audio) or not np.isfinite(audio).all():
            raise LLMError("malformed", f"no sound for {text[:60]!r}")
        # The server's words are those of the text, unless it cut some up: then the sound alone places them.
        times = np.array([times for _, *times in spoken])
        if [word for word, _, _ in spoken] != text.split() or not np.isfinite(times).all():
            return Speech(audio, word_times(text, audio))
        end = len(audio) / RATE
        return Speech(audio, tuple((w, min(start, end), min(stop, end)) for w, start, stop in spoken))
