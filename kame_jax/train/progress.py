"""A run seen from the terminal: a live line on stderr, or, where stderr is a file, a line every few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

LINE_SECONDS = 10.0
"""Seconds between lines where they are not live."""


class Terminal:
    """Shows a run on stderr (see `metrics.Progress`). A context manager; its end clears the live line."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._shown = -math.inf
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """A single event."""
        self.console.print(text, markup=False, soft_wrap=True)

    def count(self, what: str, done: int, total: int, text: str = "") -> None:
        """Work in progress, with any further remark."""
        self._show(what, done, total, text)

    def step(self, line: Mapping[str, Any], total: int) -> None:
        """A logged training step: losses, accuracy of the words, speed and time left."""
        now, step = time.monotonic(), int(line["step"])
        parts = [f"loss {line['loss/total']:.3f}"]
        parts.append(f"words {line['loss/text_non_pad']:.3f} ({line['accuracy/text_non_pad']:.0%} right)")
        if math.isfinite(line["frames_per_second"]):
            parts.append(f"{line['frames_per_second']:,.0f} frames/s")
        if self._first is None:
            self._first = now, step
        elif step > self._first[1]:
            left = (now - self._first[0]) / (step - self._first[1]) * (total - step)
            parts.append(f"{_duration(left)} left")
        self._show("training", step, total, ", ".join(parts))

    def _show(self, what: str, done: int, total: int, text: str) -> None:
        if not self.console.is_terminal:
            if done == total or time.monotonic() - self._shown > LINE_SECONDS:
                self._shown = time.monotonic()
                self.say(f"{what} {done}/{total} {text}".rstrip())
            return
        if what not in self._tasks:
            for other in self._tasks.values():
                self._live.update(other, visible=False)
            self._tasks[what] = self._live.add_task(what, total=total, text="")
        self._live.update(self._tasks[what], completed=done, text=text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
