"""`kame-jax bench train`: frames a second of the train step, beside its floor and beside PyTorch.

The floor is the closed form of the step's arithmetic over what the device can multiply: a data sheet's figure where the
chip is known, else a large matrix product measured here. With `--torch PYTHON` (an interpreter that has torch and
moshi; `tests/golden/setup.sh` makes one) the reference model takes the same batch with kame_finetune's loss and AdamW.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.cli.common import (
    MALLOC_SETTINGS,
    add_common,
    add_config,
    emit,
    keep_freed_memory,
    log,
    read_config,
)
from kame_jax.errors import InputError

SCRIPT = Path(__file__).parents[2] / "tests" / "golden" / "bench_train.py"


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train", help="the train step, against its floor and PyTorch", description=__doc__
    )
    add_config(parser)
    add = parser.add_argument
    add("--steps", type=int, default=5, help="measured, after two that warm up (default: %(default)s)")
    add("--frames", type=int, help="columns of a row (default: data.max_frames)")
    add("--torch", metavar="PYTHON", help="an interpreter with torch and moshi, to measure beside")
    add("--dry-run", action="store_true", help="say what would be measured, and stop")
    add_common(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    config = read_config(args)
    if config is None:
        return
    for name in ("steps", "frames"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: expected at least 1")
    columns = args.frames or config.data.max_frames
    if columns is None:
        raise InputError("data.max_frames: null, so the length of a row is not known: set it, or --frames")
    if args.torch and not (Path(args.torch).is_file() and SCRIPT.is_file()):
        raise InputError(
            f"--torch {args.torch}: expected a Python interpreter, and {SCRIPT} beside this checkout"
        )
    keep_freed_memory()
    from kame_jax.model import tree
    from kame_jax.plan.estimate import step_flops

    shapes = tree.shapes(tree.abstract_lm(config.model.architecture))
    flops = step_flops(config, columns)[0]
    result: dict[str, Any] = {
        "parameters": tree.count(shapes),
        "batch": config.train.batch_size,
        "columns": columns,
        "dtype": config.train.dtype,
        "flops": flops,
        "steps": args.steps,
    }
    if args.dry_run:
        import jax

        device = jax.devices()[0]
        result |= {"device": device.device_kind, "torch": args.torch}
        emit(args, result)
        return
    batch = random_batch(config.model, config.train.batch_size, columns)
    result |= measure(config, batch, args.steps)
    result["floor_seconds"] = flops / result["peak_flops"]
    result["mfu"] = result["floor_seconds"] / result["seconds"]
    result["ratio_to_floor"] = result["seconds"] / result["floor_seconds"]
    lines = [
        f"{result['parameters']:,} parameters, {config.train.batch_size} x {columns} columns, {config.train.dtype}, "
        f"{result['device']}",
        f"floor: {result['floor_seconds']:.3f} s a step ({flops:.3g} FLOP at {result['peak_flops']:.3g} a second)",
        f"measured: {result['seconds']:.3f} s a step, {result['frames_per_second']:,.0f} frames/s, "
        f"{result['ratio_to_floor']:.2f} x floor, {result['mfu']:.0%} MFU",
    ]
    if args.torch:
        log("measuring PyTorch")
        torch = measure_torch(args.torch, config, batch, args.steps)
        result |= {f"torch_{name}": value for name, value in torch.items()}
        result["ratio_to_torch"] = torch["seconds"] / result["seconds"]
        lines.append(
            f"PyTorch {torch['version']}: {torch['seconds']:.3f} s a step; "
            f"ours is {result['ratio_to_torch']:.2f} x as fast"
        )
    emit(args, result, "\n".join(lines))


def random_batch(model: Any, rows: int, columns: int) -> dict[str, np.ndarray]:
    """Rows full of random tokens, six text cells of ten padding, and an oracle."""
    rng = np.random.default_rng(0)
    text = rng.integers(4, model.text_card, (rows, 1, columns))
    text = np.where(rng.random(text.shape) < 0.6, model.text_padding_id, text)
    audio = rng.integers(0, model.card, (rows, model.n_q, columns))
    inputs = np.concatenate([text, audio], axis=1).astype(np.int32)
    oracle = rng.integers(4, model.text_card, (rows, columns)).astype(np.int32)
    return {"inputs": inputs, "labels": inputs, "oracle": oracle}


def measure(config: Any, batch: dict[str, np.ndarray], steps: int) -> dict[str, Any]:
    """Seconds of our step (the median), and what the device can multiply."""
    import jax

    from kame_jax.train.hardware import find_chip
    from kame_jax.train.program import make_program, run_mesh
    from kame_jax.train.start import first_params
    from kame_jax.train.state import init_state
    from kame_jax.train.step import put_batch

    mesh = run_mesh(config)
    program = make_program(config, mesh)
    log(f"making weights on {mesh.size} device(s)")
    params = first_params(config, mesh)[0]
    state = init_state(
        params, program.optimizer, program.places, program.frozen, ema=config.train.ema is not None
    )
    on_devices = put_batch(batch, mesh)
    log("compiling")
    start = time.perf_counter()
    step = program.step.lower(state, on_devices).compile()
    compiled = time.perf_counter() - start
    seconds = []
    for number in range(steps + 2):
        start = time.perf_counter()
        state, out = step(state, on_devices)
        jax.block_until_ready((state, out))
        seconds.append(time.perf_counter() - start)
        log(f"step {number + 1}: {seconds[-1]:.3f} s")
    device = mesh.devices.flat[0]
    chip = find_chip(device.device_kind)
    median = float(np.median(seconds[2:]))
    rows, columns = batch["oracle"].shape
    return {
        "device": device.device_kind,
        "devices": mesh.size,
        "attention": program.execution.attention,
        "compile_seconds": compiled,
        "seconds": median,
        "frames_per_second": rows * (columns - 1) / median,
        "peak_flops": mesh.size * chip.flops if chip else _measured_peak(),
    }


def _measured_peak() -> float:
    """FLOPs a second of a large float32 matrix product on the default device, the best of three."""
    import jax
    import jax.numpy as jnp

    size = 2048
    a = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def measure_torch(python: str, config: Any, batch: dict[str, np.ndarray], steps: int) -> dict[str, Any]:
    """The same in PyTorch, in a process of its own with the same `MALLOC_SETTINGS`.

    Raises:
        RuntimeError: it failed; says its last line.
    """
    from kame_jax.interop.kwargs import to_kwargs

    model = config.model.architecture
    with tempfile.TemporaryDirectory(prefix="kame_jax_bench_") as folder:
        arrays: dict[str, Any] = dict(batch)
        np.savez(Path(folder) / "batch.npz", **arrays)
        spec = {
            "kwargs": to_kwargs(model),
            "oracle": model.oracle,
            "dtype": config.train.dtype,
            "steps": steps,
            "learning_rate": config.optimizer.learning_rate,
        }
        (Path(folder) / "spec.json").write_text(json.dumps(spec))
        done = subprocess.run(
            [python, str(SCRIPT), folder],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ
            | {"PYTHONPATH": str(SCRIPT.parent)}
            | {name: str(value % (1 << 63)) for name, (_, value) in MALLOC_SETTINGS.items()},
        )
    if done.returncode:
        raise RuntimeError(f"PyTorch: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
