"""A plan: whether a run fits a machine, what it needs there, how fast it can be, and what would make it fit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kame_jax.config import RunConfig, build, to_dict
from kame_jax.decode.program import EngineOptions
from kame_jax.errors import InputError
from kame_jax.plan.compiled import Compiled, compile_decode, compile_train
from kame_jax.plan.estimate import (
    Memory,
    Times,
    abstract_mesh,
    estimate_memory,
    estimate_traffic,
    step_flops,
    step_times,
)
from kame_jax.plan.hlo import BETWEEN_SLICES, Collective
from kame_jax.plan.target import Target, tpu_devices
from kame_jax.train.flops import active_parameters
from kame_jax.train.program import configured_mesh, run_mesh

USABLE = 0.92
"""Of a GPU's memory: what the driver, the allocator and cuDNN leave (JAX takes no more by default settings here)."""


@dataclass(frozen=True)
class Plan:
    """What is known of a step on a machine that is not present."""

    target: Target
    mesh: dict[str, int]
    length: int
    """Columns of a row of the batch (training), or conversations (decoding)."""
    fits: bool
    method: str
    """"compiled" by the target's own compiler, or "estimated" in closed form."""
    memory: Memory | None
    limit: int
    """Bytes of a device."""
    flops: float
    """Of a step over all devices, as MFU counts them."""
    times: Times | None
    compiled: Compiled | None

    @property
    def mfu(self) -> float | None:
        """Share of the chips' peak at the best and at the worst predicted step time, the best."""
        return (
            self.flops / self.target.devices / self.target.chip.flops / self.times.overlapped
            if self.times
            else None
        )

    def to_dict(self) -> dict[str, Any]:
        """What scripts read."""
        memory, times, compiled = self.memory, self.times, self.compiled
        return {
            "topology": self.target.name,
            "devices": self.target.devices,
            "slices": self.target.slices,
            "mesh": self.mesh,
            "length": self.length,
            "fits": self.fits,
            "method": self.method,
            "argument_bytes": memory and memory.arguments,
            "temporary_bytes": memory and memory.temporaries,
            "peak_bytes": memory and memory.peak,
            "limit_bytes": self.limit,
            "flops": self.flops,
            "predicted_seconds": times and times.overlapped,
            "predicted_seconds_serial": times and times.serial,
            "roofline_seconds": times and times._asdict(),
            "predicted_mfu": self.mfu,
            "compile_seconds": compiled and compiled.seconds,
            "collectives": by_kind(compiled.collectives) if compiled else None,
            "gathers": largest_gathers(compiled.collectives) if compiled else None,
            "biggest_tensors": [tensor._asdict() for tensor in compiled.tensors] if compiled else None,
        }


