"""An asynchronous client of any OpenAI-compatible chat endpoint, on the `openai` package.

Answers come whole (`complete`) or piece by piece (`stream`). Failures are one kind of error, `LLMError`, whatever the
server did; a stream that is left early is really closed; a key never reaches a message, a log or a repr.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from kame_jax.config import LLMConfig
from kame_jax.llm.endpoint import Endpoint, LLMError, deadline
from kame_jax.llm.usage import Usage, estimate_tokens

Message = Mapping[str, str]
"""One turn of a chat: `{"role": "system" | "user" | "assistant", "content": "..."}`."""

RETRIED = ("rate_limit", "server", "connection", "timeout")
"""Kinds of failure that another try may mend."""

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    finish: str
    """Why it ended, as the server says: "stop", "length", ...; "truncated" when it exceeded `max_chars`."""
    usage: Usage


class Client:
    """Asks one endpoint. Use it inside one event loop, and `close` it (or `async with`) at the end.

    Args:
        config: of the endpoint.
        seed: of the waiting times between tries.
        give_up_after: nothing more is asked after so many answers in a row that did not come; None never gives up.

    Raises:
        InputError: the `openai` package is not installed, or OpenAI's own endpoint is asked without a key.
    """

    def __init__(self, config: LLMConfig, seed: int = 0, give_up_after: int | None = None) -> None:
        self.config = config
        self.usage = Usage()
        self.give_up_after = give_up_after
        self._in_a_row = 0
        self._endpoint = Endpoint(config.model, config.base_url, config.api_key_env, config.timeout)
        self._places = asyncio.Semaphore(config.max_concurrent)
        self._random = random.Random(seed)

    def __repr__(self) -> str:
        return f"Client({self.config.model!r}, base_url={self.config.base_url!r})"

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._endpoint.close()

    @property
    def cost(self) -> float:
        """Spent so far, in the unit of the configured prices."""
        return self.usage.cost(self.config)

    async def complete(self, messages: Sequence[Message], max_tokens: int | None = None) -> Answer:
        """One whole answer.

        Args:
            messages: the chat so far.
            max_tokens: limit of this answer; None takes the configured one.

        Raises:
            LLMError: it did not come, after all tries.
        """
        async with self._places:
            self._check_limits()
            tally = _Tally(self, messages)
            with tally:
                reply = await self._retried(lambda: self._create(messages, max_tokens, stream=False), tally)
                try:
                    choice = reply.choices[0]
                    text, finish = choice.message.content or "", choice.finish_reason or ""
                    tally.counted = _counts(reply)
                except (AttributeError, IndexError, TypeError) as error:
                    raise LLMError(
                        "malformed", f"no answer in the reply: {self._endpoint.clean(error)}"
                    ) from None
                if not isinstance(text, str):
                    raise LLMError("malformed", f"the answer is {type(text).__name__}, expected text")
                if len(text) > self.config.max_chars:
                    text, finish, tally.truncated = text[: self.config.max_chars], "truncated", True
                tally.text, tally.complete = text, True
        return Answer(text, finish, tally.usage)

    @contextlib.asynccontextmanager
    async def stream(
        self, messages: Sequence[Message], max_tokens: int | None = None
    ) -> AsyncIterator[AsyncIterator[str]]:
        """An answer piece by piece: `async with client.stream(messages) as pieces: async for piece in pieces`.

        Leaving the block, by its end, by an error or by cancellation, closes the connection, so that the server
        stops. The pieces are never empty. Further tries end with the first piece given out.

        Args:
            messages: the chat so far.
            max_tokens: limit of this answer; None takes the configured one.

        Raises:
            LLMError: while entering or while reading.
        """
        async with self._places:
            self._check_limits()
            tally = _Tally(self, messages)
            with tally:
                first, chunks, source = await self._retried(
                    lambda: self._open(messages, max_tokens, tally), tally
                )
                pieces = self._pieces(first, chunks, tally)
                try:
                    yield pieces
                finally:
                    await asyncio.shield(_closed(pieces, source))

    async def _open(self, messages: Sequence[Message], max_tokens: int | None, tally: _Tally) -> Any:
        """A stream that has given its first piece (None when it ended without one)."""
        limit = self.config.first_token_timeout
        async with deadline(limit, "no first token"):
            source = await self._create(messages, max_tokens, stream=True)
            chunks = source.__aiter__()
            try:
                return await self._next_piece(chunks, tally), chunks, source
            except BaseException:
                await asyncio.shield(_closed(None, source))
                raise

    async def _pieces(self, first: str | None, chunks: Any, tally: _Tally) -> AsyncIterator[str]:
        piece, ends = first, time.monotonic() + self.config.timeout
        while piece is not None:
            left = self.config.max_chars - len(tally.text)
            tally.text += piece[:left]
            if piece[:left]:
                yield piece[:left]
            if len(piece) > left:
                tally.truncated = True
                return
            wait = min(self.config.idle_timeout, ends - time.monotonic())
            async with deadline(wait, "the stream stood still, or took too long"):
                piece = await self._next_piece(chunks, tally)
        tally.complete = True

    async def _next_piece(self, chunks: Any, tally: _Tally) -> str | None:
        """The next text of a stream; None at its proper end."""
        while True:
            try:
                chunk = await chunks.__anext__()
            except StopAsyncIteration:
                if tally.finish is None:
                    raise LLMError("cut", "the stream ended without saying why") from None
                return None
            except asyncio.CancelledError:
                raise
            except Exception as error:
                raise self._endpoint.failure(error, reading=True) from None
            try:
                tally.counted = _counts(chunk) or tally.counted
                for choice in chunk.choices or ():
                    tally.finish = choice.finish_reason or tally.finish
                    text = choice.delta.content
                    if text and not isinstance(text, str):
                        raise TypeError(f"a piece is {type(text).__name__}, expected text")
                    if text:
                        return text
            except (AttributeError, TypeError) as error:
                raise LLMError("malformed", self._endpoint.clean(error)) from None

    async def _create(self, messages: Sequence[Message], max_tokens: int | None, stream: bool) -> Any:
        config = self.config
        options: dict[str, Any] = {config.limit_field: max_tokens or config.max_tokens}
        if config.temperature is not None:
            options["temperature"] = config.temperature
        if config.reasoning_effort is not None:
            options["reasoning_effort"] = config.reasoning_effort
        if stream and config.stream_usage:
            options["stream_options"] = {"include_usage": True}
        try:
            async with deadline(config.timeout, "no answer"):
                return await self._endpoint.api.chat.completions.create(
                    model=config.model, messages=[dict(m) for m in messages], stream=stream, **options
                )
        except (asyncio.CancelledError, LLMError):
            raise
        except Exception as error:
            raise self._endpoint.failure(error, reading=False) from None

    async def _retried(self, work: Callable[[], Awaitable[T]], tally: _Tally) -> T:
        for attempt in range(self.config.retries + 1):
            tally.tries += 1
            try:
                return await work()
            except LLMError as error:
                if error.kind not in RETRIED or attempt == self.config.retries:
                    raise
                wait = self.config.backoff * 2**attempt * self._random.uniform(0.5, 1.0)
                await asyncio.sleep(min(max(wait, error.retry_after or 0.0), self.config.max_backoff))
        raise AssertionError("the last try returns or raises")

    def _check_limits(self) -> None:
        """Whether anything may be asked; called in one's turn, when all that was asked before is counted."""
        config, usage = self.config, self.usage
        if self.give_up_after is not None and self._in_a_row >= self.give_up_after:
            raise LLMError(
                "given_up", f"{self._in_a_row} answers in a row did not come, nothing more is asked"
            )
        if config.max_cost is not None and self.cost >= config.max_cost:
            raise LLMError("budget", f"{self.cost:g} spent of {config.max_cost:g} (max_cost)")
        if config.max_total_tokens is not None and usage.tokens >= config.max_total_tokens:
            raise LLMError(
                "budget", f"{usage.tokens} tokens used of {config.max_total_tokens} (max_total_tokens)"
            )


