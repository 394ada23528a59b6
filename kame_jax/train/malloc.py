"""How the C library treats the memory that a train step on the CPU frees."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys

MALLOC_SETTINGS = {
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),
}
"""glibc's environment variable -> parameter of its `mallopt`, and the value that keeps freed memory in the process."""


def keep_freed_memory() -> None:
    """Keeps what a train step frees for the next one, where the steps run on the CPU; call it before JAX starts.

    XLA takes a step's temporaries from malloc as one block, which glibc returns to the system after every step: the
    page faults of taking it again cost a quarter of a 100 M-parameter step. Another C library is left as it is.
    """
    accelerators = ("jax_cuda12_plugin", "jax_cuda13_plugin", "libtpu")
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(importlib.util.find_spec, accelerators))
    if not on_cpu or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in MALLOC_SETTINGS.values():
            mallopt(parameter, value)
