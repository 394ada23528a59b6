"""The environment of processes that tests start: a number of devices of their own, since JAX counts them once."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """Of a process that sees so many CPU devices. XLA flags that are set stay, an instruction set among them."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags.strip()} | more
