"""Speech from servers: any with OpenAI's `/audio/speech`, and what all servers share, which is retry and budget."""

from __future__ import annotations

import asyncio
import json
import tempfile
from typing import Any

from kame_jax.codec.audio import read_audio
from kame_jax.codec.sound_file import LENGTH_LEFT_OPEN
from kame_jax.config import TTSConfig
from kame_jax.errors import InputError
from kame_jax.llm import Budget, Endpoint, LLMError, Retry, one_line
from kame_jax.llm.endpoint import deadline
from kame_jax.llm.errors import reported
from kame_jax.make.answers import FAILURES_IN_A_ROW, Stopped
from kame_jax.make.speech import RATE, Speech, SpeechError, word_times

MAX_BYTES = 64 << 20
"""Of a sentence."""


class Served:
    """An engine behind a server. Sentences are requested one at a time, on its own event loop.

    Args:
        config: of the server.
    """

    def __init__(self, config: TTSConfig) -> None:
        self.config = config
        self.characters = 0
        """Spoken so far."""
        self._in_a_row, self._last = 0, ""
        self._retry = Retry(config.backoff, config.max_backoff, config.retries)
        self._budget = Budget(config.max_cost, config.max_characters, "characters")
        self._runner = asyncio.Runner()

    def speak(self, text: str, voice: str) -> Speech:
        """Speaks a text; `voice` as the server names it.

        Raises:
            SpeechError: it was not spoken, after all tries.
            Stopped: nothing more is asked.
        """
        try:
            if self._in_a_row >= FAILURES_IN_A_ROW:
                raise LLMError(
                    "given_up", f"{self._in_a_row} sentences in a row were not spoken, the last: {self._last}"
                )
            self._budget.check(self.characters * self.config.character_price / 1e6, self.characters)
            speech = self._runner.run(self._retry.run(lambda: self._spoken(text, voice)))
        except LLMError as error:
            if error.kind in ("budget", "given_up"):
                raise Stopped(str(error)) from None
            self._in_a_row, self._last = self._in_a_row + 1, str(error)
            raise SpeechError(f"{self.config.base_url or 'OpenAI'}: {error}") from None
        self._in_a_row = 0
        self.characters += len(text)
        return speech

    async def _spoken(self, text: str, voice: str) -> Speech:
        """One try."""
        raise AssertionError("each server has its own way")

    async def _end(self) -> None:
        """Closes what is open."""

    def close(self) -> None:
        """Closes connections and the event loop."""
        self._runner.run(self._end())
        self._runner.close()


class SpeechEndpoint(Served):
    """Any server with OpenAI's `/audio/speech`.

    Raises:
        InputError: what `Endpoint` raises.
    """

    def __init__(self, config: TTSConfig) -> None:
        super().__init__(config)
        self._endpoint = Endpoint(config.model, config.base_url, config.key_env, config.timeout, MAX_BYTES)

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"engine": "openai", "url": self.config.base_url, "model": self.config.model}

    async def _spoken(self, text: str, voice: str) -> Speech:
        async with deadline(self.config.timeout, "no speech"), self._endpoint.failures():
            reply = await self._endpoint.api.audio.speech.with_raw_response.create(
                model=self.config.model, voice=voice, input=text, response_format="wav"
            )
            data = reply.http_response.content
        if len(data) < _promised(data):
            raise LLMError("cut", f"{len(data):,} bytes of sound came of {_promised(data):,}")
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            file.write(data)
            file.flush()
            try:
                mono = read_audio(file.name, RATE)
            except InputError:
                raise LLMError("malformed", f"the reply is not sound: {_words(data)}") from None
        return Speech(mono, word_times(text, mono))

    async def _end(self) -> None:
        await self._endpoint.close()


def _promised(data: bytes) -> int:
    """The bytes that a wav file should have by its header; 0 where that says nothing."""
    at = data.find(b"data", 12, 4096) + 8
    size = int.from_bytes(data[at - 4 : at], "little")
    return at + size if data[:4] == b"RIFF" and at > 8 and size < LENGTH_LEFT_OPEN else 0


def _words(data: bytes) -> str:
    """What a reply says that is not sound."""
    try:
        found = reported(json.loads(data))
    except (ValueError, RecursionError):
        found = None
    return one_line(found[1] if found else f"{len(data):,} bytes, {data[:40]!r}")
