"""Runs of several processes, one per host: how they find each other, and how they agree.

The same command runs on every host. Process 0 writes what belongs to the run; all of them save and load checkpoints.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from kame_jax.errors import PREEMPTED, InputError

T = TypeVar("T")

CLUSTERS = ("SLURM_NTASKS", "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES", "OMPI_COMM_WORLD_SIZE")
"""Environments in which JAX finds the other processes itself."""
TIMEOUT = 1800
"""Seconds to wait for the other hosts: machines of a pod do not start together."""
SHUTDOWN_TIMEOUT = 120
"""Seconds that a failed process waits for the others, which cannot know; then they are ended as well."""

GONE = re.compile(
    r"gloo|nccl|connection (reset|closed|refused)|peer|unavailable|deadline_exceeded|coordination|heartbeat",
    re.IGNORECASE,
)
"""Phrases in the errors of a collective when another process is gone."""


def connect() -> None:
    """Joins the run's other processes, if any; must come before anything uses a device.

    By hand: `KAME_COORDINATOR=host:port KAME_PROCESSES=n KAME_PROCESS=i`. Otherwise from what SLURM, GKE, Cloud TPU or
    MPI set.

    Raises:
        InputError: the three variables do not fit together.
    """
    names = ("KAME_COORDINATOR", "KAME_PROCESSES", "KAME_PROCESS")
    given = [os.environ.get(name) for name in names]
    timeouts = {"initialization_timeout": TIMEOUT, "shutdown_timeout_seconds": SHUTDOWN_TIMEOUT}
    if any(given):
        address, count, index = given
        if not (address and (count or "").isdigit() and (index or "").isdigit() and int(index) < int(count)):  # type: ignore[arg-type]
            raise InputError(
                "KAME_COORDINATOR=host:port, KAME_PROCESSES=n and KAME_PROCESS=0..n-1 belong together, got "
                + ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=True))
            )
        jax.distributed.initialize(address, int(count), int(index), **timeouts)  # type: ignore[arg-type]
    elif any(_several(os.environ.get(name, "")) for name in CLUSTERS):
        jax.distributed.initialize(**timeouts)


def _several(value: str) -> bool:
    """Whether a variable names several processes: a number above 1, or hosts separated by commas."""
    return int(value) > 1 if value.isdigit() else "," in value


def is_first() -> bool:
    """Whether this process writes what belongs to the run."""
    return jax.process_index() == 0


def first_then_others(work: Callable[[], T]) -> T:
    """Does `work` on process 0, then on the others, which then find on disk what it left.

    Raises:
        InputError: it failed on process 0, which says why.
    """
    if jax.process_count() == 1:
        return work()
    result, failed = None, True
    try:
        if is_first():
            result, failed = work(), False
    finally:
        # The others must be told, or they would wait for ever.
        failed = bool(multihost_utils.broadcast_one_to_all(np.array(failed)))
    if failed:
        raise InputError("process 0 could not read the run's input; see its message")
    return work() if result is None else result


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds a run's folder, so that another run in it is refused. One that was made here and stayed empty is removed.

    On file systems without locks (object stores) nothing is refused.

    Raises:
        InputError: another run holds it, or it cannot be made.
    """
    made = not folder.exists()
    handle = first_then_others(lambda: _locked(folder) if is_first() else -1)
    try:
        yield
    finally:
        if handle >= 0:
            if made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            os.close(handle)


def _locked(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"run_dir: {folder}: cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(handle)
            raise InputError(
                f"run_dir: {folder}: another run is using it: wait for its end, or give another run_dir"
            ) from None
    return handle


def agreed(flag: bool) -> bool:
    """Whether the flag is true on any process; each must call this at the same step, and waits for the others."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


@contextlib.contextmanager
def ends_with_others() -> Iterator[None]:
    """In a run of several processes, ends this one when another is gone, with the status on which launchers restart.

    It waits for nothing: a checkpoint being written needs all processes, and is removed at the next start.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        said = " ".join(str(error).split())
        if jax.process_count() == 1 or not GONE.search(said):
            raise
        print(
            f"kame-jax: another process of the run is gone ({said[:200]}): this one ends as well, and the same command "
            "continues from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(PREEMPTED)
