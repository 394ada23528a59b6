"""Files that appear complete or not at all: written under another name beside their place, then renamed.

Folders that appear so are `interop.native`'s.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from kame_jax.errors import InputError, WorkError

NOT_THE_USERS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)
"""What may happen to a file wherever it was asked for: no room, a broken disk, too many open files."""


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` fill a file that gets its name only when that returns; a failure leaves nothing behind.

    Args:
        path: replaced if it exists.
        write: is given the open file.

    Raises:
        InputError: it is no place to write to: the folder is missing, or not writable.
        WorkError: the machine cannot: its disk is full, for example.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(scratch, "wb") as file:
            write(file)
        scratch.replace(target)
    except OSError as error:
        kind = WorkError if error.errno in NOT_THE_USERS else InputError
        raise kind(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`write_whole` of text, in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()))