class _Tally:
    """What one request did; adds itself to the client's usage when it is over."""

    def __init__(self, client: Client, messages: Sequence[Message]) -> None:
        self.client, self.messages = client, messages
        self.tries = 0
        self.text = ""
        self.finish: str | None = None
        self.counted: tuple[int, int] | None = None
        self.truncated = False
        self.complete = False
        self.usage = Usage()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        asked, answered = self.counted or estimate_tokens(self.messages, self.text)
        failed = isinstance(error, LLMError)
        left_early = error is not None or not (self.complete or self.truncated)
        self.usage = Usage(
            requests=1,
            tries=self.tries,
            failed=int(failed),
            cancelled=int(not failed and left_early),
            truncated=int(self.truncated),
            input_tokens=asked,
            output_tokens=answered,
            estimated=int(self.counted is None),
        )
        self.client.usage += self.usage
        if failed or not left_early:
            self.client._in_a_row = self.client._in_a_row + 1 if failed else 0


async def _closed(pieces: Any, source: Any) -> None:
    """Closes a generator and the response behind it; what goes wrong then is of no interest to anybody."""
    with contextlib.suppress(Exception):
        if pieces is not None:
            await pieces.aclose()
    with contextlib.suppress(Exception):
        await source.close()


def _counts(reply: Any) -> tuple[int, int] | None:
    """Tokens asked and answered as the server counts them, if it does."""
    usage = getattr(reply, "usage", None)
    asked, answered = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return (asked, answered) if isinstance(asked, int) and isinstance(answered, int) else None