def by_kind(found: tuple[Collective, ...]) -> dict[str, dict[str, float]]:
    """Collectives summed up: runs a step, bytes of their results, bytes that a device sends."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: {"times": 0, "bytes": 0, "sent": 0})
    for one in found:
        for name, value in (("times", one.times), ("bytes", one.size * one.times), ("sent", round(one.sent))):
            sums[one.kind][name] += value
    return dict(sums)


def largest_gathers(found: tuple[Collective, ...], count: int = 4) -> list[dict[str, Any]]:
    """The largest all-gathers: shape and bytes of what a device then holds, and how often in a step."""
    times: dict[tuple[int, str], int] = defaultdict(int)
    for one in found:
        if one.kind == "all-gather":
            times[one.size, one.shape] += one.times
    largest = sorted(times.items(), reverse=True)[:count]
    return [{"shape": shape, "bytes": size, "times": runs} for (size, shape), runs in largest]


def row_length(config: RunConfig, frames: int | None = None) -> int:
    """Columns of a row of the batch when dialogues are cut to `frames` (None: `data.max_frames`), as `train` pads them.

    Raises:
        InputError: neither is given.
    """
    columns = frames or config.data.max_frames
    if columns is None:
        raise InputError("data.max_frames: null, so the length of a row is not known: set it, or --frames")
    return -(-columns // 8) * 8


def make_plan(config: RunConfig, target: Target, length: int) -> Plan:
    """Compiles the train step for a TPU, or estimates it for GPUs.

    Raises:
        InputError: the mesh does not fit the machine, the batch does not fit the mesh, or there is no compiler.
    """
    _check_slices(config, target)
    flops = step_flops(config, length)[0]
    times: Times | None
    if target.topology is None:
        mesh = _estimated_mesh(config, target)
        memory = estimate_memory(config, mesh, length)
        times = step_times(config, target, mesh, length, estimate_traffic(config, mesh))
        limit = int(target.chip.memory * USABLE)
        return Plan(
            target,
            dict(mesh.shape),
            length,
            memory.peak <= limit,
            "estimated",
            memory,
            limit,
            flops,
            times,
            None,
        )
    mesh = run_mesh(config, tpu_devices(target))
    done = compile_train(config, mesh, length)
    sent = estimate_traffic(config, mesh) if done.text is None else _sent(done)
    times = step_times(config, target, mesh, length, sent) if done.fits else None
    limit = done.limit or target.chip.memory
    return Plan(
        target, dict(mesh.shape), length, done.fits, "compiled", done.memory, limit, flops, times, done
    )


def make_decode_plan(config: RunConfig, target: Target, options: EngineOptions) -> Plan:
    """Compiles the frame step of an engine for a TPU.

    Raises:
        InputError: as `make_plan`; a machine of GPUs, for which there is no compiler here.
    """
    if target.topology is None:
        raise InputError(f"--decode --topology {target.name}: needs a TPU; there is no GPU compiler here")
    mesh = configured_mesh(config, tpu_devices(target))
    done = compile_decode(config, mesh, options)
    limit = done.limit or target.chip.memory
    times: Times | None = None
    flops = 2.0 * options.slots * active_parameters(config.model.architecture)
    if done.fits and done.memory:
        chip, (inside, beyond) = target.chip, _sent(done)
        times = Times(
            flops / target.devices / chip.flops,
            done.memory.arguments / chip.bandwidth,
            inside / target.bandwidth,
            beyond / chip.network,
        )
    shape = dict(mesh.shape)
    return Plan(target, shape, options.slots, done.fits, "compiled", done.memory, limit, flops, times, done)


def _sent(done: Compiled) -> tuple[float, float]:
    """Bytes that a device sends in a step: inside its slice, and over the network."""
    beyond = sum(one.sent for one in done.collectives if one.kind == BETWEEN_SLICES)
    return sum(one.sent for one in done.collectives) - beyond, beyond


def _estimated_mesh(config: RunConfig, target: Target) -> Any:
    try:
        mesh = abstract_mesh(config, target.devices)
    except ValueError as error:
        raise InputError(f"mesh: {error}") from error
    rows, cut = (
        config.train.batch_size // config.train.micro_batches,
        mesh.shape["replica"] * mesh.shape["fsdp"],
    )
    if rows % cut:
        raise InputError(f"train.batch_size: {rows} rows a micro-batch, expected a multiple of {cut}")
    return mesh


def _check_slices(config: RunConfig, target: Target) -> None:
    if target.slices > 1 and config.mesh.replica % target.slices and config.mesh.replica != -1:
        raise InputError(
            f"mesh.replica: {config.mesh.replica}, expected a multiple of the {target.slices} slices: "
            "only whole copies of the weights may be on different ones"
        )


def remedies(
    config: RunConfig, target: Target, length: int, say: Callable[[str], None]
) -> tuple[list[str], Plan] | None:
    """What makes a run fit: settings tried in turn, each added to the ones before, until the plan fits.

    Args:
        config: a run that does not fit.
        target: the machine.
        length: columns of a row.
        say: called with what is being tried.

    Returns:
        The overrides that make it fit, and the plan with them; None when no known setting does.
    """
    chosen: list[str] = []
    for key, value in _steps(config, target):
        changed = _with(config, _nested(key, value))
        say(f"trying {key}={value}")
        try:
            plan = make_plan(changed, target, length)
        except InputError:
            continue
        config = changed
        chosen = [text for text in chosen if not text.startswith(key + "=")] + [f"{key}={value}"]
        if plan.fits:
            return chosen, plan
    return None


def _steps(config: RunConfig, target: Target) -> Iterator[tuple[str, Any]]:
    """What to try, the cheapest in speed first."""
    if config.train.loss_chunks < 8:
        yield "train.loss_chunks", 8
    if config.train.remat != "full":
        yield "train.remat", "full"
    cut = target.devices // max(1, config.mesh.tensor)
    rows = config.train.batch_size // config.train.micro_batches
    while rows > cut and rows % 2 == 0:
        rows //= 2
        yield "train.micro_batches", config.train.batch_size // rows
    if config.optimizer.moments != "bfloat16":
        yield "optimizer.moments", "bfloat16"
    if config.mesh.tensor == 1 and target.devices % 2 == 0:
        yield "mesh.tensor", 2
        yield "train.batch_size", max(1, math.ceil(config.train.batch_size / 2))


def _nested(key: str, value: Any) -> dict[str, Any]:
    section, name = key.split(".")
    return {section: {name: value}}


def _with(config: RunConfig, changes: dict[str, dict[str, Any]]) -> RunConfig:
    values = to_dict(config)
    for section, settings in changes.items():
        values[section] |= settings
    return build(RunConfig, values)
