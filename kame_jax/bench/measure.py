"""What all benchmarks share: what this device can do, memory, and running the PyTorch reference."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.errors import InputError

Say = Callable[[str], None]
"""Called with a progress line."""
Outcome = tuple[dict[str, Any], str]
"""What scripts read, and what people read."""

PEER = Path(__file__).with_name("peer.py")


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Raises InputError for the first of these options that was given and is less than 1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected at least 1")


def best_seconds(call: Callable[[], Any], repeats: int) -> float:
    """The shortest of several runs, after one that warms up; waits for what `call` returns."""
    import jax

    jax.block_until_ready(call())
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - started)
    return best


def bandwidth(platform: str) -> float:
    """Bytes a second that a matrix-vector product reads on the default device, over an array larger than any cache."""
    import jax
    import jax.numpy as jnp

    rows = 1 << (15 if platform == "cpu" else 18)
    matrix, vector = jnp.ones((2048, rows), jnp.float32), jnp.ones((1, 2048), jnp.float32)
    product = jax.jit(lambda a, b: (a @ b).sum())
    return matrix.nbytes / best_seconds(lambda: product(vector, matrix), 10)


def peak_flops() -> float:
    """FLOPs a second of a large float32 matrix product on the default device."""
    import jax
    import jax.numpy as jnp

    size = 2048
    square = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / best_seconds(lambda: product(square, square), 3)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and tail of some times, in milliseconds: `ms_p50`, `ms_p95`, `ms_p99`."""
    return {f"ms_p{q}": float(np.percentile(np.array(seconds) * 1e3, q)) for q in (50, 95, 99)}


def resident_bytes() -> int:
    """Resident memory of this process: the current value where the system reports it, else the peak."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def add_reference(parser: argparse.ArgumentParser) -> None:
    """Add `--reference`; `find_reference` reads it."""
    parser.add_argument(
        "--reference",
        "--torch",
        metavar="PYTHON",
        help="a Python with torch and moshi, to time the PyTorch reference (default: this one, if it has them)",
    )


def find_reference(args: argparse.Namespace, say: Say) -> str | None:
    """The Python that runs the PyTorch reference; None where there is none.

    Raises:
        InputError: the named one is not a file.
    """
    if args.reference is not None:
        if not Path(args.reference).is_file():
            raise InputError(f"--reference {args.reference}: no such file, expected a Python interpreter")
        return str(args.reference)
    if all(importlib.util.find_spec(name) for name in ("torch", "moshi")):
        return sys.executable
    say(
        "PyTorch reference: torch and moshi are not installed here; --reference PYTHON names one that has them"
    )
    return None


def run_reference(
    python: str, arguments: Sequence[str], script: Path = PEER, environment: Mapping[str, str] | None = None
) -> Any:
    """The JSON in the last line that a script prints, run by another Python.

    Raises:
        InputError: it failed; gives its last line.
    """
    done = subprocess.run(
        [python, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | (environment or {}),
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"--reference {python}: the PyTorch reference did not run: {last}")
    return json.loads(done.stdout.splitlines()[-1])
