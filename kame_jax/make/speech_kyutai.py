"""Kyutai's text-to-speech server (moshi-server, module Tts or Py) as an engine: sound and word times over a WebSocket.

Protocol: kyutai-labs/moshi `rust/moshi-server` (`/api/tts_streaming`, format PcmMessagePack). Needs the extra `kyutai`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import numpy as np

from kame_jax.llm import kyutai
from kame_jax.make.speech import RATE, Speech, SpeechError, word_times


class KyutaiSpeech:
    """A running moshi-server.

    Args:
        url: `ws://host:port` (or wss, http, https).
        key_env: environment variable with the server's key; unset sends "public_token", as its samples have it.
        timeout: seconds without a message.

    Raises:
        InputError: another kind of address, or the packages of the extra are missing.
    """

    def __init__(self, url: str, key_env: str = kyutai.KEY_ENV, timeout: float = 60.0) -> None:
        self._msgpack, _ = kyutai.packages()
        self._url = kyutai.address(url, "--tts-url")
        self._key_env, self._timeout = key_env, timeout

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"engine": "kyutai", "url": self._url}

    def speak(self, text: str, voice: str) -> Speech:
        """Speaks a text; `voice` is a voice file as the server names it."""
        query = urlencode({"voice": voice, "format": "PcmMessagePack"})
        from websockets.sync.client import connect

        try:
            with connect(
                f"{self._url}/api/tts_streaming?{query}",
                additional_headers=kyutai.headers(self._key_env),
                open_timeout=self._timeout,
                close_timeout=1.0,
            ) as socket:
                socket.send(self._msgpack.packb({"type": "Text", "text": text}))
                socket.send(self._msgpack.packb({"type": "Eos"}))
                return self._received(text, socket)
        except SpeechError:
            raise
        except Exception as error:  # of the transport: refused, closed, timed out, no WebSocket
            raise SpeechError(
                f"{self._url}: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}"
            ) from None

    def _received(self, text: str, socket: Any) -> Speech:
        from websockets.exceptions import ConnectionClosed

        pcm: list[np.ndarray] = []
        spoken: list[tuple[str, float, float]] = []
        while True:
            try:
                message = self._msgpack.unpackb(socket.recv(timeout=self._timeout))
            except ConnectionClosed:
                break
            except TimeoutError:
                raise SpeechError(f"{self._url}: silent for {self._timeout:g} s") from None
            except (ValueError, TypeError) as error:
                raise SpeechError(f"{self._url}: a message that is no MessagePack: {error}") from None
            kind = message.get("type") if isinstance(message, dict) else None
            if kind == "Audio":
                pcm.append(np.asarray(message["pcm"], np.float32))
            elif kind == "Text":
                spoken.append((str(message["text"]), float(message["start_s"]), float(message["stop_s"])))
            elif kind == "Error":
                raise SpeechError(f"{self._url}: {message.get('message')}")
        if not pcm:
            raise SpeechError(f"{self._url}: no sound for {text[:60]!r}")
        audio = np.concatenate(pcm)
        # The server's words are those of the text, unless it cut some up: then the sound alone places them.
        if [word for word, _, _ in spoken] != text.split():
            return Speech(audio, word_times(text, audio))
        end = len(audio) / RATE
        return Speech(audio, tuple((w, min(start, end), min(stop, end)) for w, start, stop in spoken))
