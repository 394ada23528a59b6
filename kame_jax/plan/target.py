"""The machine that a plan is for: a TPU topology that the compiler knows, or a box of GPUs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kame_jax.errors import InputError
from kame_jax.train.hardware import CHIPS, Chip, named_chip

SLICES = {
    "v5e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "v6e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "v5p": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"},
    "v4": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"},
}
"""Generation -> chips -> topology, as Cloud TPU sells them."""

CORES_COUNTED = ("v4", "v5p")
"""Generations whose accelerator types (`v5p-32`) count cores, two a chip."""


@dataclass(frozen=True)
class Target:
    """A machine."""

    name: str
    """As requested."""
    chip: Chip
    devices: int
    """All of them together."""
    slices: int
    """Groups of devices connected only by the data-centre network."""
    topology: str | None
    """The compiler's name of a slice, `v5e:8x8`; None for GPUs, which are not compiled for."""

    @property
    def bandwidth(self) -> float:
        """Bytes a second that a chip sends inside its slice; a slice without wrap-around links has half."""
        if self.topology is None:
            return self.chip.link
        sizes = [int(size) for size in self.topology.split(":")[1].split("x")]
        wraps = all(size % 4 == 0 for size in sizes) if len(sizes) == 3 else all(size == 16 for size in sizes)
        return self.chip.link if wraps else self.chip.link / 2


def parse_target(text: str, slices: int = 1) -> Target:
    """The machine that `text` names.

    Args:
        text: `v5e:8x8` (a topology), `v5e-64`, `v5litepod-64` or `v5p-32` (an accelerator type, which counts cores for
            v4 and v5p), or `8xH100`.
        slices: of a TPU, or boxes of GPUs.

    Raises:
        InputError: there is no such machine.
    """
    if slices < 1:
        raise InputError(f"--slices {slices}: expected at least 1")
    if found := re.fullmatch(r"(\d+)x(\w+)", text):
        chip = named_chip(found[2])
        if chip is not None and chip.kinds[0].startswith("NVIDIA") and int(found[1]):
            return Target(text, chip, int(found[1]) * slices, slices, None)
    elif found := re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", text):
        if found[1] in SLICES:
            chips = 1
            for size in found[2].split("x"):
                chips *= int(size)
            return _tpu(text, found[1], found[2], chips, slices)
    elif found := re.fullmatch(r"(\w+)-(\d+)", text):
        generation = found[1].replace("litepod", "e")
        chips = int(found[2]) // (2 if generation in CORES_COUNTED else 1)
        if layout := SLICES.get(generation, {}).get(chips):
            return _tpu(text, generation, layout, chips, slices)
    gpus = ", ".join(chip.name for chip in CHIPS if chip.kinds[0].startswith("NVIDIA"))
    raise InputError(
        f"--topology {text}: expected a TPU topology (v5e:8x8, v5p:2x4x4; {', '.join(SLICES)}), an accelerator type "
        f"(v5e-64, v5p-32, v6e-64), or GPUs ({gpus}: 8xH100)"
    )


def _tpu(text: str, generation: str, layout: str, chips: int, slices: int) -> Target:
    chip = named_chip(generation)
    assert chip is not None
    return Target(text, chip, chips * slices, slices, f"{generation}:{layout}")


def has_compiler() -> bool:
    """Whether libtpu, which holds the compiler for TPUs, is installed."""
    return importlib.util.find_spec("libtpu") is not None


ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""What libtpu reads where there is no TPU: no metadata server is queried, another process's lock does not matter, and
the last two only stop its warnings."""


def tpu_devices(target: Target) -> list[Any]:
    """The devices of a TPU target, as the compiler sees them; needs no TPU, but libtpu.

    Raises:
        InputError: libtpu is not installed, or knows no such topology.
    """
    assert target.topology is not None
    if not has_compiler():
        raise InputError(
            "planning for a TPU needs its compiler, libtpu: pip install 'kame_jax[plan]' (no TPU is needed)"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": target.slices} if target.slices > 1 else {}
    if target.topology.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # or a chip counts as two devices
    if target.topology.endswith(":1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        with _quiet():
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=target.topology, **options
            ).devices
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"--topology {target.name}: the TPU compiler refuses it: {reason}") from error
    return list(found)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what libtpu writes past Python on the file descriptor of stderr."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
