"""One OpenAI-compatible endpoint through the `openai` package: its key, its connection, and its failures as ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from kame_jax.errors import InputError
from kame_jax.llm.errors import LLMError, one_line, status_error

MAX_BYTES = 16 << 20
"""Of a reply: far more than any answer of text has, with the reasoning that comes before it."""


class Endpoint:
    """A connection to one server; `api` is the `openai` package's client. Use it inside one event loop.

    Args:
        model: name of the model, for messages.
        base_url: of the server; None is OpenAI's own.
        key_env: environment variable that holds the key.
        timeout: seconds for a request.
        max_bytes: most bytes of a reply.

    Raises:
        InputError: the `openai` package is not installed, or OpenAI's own endpoint is asked without a key.
    """

    def __init__(
        self, model: str, base_url: str | None, key_env: str, timeout: float, max_bytes: int = MAX_BYTES
    ) -> None:
        try:
            import openai

            from kame_jax.llm.bounded import BoundedClient, read_body
        except ImportError:
            raise InputError(
                "OpenAI-compatible endpoints need the openai package: install kame_jax[llm]"
            ) from None
        key = os.environ.get(key_env, "").strip()
        if not key and base_url is None:
            raise InputError(
                f"{model}: the environment variable {key_env} holds no key for OpenAI's endpoint; "
                "set it, or give the base_url of another"
            )
        self._model, self._base_url, self._key, self._openai = model, base_url, key, openai
        self._max_bytes, self._read_body = max_bytes, read_body
        # We retry ourselves, so that retries are counted; a server without keys still wants a header.
        self.api: Any = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=base_url,
            max_retries=0,
            timeout=timeout,
            http_client=BoundedClient(timeout, max_bytes),
        )

    def __str__(self) -> str:
        return f"{self._model} at {self._base_url or 'OpenAI'}"

    def __repr__(self) -> str:
        return f"Endpoint({self._model!r}, base_url={self._base_url!r})"

    async def close(self) -> None:
        """Closes the connections."""
        await self.api.close()

    def body(self, response: Any) -> AsyncIterator[bytes]:
        """The body of a streamed response, piece by piece.

        Raises:
            LLMError: it is too long.
        """
        return self._read_body(response.http_response, self._max_bytes)

    @contextlib.asynccontextmanager
    async def failures(self) -> AsyncIterator[None]:
        """Turns anything that a request within this block raises into our error.

        Raises:
            LLMError: see there.
        """
        try:
            yield
        except LLMError:
            raise
        except Exception as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> LLMError:
        openai = self._openai
        if isinstance(error.__cause__, LLMError):
            return error.__cause__
        if isinstance(error, openai.APIStatusError):
            reply = error.response
            return status_error(reply.status_code, reply.headers, reply.content, self._key)
        cause = error.__cause__ or error
        words = one_line(f"{type(cause).__name__}: {cause}", self._key)
        if isinstance(error, openai.APITimeoutError) or "Timeout" in type(error).__name__:
            return LLMError("timeout", words)
        if isinstance(error, openai.APIConnectionError):
            # A server that closed the connection, or could not be reached.
            return LLMError("cut" if "Protocol" in type(cause).__name__ else "connection", words)
        if isinstance(error, openai.OpenAIError | ValueError):
            return LLMError("malformed", words)
        return LLMError("cut", words)


@contextlib.asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """`asyncio.timeout`, as our error.

    Raises:
        LLMError: of kind "timeout", after `seconds`.
    """
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            yield
    except TimeoutError:
        raise LLMError("timeout", f"{what} within {seconds:.1f} s") from None
