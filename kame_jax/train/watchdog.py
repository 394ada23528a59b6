"""Ends a run whose steps do not come back: a host that hangs in a collective waits for ever otherwise."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

from kame_jax.train.signals import PREEMPTED


class Watchdog:
    """While it is entered, some step must end every `minutes`; else the process ends, and launchers start it again.

    The stacks of all threads go to stderr first. Checkpoints that are written stay as they are.

    Args:
        minutes: of silence; 0 never ends anything.
    """

    def __init__(self, minutes: float):
        self.seconds = minutes * 60
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def alive(self) -> None:
        """A step, a save or an evaluation has ended."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.seconds / 4)):
            silent = time.monotonic() - self._last
            if silent > self.seconds:
                print(
                    f"kame-jax: no step has ended for {silent:.0f} s (train.hang_minutes): the process ends, "
                    "and the same command continues from the newest checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(PREEMPTED)

    def __enter__(self) -> Watchdog:
        if self.seconds:
            self._last = time.monotonic()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
