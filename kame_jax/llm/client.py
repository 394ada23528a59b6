"""An asynchronous client of any OpenAI-compatible chat endpoint.

Answers come whole (`complete`) or piece by piece (`stream`). Failures are one kind of error, `LLMError`; a stream that
is left early is really closed. A request is retried as long as none of its answer was passed on, never afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kame_jax.config import LLMConfig
from kame_jax.llm.endpoint import Endpoint, deadline
from kame_jax.llm.errors import LLMError
from kame_jax.llm.markup import without_left_open
from kame_jax.llm.reply import Reply
from kame_jax.llm.retry import Budget, Retry
from kame_jax.llm.usage import Usage, estimate_tokens

Message = Mapping[str, str]
"""One turn of a chat: `{"role": "system" | "user" | "assistant", "content": "..."}`."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    text: str
    finish: str
    """Why it ended, as the server reports: "stop", "length", ...; "truncated" when it exceeded `max_chars`."""
    usage: Usage


class Client:
    """Asks one endpoint. Use it inside one event loop, and `close` it (or `async with`) at the end.

    Args:
        config: of the endpoint.
        seed: of the waiting times between tries.
        give_up_after: no more requests after this many failed answers in a row; None never gives up.

    Raises:
        InputError: the `openai` package is not installed, or OpenAI's own endpoint is asked without a key.
    """

    def __init__(
        self,
        config: LLMConfig,
        seed: int = 0,
        give_up_after: int | None = None,
    ) -> None:
        self.config = config
        self.usage = Usage()
        self.give_up_after = give_up_after
        self._in_a_row, self._last = 0, ""
        self._endpoint = Endpoint(config.model, config.base_url, config.api_key_env, config.timeout)
        self._places = asyncio.Semaphore(config.max_concurrent)
        self._retry = Retry(config.backoff, config.max_backoff, config.retries, seed)
        self._budget = Budget(config.max_cost, config.max_total_tokens, "tokens")

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
        async with self._asking(messages) as tally:

            async def whole() -> str:
                text = ""
                async with (
                    deadline(self.config.timeout, "no answer"),
                    contextlib.aclosing(self._answer(messages, max_tokens, tally, False)) as pieces,
                ):
                    async for piece in pieces:
                        text += piece
                        if len(text) > self.config.max_chars:
                            tally.truncated = True
                            return text[: self.config.max_chars]
                return text

            text = without_left_open(await self._retry.run(whole))
            if not text:
                raise LLMError("empty", "no text after the model's thinking")
            tally.complete = True
        return Answer(text, "truncated" if tally.truncated else tally.reply.finish, tally.usage)

    @contextlib.asynccontextmanager
    async def stream(
        self, messages: Sequence[Message], max_tokens: int | None = None
    ) -> AsyncIterator[AsyncIterator[str]]:
        """An answer piece by piece: `async with client.stream(messages) as pieces: async for piece in pieces`.

        Leaving the block, by its end, by an error or by cancellation, closes the connection, so that the server
        stops. The pieces are never empty.

        Args:
            messages: the chat so far.
            max_tokens: limit of this answer; None takes the configured one.

        Raises:
            LLMError: while entering or while reading.
        """
        async with self._asking(messages) as tally:

            async def begun() -> tuple[str, Any]:
                pieces = self._answer(messages, max_tokens, tally, True)
                try:
                    async with deadline(self.config.first_token_timeout, "no first token"):
                        return await anext(pieces), pieces
                except BaseException:
                    await pieces.aclose()
                    raise

            first, rest = await self._retry.run(begun)
            pieces = self._bounded(first, rest, tally)
            try:
                yield pieces
            finally:
                await pieces.aclose()
                await rest.aclose()

    async def _bounded(self, first: str, rest: Any, tally: _Tally) -> Any:
        """The pieces of an answer within the limits of characters and time."""
        piece, left, ends = first, self.config.max_chars, time.monotonic() + self.config.timeout
        while True:
            if piece[:left]:
                yield piece[:left]
            if len(piece) > left:
                tally.truncated = True
                return
            left -= len(piece)
            wait = min(self.config.idle_timeout, ends - time.monotonic())
            async with deadline(wait, "the stream stalled, or took too long"):
                try:
                    piece = await anext(rest)
                except StopAsyncIteration:
                    tally.complete = True
                    return

    async def _answer(
        self, messages: Sequence[Message], max_tokens: int | None, tally: _Tally, stream: bool
    ) -> Any:
        """One try: the pieces of an answer, over a connection that is closed when they end or are left."""
        config = self.config
        options: dict[str, Any] = {config.limit_field: max_tokens or config.max_tokens}
        if config.temperature is not None:
            options["temperature"] = config.temperature
        if config.reasoning_effort is not None:
            options["reasoning_effort"] = config.reasoning_effort
        if stream and config.stream_usage:
            options["stream_options"] = {"include_usage": True}
        ask = self._endpoint.api.chat.completions.with_streaming_response.create
        tally.tries += 1
        tally.reply = reply = Reply()
        async with (
            self._endpoint.failures(),
            ask(
                model=config.model, messages=[dict(m) for m in messages], stream=stream, **options
            ) as response,
        ):
            async for piece in reply.pieces(self._endpoint.body(response)):
                yield piece

    @contextlib.asynccontextmanager
    async def _asking(self, messages: Sequence[Message]) -> AsyncIterator[_Tally]:
        """A request's slot, once one is free and if the limits allow it; counted when it is over."""
        tally, failed = _Tally(messages), False
        async with self._places:
            try:
                self._check_limits()
                yield tally
            except LLMError as error:
                failed, self._last = True, str(error) if tally.tries else self._last
                error.who = f"language model {self._endpoint}"
                raise
            finally:
                if tally.tries:
                    self.usage += tally.count(failed)
                    if failed or tally.whole:
                        self._in_a_row = self._in_a_row + 1 if failed else 0

    def _check_limits(self) -> None:
        """Raises when no more may be asked; called inside a slot, when all earlier requests are counted."""
        if self.give_up_after is not None and self._in_a_row >= self.give_up_after:
            raise LLMError("given_up", f"{self._in_a_row} answers in a row failed, the last: {self._last}")
        self._budget.check(self.cost, self.usage.tokens)


class _Tally:
    """What one request did."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.tries = 0
        self.reply = Reply()
        """Of the latest try."""
        self.truncated = self.complete = False
        self.usage = Usage()

    @property
    def whole(self) -> bool:
        """All of the answer that was wanted came."""
        return self.complete or self.truncated

    def count(self, failed: bool) -> Usage:
        """The request's usage, now that it is over."""
        asked, answered = self.reply.counted or estimate_tokens(self.messages, self.reply.chars)
        self.usage = Usage(
            requests=1,
            tries=self.tries,
            failed=int(failed),
            cancelled=int(not failed and not self.whole),
            truncated=int(self.truncated),
            input_tokens=asked,
            output_tokens=answered,
            estimated=int(self.reply.counted is None),
        )
        return self.usage
