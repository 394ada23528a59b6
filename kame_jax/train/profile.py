"""The profiler: a trace of some steps of a run, for XProf (TensorBoard's profile tab) or Perfetto."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import jax


class Profile:
    """Records the steps from `steps[0]` to `steps[1]` into a folder; None records nothing. A context manager.

    The first steps compile: a trace of the actual work should begin at the third or later.

    Args:
        folder: of the trace.
        steps: first and last.
        say: called with the path of the trace.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None, say: Callable[[str], None]):
        self.folder, self.steps, self.say = folder, steps, say
        self._running = False

    def step(self, number: int) -> None:
        """Step `number` is about to start."""
        if self.steps is None:
            return
        if self._running and number > self.steps[1]:
            self._stop()
        elif not self._running and self.steps[0] <= number <= self.steps[1]:
            jax.profiler.start_trace(self.folder)
            self._running = True

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._running = False
        self.say(f"the trace is in {self.folder}, for XProf (tensorboard --logdir) or Perfetto")

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running:
            self._stop()
