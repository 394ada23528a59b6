"""`kame-jax bench codec`: milliseconds that Mimi takes to encode and to decode one streamed frame of 80 ms.

Weights are noise. The floor is the larger of two: the weights' bytes over the bandwidth, and the arithmetic of a frame
over the rate of a large matrix product, both measured on this device in this run.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from kame_jax.bench.measure import (
    Outcome,
    Say,
    add_reference,
    bandwidth,
    check_positive,
    find_reference,
    peak_flops,
    percentiles,
    run_reference,
)

HELP = "milliseconds per streamed frame of Mimi"
WARM_UP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--codebooks", type=int, default=8, help="codebooks encoded and decoded (default: %(default)s)")
    add("--sessions", type=int, default=1, help="streams at once (default: %(default)s)")
    add("--frames", type=int, default=40, help="frames to measure (default: %(default)s)")
    add_reference(parser)


def measure(args: argparse.Namespace, say: Say) -> Outcome:
    """Encode and decode, frame by frame."""
    import jax
    import jax.numpy as jnp

    from kame_jax.codec import mimi as codec
    from kame_jax.config import load_codec
    from kame_jax.model import tree

    check_positive(args, "codebooks", "sessions", "frames")
    config = load_codec("mimi")
    rng = np.random.default_rng(0)
    arrays = {
        path: jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * 0.05)
        for path, leaf in tree.leaves(tree.abstract_mimi(config)).items()
    }
    mimi = codec.prepare(tree.fill(tree.abstract_mimi(config), arrays), args.codebooks)
    device = jax.devices()[0]
    say(f"{device.device_kind}: measuring bandwidth and arithmetic")
    speed = {"bandwidth_gb_s": bandwidth(device.platform) / 1e9, "gflops": peak_flops() / 1e9}
    audio = jnp.asarray(rng.standard_normal((args.sessions, config.frame_size), np.float32) * 0.1)
    codes = jnp.asarray(rng.integers(0, config.quantizer.bins, (args.sessions, args.codebooks, 1)), jnp.int32)
    rows = {}
    for name, function, given in (
        ("encode", lambda m, s, x: codec.encode_frame(m, s, x, codebooks=args.codebooks), audio),
        ("decode", codec.decode_frame, codes),
    ):
        say(f"{name}: compiling")
        state = codec.init_state(mimi, args.sessions)
        step = jax.jit(function, donate_argnums=1).lower(mimi, state, given).compile()
        seconds = []
        for _ in range(WARM_UP + args.frames):
            started = time.perf_counter()
            out, state = step(mimi, state, given)
            jax.block_until_ready((out, state))
            seconds.append(time.perf_counter() - started)
        rows[name] = percentiles(seconds[WARM_UP:]) | _floor(step, speed)
    result: dict[str, Any] = {
        "device": device.device_kind,
        "codebooks": args.codebooks,
        "sessions": args.sessions,
        **speed,
        **rows,
    }
    python = find_reference(args, say)
    if python is not None:
        say("PyTorch reference: measuring")
        asked = {name: getattr(args, name) for name in ("codebooks", "frames", "sessions")}
        theirs = run_reference(python, ["codec", json.dumps(asked | {"warm_up": WARM_UP})])
        for name, row in rows.items():
            row["reference_ms_p50"] = float(np.median(theirs[name])) * 1e3
            row["speedup"] = row["reference_ms_p50"] / row["ms_p50"]
    lines = [
        f"{device.device_kind}, {args.sessions} sessions, {args.codebooks} codebooks; "
        f"{speed['bandwidth_gb_s']:.1f} GB/s and {speed['gflops']:.0f} GFLOP/s measured"
    ]
    lines += [f"{name}: {_line(row)}" for name, row in rows.items()]
    return result, "\n".join(lines)


def _floor(step: Any, speed: dict[str, float]) -> dict[str, float]:
    """The floor of a compiled frame, from its arguments' bytes and XLA's count of its arithmetic."""
    weights = step.memory_analysis().argument_size_in_bytes
    flops = step.cost_analysis()["flops"]
    floor = max(weights / speed["bandwidth_gb_s"], flops / speed["gflops"]) / 1e6
    return {"bytes": weights, "flops": flops, "floor_ms": floor}


def _line(row: dict[str, float]) -> str:
    text = (
        f"p50 {row['ms_p50']:.2f}  p95 {row['ms_p95']:.2f}  p99 {row['ms_p99']:.2f} ms; "
        f"floor {row['floor_ms']:.2f} ms ({row['bytes'] / 1e6:.0f} MB, {row['flops'] / 1e9:.2f} GFLOP), "
        f"{row['ms_p50'] / row['floor_ms']:.2f} x the floor"
    )
    if "speedup" in row:
        text += f"; PyTorch {row['reference_ms_p50']:.2f} ms, {row['speedup']:.2f} x faster here"
    return text
