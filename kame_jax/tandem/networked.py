"""Speech-to-text over a network: a thread with its own event loop, so that a conversation never waits for it.

Failures are counted and retried, at growing intervals; sound that a slow server does not take is dropped rather
than buffered without limit; what was sent is counted against a budget.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import soxr

from kame_jax.config import STTConfig
from kame_jax.llm import Budget, Failures, LLMError, Retry, one_line
from kame_jax.llm.sockets import connect, socket_failure
from kame_jax.streams import FRAME_RATE
from kame_jax.tandem.transcript import Heard

RATE = 24_000
"""Samples a second that WebSocket services take."""
CLOSING_SECONDS = 5.0
MOST_TOLD = 100
"""Transcripts that a frame may find; far more than a frame of speech can give."""


class Networked:
    """What all such sources share; a source defines in `_session` what it does until something fails.

    Args:
        config: limits, and where the server is.
        sample_rate: of the frames, samples a second.
        who: the service and its address, as the user knows it.
        frame_rate: frames a second.
    """

    def __init__(
        self,
        config: STTConfig,
        sample_rate: int,
        who: str,
        frame_rate: float = FRAME_RATE,
    ) -> None:
        self.config, self.sample_rate = config, sample_rate
        self.counts: Counter[str] = Counter()
        self._who, self.failures = who, Failures()
        self._retry = Retry(config.backoff, config.max_backoff)
        self._budget = Budget(config.max_cost, config.max_minutes, "minutes of sound")
        self._sent_seconds = 0.0
        self._failures = 0
        self._told: deque[Heard] = deque(maxlen=MOST_TOLD)
        self._waiting: deque[tuple[np.ndarray, float]] = deque()
        self._most_waiting = max(1, round(config.max_behind * frame_rate))
        self._news = asyncio.Event()
        self._pushed, self._came, self._resting = 0, 0, False
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="speech-to-text", daemon=True)
        self._thread.start()

    def push(self, samples: np.ndarray, time: float) -> list[Heard]:
        """See `Transcript`; what is understood comes some frames later."""
        if not self._closed:
            self._pushed += 1
            frame = np.array(samples, np.float32)
            self._soon(lambda: self._arrived(frame, time))
        return self.drain()

    def drain(self) -> list[Heard]:
        """What was understood since the last call, the newest of each turn."""
        heard: list[Heard] = []
        while self._told:
            if heard and not heard[-1].final:
                heard.pop()  # a newer one of the same turn
            heard.append(self._told.popleft())
        return heard

    @property
    def idle(self) -> bool:
        """All sound that was pushed has been processed, or sent."""
        return self._closed or (self._resting and self._came == self._pushed)

    def close(self) -> None:
        """Ends the connection and the thread."""
        if not self._closed:
            self._closed = True
            self._soon(lambda: self._task and self._task.cancel())
            self._thread.join(CLOSING_SECONDS)

    def report(self) -> dict[str, float]:
        """See `Transcript`."""
        return {"seconds_sent": round(self._sent_seconds, 2), "cost": self._cost} | dict(
            sorted(self.counts.items())
        )

    @property
    def _cost(self) -> float:
        return self._sent_seconds / 60 * self.config.minute_price

    def _soon(self, work: Callable[[], object]) -> None:
        """Runs something on the thread, unless it has ended meanwhile."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work)

    def _run(self) -> None:
        try:
            self._task = self._loop.create_task(self._forever())
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._closed = True
            self._loop.close()

    async def _forever(self) -> None:
        try:
            while True:
                kind, words, retry_after = "cut", "the server closed the connection", None
                try:
                    self._check_budget()
                    await self._session()
                except LLMError as error:
                    kind, words, retry_after = error.kind, error.words, error.retry_after
                except Exception as error:
                    kind, words = type(error).__name__, one_line(error)
                self.counts[f"failed_{kind}"] += 1
                self.failures.add(self._who, kind, words)
                if kind == "budget":
                    return
                self._failures += 1
                await asyncio.sleep(self._retry.wait(self._failures, retry_after))
        finally:
            await self._end()

    async def _session(self) -> None:
        """Works until something fails."""
        raise AssertionError("each source has its own")

    async def _end(self) -> None:
        """Closes what is open."""

    def _arrived(self, samples: np.ndarray, time: float) -> None:
        if len(self._waiting) >= self._most_waiting:
            self._waiting.popleft()
            self.counts["frames_left_out"] += 1
        self._waiting.append((samples, time))
        self._resting, self._came = False, self._came + 1
        self._news.set()

    async def _next(self) -> tuple[np.ndarray, float]:
        """The next frame and the time at which it ends."""
        while not self._waiting:
            self._news.clear()
            self._resting = True
            await self._news.wait()
        return self._waiting.popleft()

    def _tell(self, heard: Heard) -> None:
        self._told.append(heard)

    def _sending(self, seconds: float) -> None:
        """Counts sound that is sent.

        Raises:
            LLMError: of kind "budget", when no more may be.
        """
        self._sent_seconds += seconds
        self._check_budget()

    def _check_budget(self) -> None:
        self._budget.check(self._cost, self._sent_seconds / 60)


class Socketed(Networked):
    """A source that streams sound to a WebSocket while words come back.

    Args:
        config: limits, and where the server is.
        sample_rate: of the frames, samples a second.
        url: of the WebSocket.
        headers: of the request; they hold the key.
    """

    def __init__(
        self,
        config: STTConfig,
        sample_rate: int,
        url: str,
        headers: dict[str, str],
    ) -> None:
        self._url, self._headers = url, headers
        self._origin: float | None = None
        self._resampler: Any = None
        super().__init__(config, sample_rate, f"speech-to-text at {url.partition('?')[0]}")

    async def _greet(self, socket: Any) -> None:
        """The first message."""

    async def _send(self, socket: Any, samples: np.ndarray, time: float) -> None:
        """Sends samples, float32 of `RATE`, that end at `time`."""
        raise AssertionError("each source has its own")

    async def _receive(self, socket: Any, message: str | bytes) -> None:
        """Reads one message."""
        raise AssertionError("each source has its own")

    def _lost(self) -> None:
        """The connection is gone: what was heard of the turn is all there will be."""

    async def _session(self) -> None:
        timeout = self.config.timeout
        try:
            async with connect(self._url, self._headers, timeout) as socket:
                self._origin = None
                self._resampler = soxr.ResampleStream(self.sample_rate, RATE, 1, dtype="float32")
                async with asyncio.timeout(timeout):
                    await self._greet(socket)
                both = {
                    asyncio.create_task(self._send_all(socket)),
                    asyncio.create_task(self._read_all(socket)),
                }
                try:
                    done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                finally:
                    for task in both:
                        task.cancel()
                    await asyncio.gather(*both, return_exceptions=True)
        except Exception as error:
            raise socket_failure(error, self._headers) from None
        finally:
            self._lost()

    async def _send_all(self, socket: Any) -> None:
        while True:
            samples, time = await self._next()
            seconds = len(samples) / self.sample_rate
            if self._origin is None:
                self._origin = time - seconds
            self._sending(seconds)
            sound = self._resampler.resample_chunk(samples)
            # Not `wait_for`, which before Python 3.12 may swallow a cancellation.
            async with asyncio.timeout(self.config.timeout):
                await self._send(socket, sound, time)

    async def _read_all(self, socket: Any) -> None:
        async for message in socket:
            await self._receive(socket, message)
            self._failures = 0
