"""`kame-jax plan`: whether a run fits a machine that you do not have, and how fast it can be on it.

For a TPU the very step that `train` would run is compiled by the TPU's own compiler (`pip install 'kame_jax[plan]'`, no
TPU is needed); with `--decode`, the frame step. For GPUs, whose compiler needs a GPU, the answer is a closed-form
estimate, and says so. Exit status 0 whether it fits or not; `fits` tells.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from kame_jax.cli.common import add_common, add_config, check_output, emit, log, read_config
from kame_jax.files import write_text


def add_parser(subparsers: Any) -> None:
    """Add `plan` to the command line."""
    parser = subparsers.add_parser(
        "plan", help="compile a run for hardware you do not have", description=__doc__
    )
    add_config(parser)
    add = parser.add_argument
    add(
        "--topology",
        required=True,
        metavar="NAME",
        help="v5e:8x8, v5p:2x4x4, an accelerator type (v5e-64, v5p-32), or 8xH100",
    )
    add("--slices", type=int, default=1, help="number of slices or boxes (default: %(default)s)")
    add("--frames", type=int, help="frames of a row (default: data.max_frames)")
    add("--decode", action="store_true", help="the streaming frame step in place of the train step")
    add("--batch", type=int, default=1, help="number of conversations, with --decode (default: %(default)s)")
    add("--int8-weights", action="store_true", help="round the linear maps to int8, with --decode")
    add("--int8-cache", action="store_true", help="round keys and values to int8, with --decode")
    add(
        "--no-remedies", action="store_true", help="when it does not fit, do not look for settings that would"
    )
    add("--text", metavar="FILE", help="write the compiled program there")
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Plan, and print it."""
    from kame_jax.errors import InputError

    config = read_config(args)
    if config is None:
        return
    for name in ("frames", "batch"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected at least 1")
    if args.text:
        check_output(args.text)
    os.environ["JAX_PLATFORMS"] = "cpu"  # also on a machine that has accelerators: none is needed
    from kame_jax.decode.program import EngineOptions
    from kame_jax.plan.report import make_decode_plan, make_plan, remedies, row_length
    from kame_jax.plan.target import parse_target

    target = parse_target(args.topology, args.slices)
    if args.decode:
        log(f"compiling the frame step for {target.name}")
        options = EngineOptions(args.batch, int8_weights=args.int8_weights, int8_cache=args.int8_cache)
        plan = make_decode_plan(config, target, options)
    else:
        length = row_length(config, args.frames)
        if target.topology:
            log(f"compiling the train step for {target.name}; a 7B takes minutes")
        plan = make_plan(config, target, length)
    result, lines = plan.to_dict(), describe(plan)
    if args.text and plan.compiled and plan.compiled.text is not None:
        write_text(args.text, plan.compiled.text)
    if not plan.fits and not args.decode and not args.no_remedies:
        found = remedies(config, target, length, log)
        result["remedies"] = found[0] if found else None
        if found:
            lines += ["", f"It fits with {' '.join(found[0])}:", *describe(found[1])]
        else:
            lines += ["", "Nothing that was tried makes it fit: use more devices, shorter rows, or LoRA."]
    emit(args, result, "\n".join(lines))


def describe(plan: Any) -> list[str]:
    """A plan for people."""
    from kame_jax.plan.report import by_kind, largest_gathers

    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [f"{plan.target.name}: {plan.target.devices} {plan.target.chip.name}, mesh {mesh}, {plan.method}"]
    memory = plan.memory
    if memory and memory.arguments:
        lines.append(
            f"memory per device: {_gib(memory.arguments)} arguments + {_gib(memory.temporaries)} temporaries "
            f"= {_gib(memory.peak)} of {_gib(plan.limit)}"
        )
    elif memory:
        lines.append(f"memory per device: {_gib(memory.peak)} needed, {_gib(plan.limit)} available")
    lines.append(f"fits: {'yes' if plan.fits else 'no'}")
    times = plan.times
    if times:
        lines.append(
            f"predicted step: {times.overlapped:.3g} s if all overlaps, {times.serial:.3g} s if nothing does "
            f"(compute {times.compute:.3g}, memory {times.memory:.3g}, links {times.links:.3g}, "
            f"network {times.network:.3g}); {plan.flops:.3g} FLOP, at most {plan.mfu:.0%} MFU"
        )
    if plan.compiled and plan.compiled.text is None:
        lines.append("the compiler did not print its program: its collectives are estimated")
    if plan.compiled:
        for kind, sums in by_kind(plan.compiled.collectives).items():
            lines.append(
                f"{kind}: {sums['times']:.0f} a step, {sums['bytes'] / 1e9:.2f} GB of results, "
                f"{sums['sent'] / 1e9:.2f} GB sent by each device"
            )
        for one in largest_gathers(plan.compiled.collectives, 1):
            lines.append(
                f"largest gather: {one['shape']} ({one['bytes'] / 1e6:.0f} MB), {one['times']} a step"
            )
        if plan.compiled.tensors:
            biggest = ", ".join(f"{t.shape} ({t.size / 1e6:.0f} MB)" for t in plan.compiled.tensors[:4])
            lines.append(f"biggest tensors: {biggest}")
        lines.append(f"compiled in {plan.compiled.seconds:.0f} s")
    return lines


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"
