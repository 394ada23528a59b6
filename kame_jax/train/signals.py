"""Ctrl-C, SIGTERM and SIGHUP: recorded, so that the loop can save and end; then raised."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from kame_jax.errors import PREEMPTED


class Signals:
    """Holds SIGINT, SIGTERM and SIGHUP back while it is entered; a second one ends the program at once.

    A SIGHUP that the process was told to ignore (`nohup`) stays ignored. Python lets only the main thread do so;
    elsewhere nothing is caught. In a run of several processes SIGTERM belongs to JAX's coordination service, which has
    caught it since the processes joined: it tells all of them, and names a moment that none has reached yet, counted in
    checks. The others are passed on to it.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        """The signal that came, or None."""
        self._agreed = False
        self._asked = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        held = {signal.SIGINT, signal.SIGHUP} | ({signal.SIGTERM} if jax.process_count() == 1 else set())
        if threading.current_thread() is threading.main_thread():
            for number in sorted(held):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def must_stop(self) -> bool:
        """Whether the run must save and end now. All processes ask equally often; all get the same answer.

        Nothing waits for a device, nor for another process unless a signal has come.
        """
        if jax.process_count() == 1:
            return self.caught is not None
        self._asked += 1
        if not self._agreed and multihost_utils.reached_preemption_sync_point(self._asked):
            self._agreed, self.caught = True, self.caught or signal.SIGTERM
        return self._agreed

    def raise_caught(self) -> None:
        """Does nothing, or ends the run.

        Raises:
            KeyboardInterrupt: SIGINT came.
            SystemExit: SIGTERM or SIGHUP came; status `PREEMPTED`.
        """
        if self.caught == signal.SIGINT:
            raise KeyboardInterrupt
        if self.caught is not None:
            raise SystemExit(PREEMPTED)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self._release()
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
