"""A whole training run, top to bottom: configuration, data, state, step, loop.

Everything it writes lies in `run_dir`: `config.yaml`, `metrics.jsonl`, `checkpoints/`, `plots/`, and `records/` of
tokenised dialogues. Run again on the same folder it continues, bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from kame_jax.checkpoint.manager import Checkpoints, save_weights
from kame_jax.config import RunConfig, to_yaml
from kame_jax.data.cutting import Sample
from kame_jax.data.dataset import find_dataset
from kame_jax.data.pipeline import longest, read_ahead, train_batches
from kame_jax.errors import InputError
from kame_jax.files import write_text
from kame_jax.train.corpus import (
    find_tokenizers,
    fingerprint,
    is_dialogues,
    keep_data_tokenizers,
    keep_tokenizers,
    preset_note,
    read_samples,
    schedule_of,
)
from kame_jax.train.evaluation import Evaluate, make_evaluation
from kame_jax.train.log import RunLog, check_finite
from kame_jax.train.metrics import Progress, Silent
from kame_jax.train.plots import plot_metrics
from kame_jax.train.processes import agreed, ends_with_others, first_then_others, is_first
from kame_jax.train.profile import Profile
from kame_jax.train.program import Program, make_program, run_mesh
from kame_jax.train.progress import Terminal
from kame_jax.train.signals import Signals
from kame_jax.train.start import first_params
from kame_jax.train.state import (
    TrainState,
    checkpoint_items,
    count,
    from_checkpoint_items,
    init_state,
    joined,
)
from kame_jax.train.step import local_rows, put_batch
from kame_jax.train.watchdog import Watchdog

CLOCK_EVERY = 10
"""Steps between two looks of several processes at each other's clocks, where time makes checkpoints."""


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
        if not is_first():
            return run(config, progress=Silent())
        with Terminal() as terminal:
            return run(config, progress=terminal)
    watch, train = progress, config.train
    folder, steps = Path(config.run_dir), train.steps
    mesh = run_mesh(config)
    samples = _samples(config, config.data.path, "data.path", watch)
    held_out = (
        _samples(config, config.data.eval_path, "data.eval_path", watch) if config.data.eval_path else []
    )
    if note := preset_note(samples, config):
        watch.say(note)
    schedule, packed = schedule_of(config.model, config.oracle.tail), config.data.pack
    length = -(-config.data.max_frames // 8) * 8 if packed and config.data.max_frames else longest(samples)
    rows = local_rows(mesh, train.batch_size)
    batches = train_batches(
        samples,
        schedule,
        batch_size=train.batch_size,
        length=length,
        seed=config.seed,
        augment=config.oracle,
        rows=rows,
        packed=packed,
    )

    program, watchdog, signals = make_program(config, mesh), Watchdog(train.hang_minutes), Signals()

    def evaluated(done: int, total: int) -> None:
        watchdog.alive()
        if signals.must_stop():
            raise _Stopped

    evaluate = held_out and make_evaluation(
        program.model,
        held_out,
        schedule,
        config.loss,
        mesh,
        batch_size=train.batch_size,
        use_oracle=config.oracle.use,
        chunks=train.loss_chunks,
        progress=evaluated,
    )

    checkpoints = Checkpoints(
        folder / "checkpoints",
        config.model.architecture,
        seed=config.seed,
        samples=fingerprint(samples),
        keep=train.keep_checkpoints,
        keep_best=train.keep_best,
        say=watch.say,
    )
    with checkpoints, signals, watchdog, ends_with_others():
        state, start = _first_state(config, program, checkpoints, mesh, watch)
        parameters = count(state.params)
        watch.say(f"{parameters:,} parameters, {len(samples)} samples, {_described(mesh)}")
        if is_first():
            _write_config(config, folder, watch)
        log = RunLog(config, program, mesh, length, folder, start, watch)
        saved = time.monotonic()

        def evaluation(step: int) -> float | None:
            """What the best checkpoints are kept by; None if the run was stopped before the evaluation was done."""
            if not evaluate or not (step == steps or _divides(train.eval_every, step)) or signals.must_stop():
                return None
            log.flush()
            watchdog.be_patient()
            with log.meter.paused(), contextlib.suppress(_Stopped):
                return _evaluate(evaluate, state, program, train.best_metric, log, step)
            return None

        with log, Profile(folder / "profile", train.profile) as profile:
            if start and agreed(not log.evaluated):
                evaluation(start)
            for number, batch in enumerate(read_ahead(batches, start, steps), start + 1):
                profile.step(number)
                on_devices = put_batch(batch, mesh, train.batch_size)
                with jax.transfer_guard("disallow"):
                    state, out = program.step(state, on_devices)
                log.started(number, out, frames=int(batch["frames"].sum()) * train.batch_size // len(rows))
                watchdog.alive()
                due = _is_due(saved, train.checkpoint_minutes, number)
                # Before saving, so that a run that continues from here has this evaluation in its metrics.
                figure = evaluation(number)
                stop = signals.must_stop() or number == steps
                if stop or due or _divides(train.checkpoint_every, number):
                    log.flush()
                    watchdog.be_patient()
                    with log.meter.paused():
                        check_finite(number, jax.device_get(out))
                        checkpoints.save(number, *checkpoint_items(state), figure)
                    saved = time.monotonic()
                    watchdog.alive()
                if stop:
                    break
        watchdog.be_patient()
        checkpoints.wait()
        reached = int(state.step)
        if state.ema is not None and reached == steps:
            average = joined(state.ema, program.frozen.split(state.params)[1])
            save_weights(folder / "ema", average, config.model.architecture, checkpoints.provenance)
    signals.raise_caught()
    return _result(config, log, start, reached, parameters, len(samples))


class _Stopped(Exception):
    """The run must end before its evaluation has."""


def _first_state(
    config: RunConfig, program: Program, checkpoints: Checkpoints, mesh: Mesh, watch: Progress
) -> tuple[TrainState, int]:
    """The state that the run goes on from, and its step."""
    folder, newest = Path(config.run_dir), checkpoints.latest or 0
    if newest > config.train.steps:
        raise InputError(
            f"{folder}: its newest checkpoint is of step {newest}, train.steps is {config.train.steps}"
        )
    if found := checkpoints.restore(*checkpoint_items(program.abstract_state())):
        state = from_checkpoint_items(found.step, found.params, found.opt, program.places)
        watch.say(f"continuing from step {found.step} of {folder}")
        if not found.same_samples:
            watch.say("the data is not what this run has seen so far: its batches are others from here on")
        return state, found.step
    params, checkpoints.provenance = first_params(config, mesh)
    average = config.train.ema is not None
    return init_state(params, program.optimizer, program.places, program.frozen, ema=average), 0


def _evaluate(
    evaluate: Evaluate, state: TrainState, program: Program, best: str, log: RunLog, step: int
) -> float:
    """Evaluates the weights, and their average where there is one; returns what the best checkpoints are kept by.

    Raises:
        InputError: `train.best_metric` is no figure of the evaluation.
    """
    values = evaluate(state.params)
    if state.ema is not None:
        average = joined(state.ema, program.frozen.split(state.params)[1])
        values |= {f"ema/{name}": value for name, value in evaluate(average).items()}
    log.evaluation(step, values)
    if best not in values:
        raise InputError(f"train.best_metric: {best}, expected one of {', '.join(values)}")
    return -values[best] if best.removeprefix("ema/").startswith(("accuracy/", "gap/")) else values[best]


def _result(
    config: RunConfig, log: RunLog, start: int, reached: int, parameters: int, samples: int
) -> dict[str, Any]:
    """What `run` returns; process 0 draws the curves."""
    folder = Path(config.run_dir)
    lines = log.lines()
    plot = folder / "plots" / "loss.png"
    if is_first():
        plot_metrics(lines, plot)
    return {
        "run_dir": str(folder),
        "checkpoint": str(folder / "checkpoints" / str(reached)),
        "step": reached,
        "resumed_from": start or None,
        "parameters": parameters,
        "samples": samples,
        "seconds": log.meter.seconds,
        "metrics": next((line for line in reversed(lines) if "loss/total" in line), None),
        "evaluation": next((line for line in reversed(lines) if "eval/loss/total" in line), None),
        "plot": str(plot),
    }


def _samples(config: RunConfig, path: str | None, name: str, watch: Progress) -> Sequence[Sample]:
    if path is None:
        raise InputError(f"{name}: null, expected a data set, or a folder of dialogues or of records")

    def progress(done: int, total: int, text: str) -> None:
        watch.count(f"tokenising {path}", done, total)

    return first_then_others(lambda: read_samples(path, config, progress, watch.say))


def _write_config(config: RunConfig, folder: Path, watch: Progress) -> None:
    """What the run was made with: its settings, and the tokenizers of its dialogues."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", to_yaml(config))
    path = config.data.path
    if path is None:
        return
    if find_dataset(path):
        keep_data_tokenizers(path, folder, watch.say)
    elif Path(path).is_dir() and is_dialogues(path):
        keep_tokenizers(find_tokenizers(config, path), folder)


def _is_due(saved: float, minutes: float, step: int) -> bool:
    """Whether the last checkpoint, written at `saved`, is so old; the same on all processes.

    Several processes compare their clocks every `CLOCK_EVERY` steps alone: each must wait for the step then.
    """
    due = minutes > 0 and _minutes_since(saved) > minutes
    if minutes > 0 and jax.process_count() > 1:
        return _divides(CLOCK_EVERY, step) and agreed(due)
    return due


def _minutes_since(moment: float) -> float:
    return (time.monotonic() - moment) / 60


def _divides(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _described(mesh: Mesh) -> str:
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    return f"mesh {sizes}" if sizes else f"one {mesh.devices.flat[0].platform} device"
