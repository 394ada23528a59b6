"""A job over many items that may be stopped and restarted: what exists is kept, the rest is made.

A failed item is reported in one line that names it, and all others are made. What an item is (a dialogue to
tokenise, an oracle, a question to speak) is the caller's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kame_jax.errors import InputError, WorkError
from kame_jax.files import NOT_THE_USERS, read_json, write_json
from kame_jax.make.answers import Stopped

Progress = Callable[[int, int, str], None]
"""Called with the items done, their total, and any further remark."""
Shard = tuple[int, int]
"""(i, n): every n-th item from the i-th on, so that n processes share the work."""


@dataclass
class Outcome:
    """What became of the items of one process."""

    made: int = 0
    kept: int = 0
    """Those that existed already."""
    seconds: float = 0.0
    """Of audio, in items made or kept."""
    problems: list[str] = field(default_factory=list)
    """One line for each item that was left out."""
    notes: list[str] = field(default_factory=list)
    """One line for each thing that was mended or skipped."""
    stopped: str | None = None
    """Why the job stopped early, where it did."""


class Job:
    """Counts the items of a job and reports what goes wrong with them.

    Args:
        outcome: what is counted.
        total: items of this process.
        kind: what an item is called in its line.
        progress: called after each item.
        say: called with each line as it comes up.
    """

    def __init__(
        self,
        outcome: Outcome,
        total: int,
        kind: str = "dialogue",
        progress: Progress = lambda done, total, text: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.outcome, self._total, self._done, self._kind = outcome, total, 0, kind
        self._progress, self._say = progress, say

    @contextlib.contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """A failure inside is a problem of the item `name`, unless the machine cannot continue."""
        try:
            yield
        except Stopped as error:
            self.outcome.stopped = str(error)
        except (WorkError, MemoryError):
            raise
        except Exception as error:
            if getattr(error, "errno", None) in NOT_THE_USERS:
                raise
            said = isinstance(error, InputError | RuntimeError | OSError) and str(error)
            self.complain(said or f"{type(error).__name__}: {error}", name)

    def complain(self, problem: str, name: str | None = None) -> None:
        """Leaves an item out, with one line that begins with its name."""
        line, about = " ".join(problem.split()), f"{self._kind} {name}: "
        if name is not None and not line.startswith(about):
            line = about + line
        if line not in self.outcome.problems:
            self.outcome.problems.append(line)
            self._say(line)

    def note(self, name: str, text: str) -> None:
        """Reports something about an item that is still made."""
        self.outcome.notes.append(f"{self._kind} {name}: {text}")
        self._say(self.outcome.notes[-1])

    def advance(self, items: int = 1, text: str = "") -> None:
        """Counts further items as done."""
        self._done += items
        self._progress(self._done, self._total, text)


def settle(file: Path, settings: Mapping[str, Any], complaint: str, *, told: tuple[str, ...] = ()) -> None:
    """Leaves the settings of a new job in `file`, or compares them with those already in it.

    Args:
        file: JSON; its folder must exist.
        settings: what equal items follow from; JSON values.
        complaint: the message when the file holds others.
        told: names of settings that are only recorded, and may differ.

    Raises:
        InputError: the settings there differ, or are not a JSON object.
    """
    if not file.is_file():
        write_json(file, settings)
        return
    old = read_json(file)
    names = [name for name in settings if name not in told and old.get(name) != settings[name]]
    if names:
        raise InputError(
            complaint, [f"{name}: {old.get(name)!r} there, {settings[name]!r} here" for name in names]
        )
