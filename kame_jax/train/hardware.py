"""What the chips can do, from their makers' data sheets: the denominators of MFU and the rooflines of a plan."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """One accelerator, in decimal units unless stated otherwise."""

    name: str
    kinds: tuple[str, ...]
    """Prefixes of its `jax.Device.device_kind`."""
    flops: float
    """bfloat16 multiply-adds on dense matrices, FLOP a second."""
    memory: int
    """Bytes of high-bandwidth memory."""
    bandwidth: float
    """Bandwidth of that memory, bytes a second."""
    link: float
    """Bytes a second that a chip sends to its neighbours over all its links, with wrap-around links where a slice has
    them (ICI) or through the switch (NVLink)."""
    network: float
    """Bytes a second a chip has to the other slices or boxes."""


CHIPS = (
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, 1.64e12, 448e9, 6.25e9),
    Chip("v5p", ("TPU v5p", "TPU v5"), 459e12, 95 * GIB, 2.765e12, 600e9, 6.25e9),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, 0.819e12, 200e9, 3.125e9),
    Chip("v4", ("TPU v4",), 275e12, 32 * GIB, 1.228e12, 300e9, 6.25e9),
    Chip("H200", ("NVIDIA H200",), 989e12, 141 * 10**9, 4.8e12, 450e9, 50e9),
    Chip("H100", ("NVIDIA H100",), 989e12, 80 * 10**9, 3.35e12, 450e9, 50e9),
    Chip("A100", ("NVIDIA A100",), 312e12, 80 * 10**9, 2.039e12, 300e9, 25e9),
)
"""Cloud TPU's system architecture pages; NVIDIA's data sheets of the SXM versions, links in one direction."""


def find_chip(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`, or None for one that is not in the table (a CPU, for example)."""
    fitting = [(len(kind), chip) for chip in CHIPS for kind in chip.kinds if device_kind.startswith(kind)]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def named_chip(name: str) -> Chip | None:
    """The chip of that name in the table, in any case."""
    return next((chip for chip in CHIPS if chip.name.lower() == name.lower()), None)
