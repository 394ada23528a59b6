"""One OpenAI-compatible endpoint through the `openai` package: its key, its connection, and its failures as ours.

Whatever a server does becomes one kind of error, `LLMError`; a key never reaches a message, a log or a repr.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping

from kame_jax.errors import InputError


class LLMError(RuntimeError):
    """No answer, or not the whole of it.

    `kind` is "rate_limit" (429), "server" (5xx), "connection", "timeout", "cut" (the stream ended early),
    "malformed" (the server spoke nonsense), "refused" (other 4xx), "budget" (a limit of the configuration) or
    "given_up" (see `Client`).
    """

    def __init__(self, kind: str, message: str, retry_after: float | None = None) -> None:
        self.kind = kind
        self.retry_after = retry_after
        super().__init__(f"{kind}: {message}")


class Endpoint:
    """A connection to one server; `api` is the `openai` package's client. Use it inside one event loop.

    Args:
        model: name of the model, for messages.
        base_url: of the server; None is OpenAI's own.
        key_env: environment variable that holds the key.
        timeout: seconds for a request.

    Raises:
        InputError: the `openai` package is not installed, or OpenAI's own endpoint is asked without a key.
    """

    def __init__(self, model: str, base_url: str | None, key_env: str, timeout: float) -> None:
        try:
            import openai
        except ImportError:
            raise InputError(
                "OpenAI-compatible endpoints are asked through the openai package: install kame_jax[llm]"
            ) from None
        key = os.environ.get(key_env, "")
        if not key and base_url is None:
            raise InputError(
                f"{model}: the environment variable {key_env} holds no key for OpenAI's endpoint; "
                "set it, or give the base_url of another"
            )
        self._model, self._base_url, self._hidden, self._openai = model, base_url, key, openai
        # Retries are ours, so that they are counted; a server without keys still wants a header.
        self.api = openai.AsyncOpenAI(
            api_key=key or "none", base_url=base_url, max_retries=0, timeout=timeout
        )

    def __repr__(self) -> str:
        return f"Endpoint({self._model!r}, base_url={self._base_url!r})"

    async def close(self) -> None:
        """Closes the connections."""
        await self.api.close()

    def failure(self, error: Exception, reading: bool = False) -> LLMError:
        """An error of the openai package or its transport, as ours; `reading` when a stream had begun."""
        openai, words = self._openai, self.clean(error)
        if isinstance(error, openai.APITimeoutError):
            return LLMError("timeout", words)
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            kind = "rate_limit" if status == 429 else "server" if status >= 500 else "refused"
            return LLMError(kind, f"status {status}: {words}", _retry_after(error.response.headers))
        if isinstance(error, ValueError):  # JSON that is none
            return LLMError("malformed", words)
        if reading:
            return LLMError("cut", words)
        return LLMError("connection", words)

    def clean(self, error: BaseException) -> str:
        """The words of an error on one line, without anything that looks like a key."""
        return without_keys(error, self._hidden)


def without_keys(error: BaseException, key: str) -> str:
    """The words of an error on one line, without `key` and without anything that looks like one."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    if key:
        words = words.replace(key, "***")
    return re.sub(r"\b(sk|key|Bearer)[-_ ][\w*.-]{6,}", "***", words)[:300]


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


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait; None where it does not say, or says a date."""
    try:
        return float(headers.get("retry-after", ""))
    except ValueError:
        return None
