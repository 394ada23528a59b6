"""Runs of several processes, one a host: how they find each other, and how they agree.

The same command runs on every host. Process 0 writes what belongs to the run; all of them save and load checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from kame_jax.errors import InputError

T = TypeVar("T")

CLUSTERS = ("SLURM_NTASKS", "TPU_WORKER_HOSTNAMES", "MEGASCALE_NUM_SLICES", "OMPI_COMM_WORLD_SIZE")
"""Environments in which JAX finds the other processes by itself."""
TIMEOUT = 1800
"""Seconds to wait for the other hosts: machines of a pod do not start together."""


def connect() -> None:
    """Joins the run's other processes, where there are some; must come before anything uses a device.

    By hand: `KAME_COORDINATOR=host:port KAME_PROCESSES=n KAME_PROCESS=i`. Otherwise from what SLURM, GKE, Cloud TPU or
    MPI set.

    Raises:
        InputError: the three variables do not fit together.
    """
    names = ("KAME_COORDINATOR", "KAME_PROCESSES", "KAME_PROCESS")
    given = [os.environ.get(name) for name in names]
    if any(given):
        address, count, index = given
        if not (address and (count or "").isdigit() and (index or "").isdigit() and int(index) < int(count)):  # type: ignore[arg-type]
            raise InputError(
                "KAME_COORDINATOR=host:port, KAME_PROCESSES=n and KAME_PROCESS=0..n-1 belong together, got "
                + ", ".join(f"{name}={value}" for name, value in zip(names, given, strict=True))
            )
        jax.distributed.initialize(address, int(count), int(index), initialization_timeout=TIMEOUT)  # type: ignore[arg-type]
    elif any(_several(os.environ.get(name, "")) for name in CLUSTERS):
        jax.distributed.initialize(initialization_timeout=TIMEOUT)


def _several(value: str) -> bool:
    """Whether a variable names several processes: a number above 1, or hosts with commas between."""
    return int(value) > 1 if value.isdigit() else "," in value


def is_first() -> bool:
    """Whether this process writes what belongs to the run."""
    return jax.process_index() == 0


def first_then_others(name: str, work: Callable[[], T]) -> T:
    """Does `work` on process 0, then on the others, which then find on disk what it left."""
    if jax.process_count() == 1:
        return work()
    result = work() if is_first() else None
    multihost_utils.sync_global_devices(name)
    return work() if result is None else result


def agreed(flags: tuple[bool, ...]) -> tuple[bool, ...]:
    """Flags that are true on any process, the same on all; each must call this at the same step."""
    if jax.process_count() == 1:
        return flags
    found = np.asarray(multihost_utils.process_allgather(np.array(flags))).reshape(-1, len(flags))
    return tuple(bool(found[:, i].any()) for i in range(len(flags)))
