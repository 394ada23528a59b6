"""Ctrl-C and SIGTERM: noted, so that the loop can save and end; then raised as what they are."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

PREEMPTED = 75
"""Exit status after SIGTERM, once the state is saved: the same command continues (EX_TEMPFAIL of sysexits.h)."""


class Signals:
    """Holds SIGINT and SIGTERM back while it is entered; a second one ends the program at once.

    Python lets only the main thread do so; elsewhere nothing is caught.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        """The signal that came, or None."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def raise_caught(self) -> None:
        """Does nothing, or ends the run.

        Raises:
            KeyboardInterrupt: SIGINT came.
            SystemExit: SIGTERM came; status `PREEMPTED`.
        """
        if self.caught == signal.SIGINT:
            raise KeyboardInterrupt
        if self.caught is not None:
            raise SystemExit(PREEMPTED)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = number
        self._release()

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
