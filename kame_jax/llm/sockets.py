"""WebSockets to speech services: no redirects, and failures as our errors. Needs the package `websockets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kame_jax.llm.errors import LLMError, one_line, status_error


def connect(url: str, headers: Mapping[str, str], timeout: float) -> Any:
    """A connection, as `websockets.asyncio.client.connect` gives it, to that server and to no other."""
    from websockets.asyncio.client import connect as websocket

    class Direct(websocket):  # type: ignore[misc]  # the package is optional
        """Sound and text go to the server that was named."""

        def process_redirect(self, exc: Exception) -> Exception | str:
            """A redirect is refused."""
            return exc

    return Direct(
        url,
        additional_headers=headers,
        open_timeout=timeout,
        close_timeout=1.0,
        ping_interval=timeout,
        ping_timeout=timeout,
    )


def socket_failure(error: Exception, headers: Mapping[str, str]) -> LLMError:
    """What went wrong with a connection; `headers` are the request's and hold the key."""
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    if isinstance(error, LLMError):
        return error
    keys = [value.removeprefix("Bearer ") for value in headers.values()]
    words = one_line(f"{type(error).__name__}: {error}", *keys)
    if isinstance(error, TimeoutError):
        return LLMError("timeout", words)
    if isinstance(error, InvalidStatus):
        reply = error.response
        return status_error(reply.status_code, reply.headers, reply.body or b"", *keys)
    if isinstance(error, ConnectionClosed):
        return LLMError("cut", words)
    if isinstance(error, ValueError | TypeError | KeyError | AttributeError | RecursionError):
        return LLMError("malformed", words)
    return LLMError("connection", words)
