"""Files that are read only if they are regular ones; files and folders that appear complete or not at all.

A FIFO, a socket or a device in place of a file is refused with one line: opening it may wait for ever, and renaming
onto it would replace its node. A pipe that the shell has opened (`/dev/stdin`, `<(...)`) may be read, up to a limit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kame_jax.errors import InputError, WorkError

NOT_THE_USERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)
"""What may happen to any file: no space, a broken disk, too many open files."""
CLEANING_TRIES = 50
"""How many times, a tenth of a second apart, removing a scratch folder is tried."""

TEXT_LIMIT = 1 << 28
"""Bytes of the largest text that is read whole (256 MiB)."""

HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes half of a character beyond the first 65,536; alone, it cannot be encoded."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_file(path: str | os.PathLike[str], expected: str) -> Path:
    """`path`, once it is known to be a regular file; links are followed.

    Args:
        path: where the file should be.
        expected: what it should be ("a sound file"), for the message.

    Raises:
        InputError: there is nothing, or something else: a folder, a FIFO, a socket, a device.
    """
    kind = _kind(path, expected)
    if kind is None:
        raise InputError(f"{path}: no such file, expected {expected}")
    if kind != stat.S_IFREG:
        raise InputError(f"{path}: is {_KINDS.get(kind, 'not a regular file')}, expected {expected}")
    return Path(path)


def open_pipe(path: str | os.PathLike[str]) -> int | None:
    """The descriptor that `path` names, where it is a pipe or a file that this process was started with."""
    match = re.fullmatch(r"-|/dev/stdin|/dev/fd/(\d+)", os.fspath(path))
    if match is None:
        return None
    descriptor = int(match[1] or 0)
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    except OSError:
        return None
    return descriptor if kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG) else None


def read_bytes(path: str | os.PathLike[str], expected: str, limit: int = TEXT_LIMIT) -> bytes:
    """All bytes of a regular file, or of a pipe that this process was started with.

    Args:
        path: a file; or `-`, `/dev/stdin` or `/dev/fd/N`, which the shell makes of `<(...)`.
        expected: what it should be, for the message.
        limit: bytes; more are refused.

    Raises:
        InputError: it cannot be read, is not a regular file, or holds more than `limit` bytes.
    """
    pipe = open_pipe(path)
    try:
        with open(regular_file(path, expected) if pipe is None else os.dup(pipe), "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > limit:
        raise InputError(f"{path}: holds more than {limit:,} bytes, expected {expected}")
    return content


def read_text(path: str | os.PathLike[str], expected: str, limit: int = TEXT_LIMIT) -> str:
    """`read_bytes` as UTF-8 text, without a byte-order mark.

    Raises:
        InputError: as `read_bytes`, or the bytes are not UTF-8.
    """
    try:
        return read_bytes(path, expected, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}), expected {expected}") from None


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object from a regular file.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    value = _parse_json(path, "a JSON object")
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def read_json_list(path: str | os.PathLike[str]) -> list[Any]:
    """A JSON list from a regular file.

    Raises:
        InputError: as `read_json`.
    """
    value = _parse_json(path, "a JSON list")
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a JSON list")
    return value


def _parse_json(path: str | os.PathLike[str], expected: str) -> Any:
    text = read_text(path, expected)
    try:
        value = json.loads(text)
        if HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: holds half of a surrogate pair, which is not a character") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    return value


def output_place(path: str | os.PathLike[str]) -> Path:
    """Where a file named `path` is to be written; links are followed. Call it before the work that makes the file.

    Raises:
        InputError: its folder is missing or not writable, or `path` exists and is not a regular file.
    """
    try:
        target = Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name
        raise InputError(f"{path}: cannot be written: {error}") from None
    kind = _kind(target, "a place for a file")
    if kind not in (None, stat.S_IFREG):
        raise InputError(
            f"{path}: is {_KINDS.get(kind, 'not a regular file')}, which a file must not replace"
        )
    if not target.parent.is_dir():
        raise InputError(f"{path}: its folder does not exist")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: its folder is not writable")
    return target


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Lets `write` fill a file that gets its name only when `write` returns; a failure leaves nothing behind.

    Args:
        path: replaced if it is a regular file.
        write: is given the open file.

    Raises:
        InputError: `path` cannot be written (`output_place`).
        WorkError: the machine cannot: its disk is full, for example.
    """
    target = output_place(path)
    scratch = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        with open(scratch, "wb") as file:
            write(file)
        scratch.replace(target)
    except OSError as error:
        kind = WorkError if error.errno in NOT_THE_USERS else InputError
        raise kind(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """`write_whole` of a JSON value."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`write_whole` of text, in UTF-8."""
    write_whole(path, lambda file: file.write(text.encode()))


def make_folder(path: str | os.PathLike[str]) -> Path:
    """A folder that is made if it does not exist.

    Raises:
        InputError: it cannot be.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: no folder can be made here: {error.strerror}") from None
    return Path(path)


def free_folder(path: str | os.PathLike[str]) -> Path:
    """An absolute path at which a folder can be made.

    Raises:
        InputError: something exists there, or the folder above it cannot be made.
    """
    target = Path(os.path.abspath(path))
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{path}: exists already; give a new place, or remove it first")
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    return target


@contextlib.contextmanager
def building(target: Path, *, alone: bool = False) -> Iterator[Path]:
    """A scratch folder next to `target`, removed afterwards in any case.

    Each is locked as long as its process lives; what a killed one left behind is removed here.

    Args:
        target: what is to be made.
        alone: refuse if another process is making it.

    Raises:
        InputError: another process is making it.
        WorkError: the machine cannot: its disk is full, for example.
    """
    busy = _others(target)
    scratch, lock = _scratch(target)
    try:
        # Of two that start at once, the first by name stays.
        if alone and (busy or any(other < scratch for other in _others(target, scratch))):
            raise InputError(f"{target}: another process is making it")
        yield scratch
    except (InputError, WorkError):
        raise
    except Exception as error:
        # Libraries wrap the system's message in long errors.
        said = (text for text in map(os.strerror, NOT_THE_USERS) if text in str(error))
        if (reason := next(said, None)) is None:
            raise
        raise WorkError(f"{target}: cannot be written: {reason}") from error
    finally:
        _remove(scratch)
        os.close(lock)


def settle(made: Path, target: Path) -> None:
    """Gives a folder that is complete its name.

    Raises:
        InputError: something was created there in the meantime.
    """
    try:
        made.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise InputError(
            f"{target}: was made by another process in the meantime, and is left as it is"
        ) from None


def _scratch(target: Path) -> tuple[Path, int]:
    """A new folder with a lock on it."""
    while True:
        scratch = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
        scratch.mkdir()
        lock = os.open(scratch, os.O_RDONLY)
        if _locks(lock) is not False and scratch.exists():
            return scratch, lock
        os.close(lock)  # taken for an abandoned one, in the moment before it was locked


def _locks(folder: int) -> bool | None:
    """Whether a folder's lock could be taken; None where the file system has none."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _others(target: Path, own: Path | None = None) -> list[Path]:
    """Scratch folders of other processes that live; abandoned ones are removed."""
    form = re.compile(rf"\.{re.escape(target.name[:200])}\.[0-9a-f]{{8}}\.part")
    live = []
    for path in [p for p in target.parent.iterdir() if form.fullmatch(p.name) and p != own and p.is_dir()]:
        with contextlib.suppress(FileNotFoundError):  # its process has just ended
            lock = os.open(path, os.O_RDONLY)
            if _locks(lock):
                _remove(path)
            else:
                live.append(path)
            os.close(lock)
    return live


def _remove(folder: Path) -> None:
    """Removes a folder. When one of Orbax's writers fails, others may still be making files in it for a moment."""
    for _ in range(CLEANING_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.1)


def _kind(path: str | os.PathLike[str], expected: str) -> int | None:
    """The type bits of what is at `path`, links followed; None where there is nothing."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (
        OSError,
        ValueError,
    ) as error:  # no permission, a loop of links, a name too long or with a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be opened: {reason}; expected {expected}") from None
