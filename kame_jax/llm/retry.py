"""When a request is retried, and when no more are sent: the same for LLM, STT and TTS."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from kame_jax.llm.errors import RETRIED, LLMError

T = TypeVar("T")


class Retry:
    """Waits that double from try to try, with jitter; a server that says how long to wait is obeyed.

    Args:
        backoff: seconds before the first further try.
        max_backoff: longest wait, in seconds, also where a server asks for more.
        retries: further tries of `run`.
        seed: of the jitter.
    """

    def __init__(self, backoff: float, max_backoff: float, retries: int = 0, seed: int = 0) -> None:
        self.backoff, self.max_backoff, self.retries = backoff, max_backoff, retries
        self._random = random.Random(seed)

    def wait(self, failures: int, retry_after: float | None) -> float:
        """Seconds to wait after this many failures in a row (at least 1), the last of which asked for `retry_after`."""
        wait = self.backoff * 2 ** min(failures - 1, 30) * self._random.uniform(0.5, 1.0)
        return min(max(wait, retry_after or 0.0), self.max_backoff)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, retried after failures that may be temporary.

        Raises:
            LLMError: of the last try.
        """
        failures = 0
        while True:
            try:
                return await work()
            except LLMError as error:
                failures += 1
                if error.kind not in RETRIED or failures > self.retries:
                    raise
                await asyncio.sleep(self.wait(failures, error.retry_after))


@dataclass(frozen=True)
class Budget:
    """How much of a paid service may be used."""

    max_cost: float | None
    """In the unit of the prices; None sets no limit."""
    most: float | None
    """In `unit`; None sets no limit."""
    unit: str

    def check(self, cost: float, used: float) -> None:
        """Raises when no more may be spent.

        Raises:
            LLMError: of kind "budget".
        """
        if self.max_cost is not None and cost >= self.max_cost:
            raise LLMError("budget", f"{cost:g} spent of {self.max_cost:g} (max_cost)")
        if self.most is not None and used >= self.most:
            raise LLMError("budget", f"{used:g} {self.unit} used of {self.most:g}")
