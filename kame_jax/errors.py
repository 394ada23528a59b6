"""What went wrong, reported once: the error that means "your input", with one problem or a list of them; and the one
that means "the work cannot continue".

Any room may raise them; the command line turns them into one clear line and exit status 2 or 1.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_SHOWN = 200
"""Problems of one error that are printed; a hostile file has millions."""


def printable(text: str) -> str:
    """Text that is safe for a terminal: a file's content must not move the cursor, change colours or hide itself."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


PREEMPTED = 75
"""Exit status that asks for the same command again, which continues: EX_TEMPFAIL of sysexits.h."""


class InputError(ValueError):
    """Bad usage, configuration or input file.

    Args:
        message: what is wrong, where, and what was expected, in one line.
        problems: when several things are wrong, each in one line; `message` then says what they are about.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        self.message = message
        self.problems = tuple(problems)
        super().__init__(message)

    def __str__(self) -> str:
        shown = self.problems[:MOST_SHOWN]
        more = len(self.problems) - len(shown)
        return "\n  ".join((self.message, *shown, *([f"and {more:,} more"] if more else [])))


class WorkError(RuntimeError):
    """Work that began well and cannot continue: a full disk, a file that became unreadable.

    Args:
        message: what happened, where, and what to do, in one line.
    """
