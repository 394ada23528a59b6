"""What a run reports: one JSON line per logged step in `metrics.jsonl`, and progress for the terminal.

Numbers come from `loss.report`; nothing here touches a device.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from kame_jax.errors import WorkError
from kame_jax.files import write_text

Line = dict[str, Any]
"""A line of metrics: `step`, and numbers by name; a number that does not exist (a part without tokens) is NaN."""


class Progress(Protocol):
    """Receives a run's progress."""

    def say(self, text: str) -> None:
        """A single event."""

    def count(self, what: str, done: int, total: int) -> None:
        """Preparatory work in progress."""

    def step(self, line: Mapping[str, Any], total: int) -> None:
        """A logged training step; `total` is the run's number of steps."""


class Silent:
    """Discards all progress."""

    def say(self, text: str) -> None:
        """See `Progress`."""

    def count(self, what: str, done: int, total: int) -> None:
        """See `Progress`."""

    def step(self, line: Mapping[str, Any], total: int) -> None:
        """See `Progress`."""


class Meter:
    """Training time, and speed without the first step (compilation), saving and evaluating.

    Args:
        seconds: training time of the sessions before this one.
    """

    def __init__(self, seconds: float):
        self._before = seconds
        self._start = self._mark = time.monotonic()
        self._frames: int | None = None

    @property
    def seconds(self) -> float:
        """Wall time of all sessions so far."""
        return self._before + time.monotonic() - self._start

    def add(self, frames: int) -> None:
        """A step over `frames` frames has started; the first starts the clock, and does not count."""
        if self._frames is None:
            self._frames, self._mark = 0, time.monotonic()
        else:
            self._frames += frames

    def rate(self) -> float:
        """Frames a second since the last call; NaN without any."""
        now = time.monotonic()
        rate = self._frames / (now - self._mark) if self._frames else math.nan
        self._frames, self._mark = 0, now
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        begin = time.monotonic()
        yield
        self._mark += time.monotonic() - begin


class MetricsFile:
    """The metrics of a run, one line at a time; a run that continues drops the lines that it will write again.

    Args:
        path: the file, made when needed.
        start: step that the run continues from; later lines are dropped.
    """

    def __init__(self, path: Path, start: int):
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= start] if path.is_file() else []
        self.seconds = max((line.get("seconds", 0.0) for line in kept), default=0.0)
        """Training time of the lines kept."""
        self.evaluated = any(line["step"] == start and "eval/loss/total" in line for line in kept)
        """Whether they hold an evaluation of the step that the run continues from."""
        write_text(path, "".join(_dumped(line) for line in kept))

    def write(self, line: Mapping[str, Any]) -> None:
        """Adds a line; it is on disk when this returns.

        Raises:
            WorkError: the disk is full, for example.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_dumped(line))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WorkError(
                f"{self.path}: a line cannot be written: {error.strerror}. The checkpoints are unaffected: make "
                "room, and the same command continues from the newest"
            ) from error


def read_metrics(path: Path) -> list[Line]:
    """The lines of a `metrics.jsonl`; null becomes NaN, and a truncated or damaged line is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            lines.append({name: math.nan if number is None else number for name, number in value.items()})
    return lines


def _dumped(line: Mapping[str, Any]) -> str:
    finite = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in line.items()}
    return json.dumps(finite) + "\n"
