"""A whole training run, top to bottom: configuration, data, state, step, loop.

Everything it writes lies in `run_dir`: `config.yaml`, `metrics.jsonl`, `checkpoints/`, `plots/`, and `records/` of
tokenised dialogues. Run again on the same folder it continues, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from kame_jax.config import RunConfig, to_yaml
from kame_jax.data.pipeline import longest, read_ahead, train_batches
from kame_jax.data.samples import Sample
from kame_jax.data.store import find_store
from kame_jax.errors import InputError
from kame_jax.sharding import make_mesh
from kame_jax.train.checkpoints import Checkpoints
from kame_jax.train.corpus import (
    find_tokenizers,
    fingerprint,
    is_dialogues,
    keep_tokenizers,
    oracle_augment,
    read_samples,
    schedule_of,
)
from kame_jax.train.evaluation import make_evaluation
from kame_jax.train.log import RunLog, check_finite
from kame_jax.train.metrics import MetricsFile, Progress, read_metrics
from kame_jax.train.optimizer import make_optimizer
from kame_jax.train.plots import plot_metrics
from kame_jax.train.progress import Terminal
from kame_jax.train.signals import Signals
from kame_jax.train.start import first_params
from kame_jax.train.state import abstract_model, abstract_state, count, init_state, state_shardings
from kame_jax.train.step import batch_multiple, local_rows, make_train_step, put_batch


def run(config: RunConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train, from the beginning or from the newest checkpoint in `run_dir`, to `train.steps`.

    Args:
        config: the run; see `kame_jax.config`.
        progress: who watches (`metrics.Silent()`: nobody); None shows the run on stderr.

    Returns:
        `run_dir`, `checkpoint` (folder of the last one), `step`, `resumed_from`, `parameters`, `samples`, `seconds`,
        `metrics` (the last logged step), `evaluation` (the last one, or None), `plot`.

    Raises:
        InputError: bad data, or a `run_dir` that holds another run; nothing is trained then.
        FloatingPointError: the loss or its gradient is no number; the last checkpoint is from before.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
        SystemExit: SIGTERM, after the state was saved; with status `signals.PREEMPTED`.
    """
    if progress is None:
        with Terminal() as terminal:
            return run(config, progress=terminal)
    watch = progress
    folder, steps = Path(config.run_dir), config.train.steps
    mesh = _mesh(config)
    samples = _samples(config, config.data.path, "data.path", watch)
    held_out = (
        _samples(config, config.data.eval_path, "data.eval_path", watch) if config.data.eval_path else []
    )
    schedule, packed = schedule_of(config.model, config.oracle.tail), config.data.pack
    batches = train_batches(
        samples,
        schedule,
        batch_size=config.train.batch_size,
        length=-(-config.data.max_frames // 8) * 8 if packed and config.data.max_frames else longest(samples),
        seed=config.seed,
        augment=oracle_augment(config.oracle),
        rows=local_rows(mesh, config.train.batch_size),
        packed=packed,
    )

    model = abstract_model(config.model.architecture, config.train.dtype)
    optimizer = make_optimizer(config.optimizer, steps)
    places = state_shardings(model, optimizer, mesh)
    step = make_train_step(
        model,
        optimizer,
        config.loss,
        mesh,
        micro_batches=config.train.micro_batches,
        use_oracle=config.oracle.use,
        remat=config.train.remat == "full",
        dropout=config.dropout,
        seed=config.seed,
    )
    evaluate = held_out and make_evaluation(
        model,
        held_out,
        schedule,
        config.loss,
        mesh,
        batch_size=config.train.batch_size,
        use_oracle=config.oracle.use,
    )

    checkpoints = Checkpoints(
        folder / "checkpoints",
        config.model.architecture,
        seed=config.seed,
        samples=fingerprint(samples),
        keep=config.train.keep_checkpoints,
    )
    with checkpoints, Signals() as signals:
        start = checkpoints.latest or 0
        if start > steps:
            raise InputError(f"{folder}: its newest checkpoint is of step {start}, train.steps is {steps}")
        if start:
            state, same_data = checkpoints.restore(abstract_state(model, optimizer), places)
            watch.say(f"continuing from step {start} of {folder}")
            if not same_data:
                watch.say(
                    "the data is not what this run has seen so far: its batches are others from here on"
                )
        else:
            params, checkpoints.provenance = first_params(config, mesh)
            state = init_state(params, optimizer, places)
        _write_config(config, folder)
        parameters = count(state.params)
        watch.say(f"{parameters:,} parameters, {len(samples)} samples, {_described(mesh)}")

        log = RunLog(config, MetricsFile(folder / "metrics.jsonl", start), watch)
        for number, batch in enumerate(read_ahead(batches, start, steps), start + 1):
            state, out = step(state, put_batch(batch, mesh, config.train.batch_size))
            log.started(number, out, frames=int(batch["frames"].sum()))
            stop = number == steps or signals.caught is not None
            if stop or _divides(config.train.checkpoint_every, number):
                log.flush()
                with log.meter.paused():
                    check_finite(number, jax.device_get(out))
                    checkpoints.save(state)
            if evaluate and (number == steps or _divides(config.train.eval_every, number)):
                log.flush()
                with log.meter.paused():
                    log.evaluation(number, evaluate(state.params))
            if stop:
                break
        checkpoints.wait()
        reached = int(state.step)
    signals.raise_caught()

    lines = read_metrics(folder / "metrics.jsonl")
    plot_metrics(lines, folder / "plots" / "loss.png")
    return {
        "run_dir": str(folder),
        "checkpoint": str(folder / "checkpoints" / str(reached)),
        "step": reached,
        "resumed_from": start or None,
        "parameters": parameters,
        "samples": len(samples),
        "seconds": log.meter.seconds,
        "metrics": next((line for line in reversed(lines) if "loss/total" in line), None),
        "evaluation": next((line for line in reversed(lines) if "eval/loss/total" in line), None),
        "plot": str(folder / "plots" / "loss.png"),
    }


def _mesh(config: RunConfig) -> Mesh:
    try:
        mesh = make_mesh(config.mesh.replica, config.mesh.fsdp, config.mesh.tensor)
    except ValueError as error:
        raise InputError(f"mesh: {error}") from error
    rows, devices = config.train.batch_size // config.train.micro_batches, batch_multiple(mesh)
    if rows % devices:
        raise InputError(
            f"train.batch_size: {config.train.batch_size} in {config.train.micro_batches} micro-batches "
            f"gives {rows} rows, expected a multiple of the {devices} devices of mesh.replica x mesh.fsdp"
        )
    return mesh


def _samples(config: RunConfig, path: str | None, name: str, watch: Progress) -> Sequence[Sample]:
    if path is None:
        raise InputError(f"{name}: null, expected a data set, or a folder of dialogues or of records")
    return read_samples(path, config, lambda done, total: watch.count(f"tokenising {path}", done, total))


def _write_config(config: RunConfig, folder: Path) -> None:
    """What the run was made with: its settings, and the tokenizers of its dialogues."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / ".config.yaml.part"
    part.write_text(to_yaml(config), encoding="utf-8")
    part.replace(folder / "config.yaml")
    path = config.data.path
    if path and Path(path).is_dir() and not find_store(path) and is_dialogues(path):
        keep_tokenizers(find_tokenizers(config, path), folder)


def _divides(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _described(mesh: Mesh) -> str:
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    return f"mesh {sizes}" if sizes else f"one {mesh.devices.flat[0].platform} device"
