"""`kame-jax bench train`: frames a second of the train step, next to its floor and to PyTorch.

The floor is the closed form of the step's arithmetic over the device's peak rate: a data sheet's figure where the
chip is known, else a large matrix product measured here. With `--reference PYTHON` (an interpreter that has torch and
moshi; `tests/golden/setup.sh` makes one) the reference model takes the same batch with kame_finetune's loss and AdamW.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.bench.measure import (
    Outcome,
    Say,
    add_reference,
    check_positive,
    find_reference,
    peak_flops,
    run_reference,
)
from kame_jax.config import load_run
from kame_jax.errors import InputError
from kame_jax.train.malloc import MALLOC_SETTINGS, keep_freed_memory

SCRIPT = Path(__file__).parents[2] / "tests" / "golden" / "bench_train.py"


HELP = "the train step, against its floor and PyTorch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a YAML file, or the name of a ready one (tiny, kame_7b, ...)")
    add("overrides", metavar="a.b=c", nargs="*", help="settings that replace those of CONFIG")
    add(
        "--steps", type=int, default=5, help="steps to measure, after two that warm up (default: %(default)s)"
    )
    add("--frames", type=int, help="frames of a row (default: data.max_frames)")
    add("--dry-run", action="store_true", help="say what would be measured, and stop")
    add_reference(parser)


def measure(args: argparse.Namespace, say: Say) -> Outcome:
    """Our step, and PyTorch's where it is installed."""
    config = load_run(args.config, args.overrides)
    check_positive(args, "steps", "frames")
    columns = args.frames or config.data.max_frames
    if columns is None:
        raise InputError("data.max_frames: null, so the length of a row is not known: set it, or --frames")
    python = find_reference(args, say)
    if args.reference and not SCRIPT.is_file():
        raise InputError(f"--reference {args.reference}: needs {SCRIPT}, which only a checkout has")
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
        result |= {"device": device.device_kind, "torch": python}
        return result, "\n".join(f"{key}: {value}" for key, value in result.items())
    batch = random_batch(config.model, config.train.batch_size, columns)
    result |= measure_step(config, batch, args.steps, say)
    result["floor_seconds"] = flops / result["peak_flops"]
    result["mfu"] = result["floor_seconds"] / result["seconds"]
    result["ratio_to_floor"] = result["seconds"] / result["floor_seconds"]
    lines = [
        f"{result['parameters']:,} parameters, {config.train.batch_size} x {columns} columns, {config.train.dtype}, "
        f"{result['device']}",
        f"floor: {result['floor_seconds']:.3f} s a step ({flops:.3g} FLOP at {result['peak_flops']:.3g} a second)",
        f"measured: {result['seconds']:.3f} s a step, {result['frames_per_second']:,.0f} frames/s, "
        f"{result['ratio_to_floor']:.2f} x floor, {result['mfu']:.0%} MFU "
        "(6 FLOP per trained weight, 4 per frozen one)",
    ]
    if python and SCRIPT.is_file():
        say("PyTorch reference: measuring")
        torch = measure_torch(python, config, batch, args.steps)
        result |= {f"torch_{name}": value for name, value in torch.items()}
        result["ratio_to_torch"] = torch["seconds"] / result["seconds"]
        lines.append(
            f"PyTorch {torch['version']}: {torch['seconds']:.3f} s a step; "
            f"ours is {result['ratio_to_torch']:.2f} x as fast"
        )
    return result, "\n".join(lines)


def random_batch(model: Any, rows: int, columns: int) -> dict[str, np.ndarray]:
    """Rows full of random tokens, six text cells of ten padding, and an oracle."""
    rng = np.random.default_rng(0)
    text = rng.integers(4, model.text_card, (rows, 1, columns))
    text = np.where(rng.random(text.shape) < 0.6, model.text_padding_id, text)
    audio = rng.integers(0, model.card, (rows, model.n_q, columns))
    inputs = np.concatenate([text, audio], axis=1).astype(np.int32)
    oracle = rng.integers(4, model.text_card, (rows, columns)).astype(np.int32)
    return {"inputs": inputs, "labels": inputs, "oracle": oracle}


def measure_step(config: Any, batch: dict[str, np.ndarray], steps: int, say: Say) -> dict[str, Any]:
    """Seconds of our step (the median), and the device's peak FLOPs a second."""
    import jax

    from kame_jax.train.hardware import find_chip
    from kame_jax.train.program import make_program, run_mesh
    from kame_jax.train.start import first_weights
    from kame_jax.train.state import init_state, places_of
    from kame_jax.train.step import put_batch

    mesh = run_mesh(config)
    program = make_program(config, mesh)
    say(f"making weights on {mesh.size} device(s)")
    state = init_state(config, first_weights(config, mesh)[0], places_of(program.state))
    on_devices = put_batch(batch, mesh)
    say("compiling")
    start = time.perf_counter()
    step = program.step.lower(state, on_devices).compile()
    compiled = time.perf_counter() - start
    seconds = []
    for number in range(steps + 2):
        start = time.perf_counter()
        state, out = step(state, on_devices)
        jax.block_until_ready((state, out))
        seconds.append(time.perf_counter() - start)
        say(f"step {number + 1}: {seconds[-1]:.3f} s")
    device = mesh.devices.flat[0]
    chip = find_chip(device.device_kind)
    median = float(np.median(seconds[2:]))
    rows, columns = batch["oracle"].shape
    return {
        "device": device.device_kind,
        "devices": mesh.size,
        "attention": program.config.train.attention,
        "compile_seconds": compiled,
        "seconds": median,
        "frames_per_second": rows * (columns - 1) / median,
        "peak_flops": mesh.size * chip.flops if chip else peak_flops(),
    }


def measure_torch(python: str, config: Any, batch: dict[str, np.ndarray], steps: int) -> dict[str, Any]:
    """The same in PyTorch, in its own process with the same `MALLOC_SETTINGS`."""
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
        malloc = {name: str(value % (1 << 63)) for name, (_, value) in MALLOC_SETTINGS.items()}
        found: dict[str, Any] = run_reference(
            python, [folder], SCRIPT, malloc | {"PYTHONPATH": str(SCRIPT.parent)}
        )
    return found
