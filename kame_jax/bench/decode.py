"""`kame-jax bench decode`: milliseconds per frame of the streaming engine, next to the floor that memory sets.

Weights are noise; time does not depend on them, nor on how long a conversation has lasted, since every frame reads the
whole KV ring. The floor is the bytes that one frame must read (weights once, each session's ring) over the bandwidth
measured on this device in this run.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from kame_jax.bench.measure import (
    Outcome,
    Say,
    add_reference,
    bandwidth,
    find_reference,
    percentiles,
    run_reference,
)
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.config import ModelConfig
    from kame_jax.decode.engine import Engine

WARM_UP = 5


HELP = "milliseconds per frame of the engine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--config", default="moshi_341m", help="the model's configuration (default: %(default)s)")
    add(
        "--sessions", default="1,2,4", help="concurrent sessions, one measurement each (default: %(default)s)"
    )
    add("--frames", type=int, default=40, help="frames to measure (default: %(default)s)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    add("--int8-weights", action="store_true", help="round the linear maps to int8")
    add("--int8-cache", action="store_true", help="round keys and values to int8")
    add("--sound", action="store_true", help="sound in and out through Mimi, instead of codes")
    add("--sampling", action="store_true", help="sample instead of taking the most likely token")
    add("--raw", metavar="FILE", help="write every frame's time, JSON lines")
    add_reference(parser)


def measure(args: argparse.Namespace, say: Say) -> Outcome:
    """One engine for each number of sessions."""
    import jax

    from kame_jax.config import load_model
    from kame_jax.files import write_whole
    from kame_jax.streams import FRAME_SECONDS

    try:
        sessions = [int(text) for text in args.sessions.split(",")]
    except ValueError:
        sessions = []
    if not sessions or min(sessions) < 1 or args.frames < 1:
        raise InputError(f"--sessions {args.sessions} --frames {args.frames}: expected numbers of at least 1")
    config = load_model(args.config)
    device = jax.devices()[0]
    say(f"{device.device_kind}, {platform.machine()}: measuring bandwidth")
    speed = bandwidth(device.platform)
    rows, raw = [], []
    reference = _reference(args, config, say)
    if reference is not None:
        raw.append({"what": "reference", "sessions": 1, "seconds": reference})
    for count in sessions:
        say(f"{count} sessions: compiling")
        engine = _engine(args, config, count, say)
        seconds = _measure(args, engine, count)
        raw.append({"what": "kame_jax", "sessions": count, "seconds": seconds})
        rows.append(_row(seconds, count, *_bytes(engine), speed))
        say(_line(rows[-1]))
        del engine
    if args.raw:
        text = "".join(f"{json.dumps(line)}\n" for line in raw)
        write_whole(args.raw, lambda file: file.write(text.encode()))
    budget = FRAME_SECONDS * 1e3
    fits = [row["sessions"] for row in rows if row["ms_p99"] <= budget]
    result: dict[str, Any] = {
        "device": device.device_kind,
        "config": args.config,
        "dtype": args.dtype,
        "bandwidth_gb_s": speed / 1e9,
        "rows": rows,
        "sessions_within_80_ms": max(fits, default=0),
    }
    lines = [f"{device.device_kind}, {args.config} {args.dtype}; {speed / 1e9:.1f} GB/s measured"]
    lines += [_line(row) for row in rows]
    lines.append(f"sessions within {budget:.0f} ms at p99, of those measured: {max(fits, default=0)}")
    if reference is not None:
        theirs = float(np.median(reference)) * 1e3
        result |= {"reference_ms_p50": theirs, "speedup": theirs / rows[0]["ms_p50"]}
        lines.append(f"PyTorch reference, 1 session: {theirs:.1f} ms; {result['speedup']:.2f} x faster here")
    return result, "\n".join(lines)


def _engine(args: argparse.Namespace, config: ModelConfig, slots: int, say: Say) -> Engine:
    """An engine of noise."""
    import jax
    import jax.numpy as jnp

    from kame_jax.config import load_codec
    from kame_jax.decode.engine import Engine, EngineOptions
    from kame_jax.model import tree

    noise = np.random.default_rng(0).standard_normal(1 << 20, np.float32) * 0.02

    def fill(module: Any) -> Any:
        arrays = {
            path: jnp.asarray(np.resize(noise, leaf.shape), leaf.dtype)
            for path, leaf in tree.leaves(module).items()
        }
        return tree.fill(module, arrays)

    kind = jnp.dtype(args.dtype)
    model = fill(tree.abstract_lm(config, param_dtype=kind, dtype=kind))
    mimi = fill(tree.abstract_mimi(load_codec("mimi"))) if args.sound else None
    options = EngineOptions(slots=slots, int8_weights=args.int8_weights, int8_cache=args.int8_cache)
    started = time.perf_counter()
    engine = Engine(model, mimi, options=options)
    jax.block_until_ready(engine.state)
    say(f"ready after {time.perf_counter() - started:.1f} s")
    return engine


def _measure(args: argparse.Namespace, engine: Engine, count: int) -> list[float]:
    from kame_jax.decode import greedy, sampling

    settings = sampling(1) if args.sampling else greedy(1)
    joined = [engine.join(seed=index, settings=settings) for index in range(count)]
    shape = engine.config.num_user_rows if engine.frame_size is None else engine.frame_size
    heard = np.zeros(shape, np.int32 if engine.frame_size is None else np.float32)
    for _ in range(WARM_UP + args.frames):
        engine.step(dict.fromkeys(joined, heard))
    return list(engine.frame_seconds)[-args.frames :]


def _bytes(engine: Engine) -> tuple[int, int]:
    """Bytes that one frame reads: weights (of tables only the rows looked up, which count as nothing), and rings."""
    model, mimi = engine.weights
    tables = [model.text_emb, model.audio_emb, model.oracle_emb]
    if model.depth is not None:
        tables += [model.depth.text_emb, model.depth.audio_emb]
    weights = _size((model, mimi)) - _size([table for table in tables if table is not None])
    state = engine.state
    return weights, _size(state.lm.caches) + (_size(state.mimi) if state.mimi is not None else 0)


def _size(tree: Any) -> int:
    import jax

    return sum(array.nbytes for array in jax.tree.leaves(tree))


def _row(seconds: list[float], sessions: int, weights: int, rings: int, speed: float) -> dict[str, Any]:
    times = percentiles(seconds)
    floor = (weights + rings) / speed * 1e3
    return {
        "sessions": sessions,
        **times,
        "floor_ms": floor,
        "ratio": times["ms_p50"] / floor,
        "weight_bytes": weights,
        "ring_bytes": rings,
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['sessions']:>4} sessions: p50 {row['ms_p50']:.1f}  p95 {row['ms_p95']:.1f}  p99 {row['ms_p99']:.1f} ms; "
        f"floor {row['floor_ms']:.1f} ms ({(row['weight_bytes'] + row['ring_bytes']) / 1e9:.2f} GB), "
        f"{row['ratio']:.2f} x the floor"
    )


def _reference(args: argparse.Namespace, config: ModelConfig, say: Say) -> list[float] | None:
    """Frame times of the PyTorch reference at the same sizes, one session; None where it is not installed."""
    python = find_reference(args, say)
    if python is None:
        return None
    from kame_jax.interop.kwargs import to_kwargs

    kwargs = to_kwargs(config)
    for name in ("lora", "lora_rank", "lora_scaling", "model_type"):
        kwargs.pop(name, None)
    say("PyTorch reference: measuring")
    asked = {"kwargs": kwargs, "frames": args.frames, "warm_up": WARM_UP, "sessions": 1}
    return list(run_reference(python, ["lm", json.dumps(asked | {"greedy": not args.sampling})]))
