"""Ends a run when a step hangs: a host stuck in a collective would wait for ever."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

from kame_jax.errors import PREEMPTED

ALLOWANCE = 30.0
"""Minutes more for what compiles (the first step, the first batch of an evaluation) or writes a checkpoint."""


class Watchdog:
    """While it is entered, some step must end every `minutes`; else the process ends, and launchers restart it.

    The stacks of all threads go to stderr first. Checkpoints that are written stay as they are.

    Args:
        minutes: without a finished step; 0 disables it.
        allowance: minutes more until the first step has ended, and after each `be_patient`.
    """

    def __init__(self, minutes: float, allowance: float = ALLOWANCE):
        self.minutes, self.allowance = minutes, allowance
        self._since = (0.0, 0.0)
        """When the clock was set, and the seconds it may run: one value, for the other thread reads it at any time."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def alive(self) -> None:
        """A step, a save or a batch of an evaluation has ended."""
        self._since = (time.monotonic(), 60 * self.minutes)

    def be_patient(self) -> None:
        """Something begins that may take the allowance in addition to a step's time."""
        self._since = (time.monotonic(), 60 * (self.minutes + self.allowance))

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, 60 * self.minutes / 4)):
            start, limit = self._since
            silent = time.monotonic() - start
            if silent > limit:
                print(
                    f"kame-jax: no step has ended for {silent:.0f} s (train.hang_minutes): the process ends, "
                    "and the same command continues from the newest checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(PREEMPTED)

    def __enter__(self) -> Watchdog:
        if self.minutes:
            self.be_patient()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
