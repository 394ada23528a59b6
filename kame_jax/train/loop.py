"""A whole training run, top to bottom: configuration, data, state, step, loop.

Everything it writes is in `run_dir`: `config.yaml`, `metrics.jsonl`, `checkpoints/`, `plots/`, and `records/` of
tokenised dialogues. Run again on the same folder it continues, bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
from jax.sharding import Mesh

from kame_jax.checkpoint.manager import Checkpoints, save_weights
from kame_jax.config import RunConfig, to_yaml
from kame_jax.data.collate import Row
from kame_jax.data.cutting import Sample
from kame_jax.data.dataset import find_dataset
from kame_jax.data.pipeline import longest, read_ahead, train_batches
from kame_jax.errors import InputError
from kame_jax.files import write_text
from kame_jax.model import tree
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
from kame_jax.train.evaluation import make_evaluation
from kame_jax.train.log import RunLog, check_finite
from kame_jax.train.metrics import Progress, Silent
from kame_jax.train.plots import plot_metrics
from kame_jax.train.processes import agreed, alone_in, ends_with_others, first_then_others, is_first
from kame_jax.train.profile import Profile
from kame_jax.train.program import Program, make_program, run_mesh
from kame_jax.train.progress import Terminal
from kame_jax.train.signals import Signals
from kame_jax.train.start import first_weights
from kame_jax.train.state import (
    TrainState,
    checkpoint_items,
    count,
    from_checkpoint_items,
    init_state,
    merged,
    places_of,
)
from kame_jax.train.step import local_rows, put_batch
from kame_jax.train.watchdog import Watchdog

CLOCK_EVERY = 10
"""Steps between two comparisons of several processes' clocks, where checkpoints are made by time."""


def run(config: RunConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Train, from the beginning or from the newest checkpoint in `run_dir`, to `train.steps`.

    Args:
        config: the run; see `kame_jax.config`.
        progress: receives progress (`metrics.Silent()` discards it); None shows the run on stderr.

    Returns:
        `run_dir`, `checkpoint` (folder of the last one), `step`, `resumed_from`, `parameters`, `samples`, `seconds`,
        `metrics` (the last logged step), `evaluation` (of `step`, or None), `plot`.

    Raises:
        InputError: bad data, or a `run_dir` that holds another run or has one in progress; nothing is trained.
        FloatingPointError: the loss or its gradient is not finite; the last checkpoint is from before.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
        SystemExit: SIGTERM or SIGHUP, after the state was saved; with status `errors.PREEMPTED`.
    """
    if progress is None:
        with Terminal() if is_first() else contextlib.nullcontext(Silent()) as watch:
            return run(config, progress=watch)
    with alone_in(Path(config.run_dir)):
        return _run(config, progress)


def _run(config: RunConfig, watch: Progress) -> dict[str, Any]:
    train, steps = config.train, config.train.steps
    folder, mesh = Path(config.run_dir), run_mesh(config)
    program = make_program(config, mesh)
    inputs = _read_inputs(config, mesh, watch)
    watchdog, signals = Watchdog(train.hang_minutes), Signals()
    checkpoints = _checkpoints(config, fingerprint(inputs.samples), watch)
    with checkpoints, signals, watchdog, ends_with_others():
        state, start = _first_state(config, program, checkpoints, mesh, watch)
        parameters = count(state.params) + count(state.frozen)
        watch.say(f"{parameters:,} parameters, {len(inputs.samples)} samples, {_described(mesh)}")
        if is_first():
            _write_config(config, folder, watch)
        log = RunLog(config, program, mesh, inputs.length, folder, start, watch)
        evaluations = _Evaluations(config, inputs.held_out, mesh, log, signals, watchdog)
        saves = _Saves(config, checkpoints, log, watchdog)
        with log, Profile(folder / "profile", train.profile, watch.say) as profile:
            if start and agreed(not log.evaluated):
                evaluations.at(start, state)
            for number, batch in enumerate(read_ahead(inputs.batches, start, steps), start + 1):
                profile.step(number)
                on_devices = put_batch(batch, mesh, train.batch_size)
                with jax.transfer_guard("disallow"):
                    state, out = program.step(state, on_devices)
                log.started(
                    number, out, frames=int(batch["frames"].sum()) * train.batch_size // len(inputs.rows)
                )
                watchdog.alive()
                due = saves.are_due(number)
                # Before saving, so that a run that continues from here has this evaluation in its metrics.
                figure = evaluations.at(number, state)
                stop = signals.must_stop() or number == steps
                if stop or due:
                    check_finite(number, jax.device_get(out))
                    saves.save(number, state, figure)
                if stop:
                    break
        watchdog.be_patient()
        reached = _finish(config, state, checkpoints)
        if signals.caught is not None:
            watch.say(f"stopped after step {reached}, which is saved: the same command continues")
    signals.raise_caught()
    return _result(config, log, start, reached, parameters, len(inputs.samples))


class _Inputs(NamedTuple):
    """What a run reads."""

    samples: Sequence[Sample]
    held_out: Sequence[Sample]
    batches: grain.MapDataset[Row]
    """The batch of each step."""
    length: int
    """Columns of a row."""
    rows: Sequence[int]
    """The rows of a batch that this process makes."""


def _read_inputs(config: RunConfig, mesh: Mesh, watch: Progress) -> _Inputs:
    data = config.data
    samples = _samples(config, data.path, "data.path", watch)
    held_out = _samples(config, data.eval_path, "data.eval_path", watch) if data.eval_path else []
    if note := preset_note(samples, config):
        watch.say(note)
    length = -(-data.max_frames // 8) * 8 if data.pack and data.max_frames else longest(samples)
    rows = local_rows(mesh, config.train.batch_size)
    batches = train_batches(
        samples,
        schedule_of(config.model, config.oracle.tail),
        batch_size=config.train.batch_size,
        length=length,
        seed=config.seed,
        augment=config.oracle,
        rows=rows,
        packed=data.pack,
    )
    return _Inputs(samples, held_out, batches, length, rows)


class _Saves:
    """Saves a run's state, by its steps and by the clock."""

    def __init__(self, config: RunConfig, checkpoints: Checkpoints, log: RunLog, watchdog: Watchdog):
        self.train, self.checkpoints, self.log, self.watchdog = config.train, checkpoints, log, watchdog
        self._last = time.monotonic()

    def are_due(self, step: int) -> bool:
        """Whether the state of this step is to be saved; the same on all processes.

        Several processes compare their clocks only every `CLOCK_EVERY` steps, since each must then wait for the step.
        """
        minutes = self.train.checkpoint_minutes
        late = minutes > 0 and _minutes_since(self._last) > minutes
        if minutes > 0 and jax.process_count() > 1:
            late = _divides(CLOCK_EVERY, step) and agreed(late)
        return late or _divides(self.train.checkpoint_every, step)

    def save(self, step: int, state: TrainState, figure: float | None) -> None:
        """Begins to write the state; the best checkpoints are chosen by `figure`."""
        self.log.flush()
        self.watchdog.be_patient()
        with self.log.meter.paused():
            self.checkpoints.save(step, checkpoint_items(state), figure)
        self._last = time.monotonic()
        self.watchdog.alive()


class _Evaluations:
    """The evaluations of a run on its held-out samples, where it has any."""

    def __init__(
        self,
        config: RunConfig,
        held_out: Sequence[Sample],
        mesh: Mesh,
        log: RunLog,
        signals: Signals,
        watchdog: Watchdog,
    ):
        self.config, self.log, self.signals, self.watchdog = config, log, signals, watchdog
        self._evaluate = (
            make_evaluation(
                config.model.architecture,
                held_out,
                schedule_of(config.model, config.oracle.tail),
                config.loss,
                mesh,
                batch_size=config.train.batch_size,
                use_oracle=config.oracle.use,
                conditions=config.data.conditions,
                chunks=config.train.loss_chunks,
                progress=self._heard,
            )
            if len(held_out)
            else None
        )

    def at(self, step: int, state: TrainState) -> float | None:
        """Evaluates where the step calls for it; returns the figure by which the best checkpoints are chosen.

        None without an evaluation, and where the run was told to stop before it was done.
        """
        train = self.config.train
        called_for = step == train.steps or _divides(train.eval_every, step)
        if not self._evaluate or not called_for or self.signals.must_stop():
            return None
        self.log.flush()
        self.watchdog.be_patient()
        with self.log.meter.paused(), contextlib.suppress(_Stopped):
            values = self._evaluate(merged(self.config, state.params, state.frozen))
            if state.ema is not None:
                averaged = self._evaluate(merged(self.config, state.ema, state.frozen))
                values |= {f"ema/{name}": value for name, value in averaged.items()}
            self.log.evaluation(step, values)
            return best_figure(values, train.best_metric)
        return None

    def _heard(self, done: int, total: int) -> None:
        self.watchdog.alive()
        if self.signals.must_stop():
            raise _Stopped


def _checkpoints(config: RunConfig, samples: str, watch: Progress) -> Checkpoints:
    return Checkpoints(
        Path(config.run_dir) / "checkpoints",
        config.model.architecture,
        seed=config.seed,
        samples=samples,
        keep=config.train.keep_checkpoints,
        keep_best=config.train.keep_best,
        say=watch.say,
    )


def _finish(config: RunConfig, state: TrainState, checkpoints: Checkpoints) -> int:
    """Waits for the last checkpoint, and writes the average at the end of a run that keeps one; returns the step."""
    checkpoints.wait()
    reached = int(state.step)
    if state.ema is not None and reached == config.train.steps:
        average = tree.leaves(state.ema) | tree.leaves(state.frozen)
        folder = Path(config.run_dir) / "ema"
        save_weights(folder, average, config.model.architecture, checkpoints.provenance)
    return reached


class _Stopped(Exception):
    """The run must end before its evaluation has."""


def _first_state(
    config: RunConfig, program: Program, checkpoints: Checkpoints, mesh: Mesh, watch: Progress
) -> tuple[TrainState, int]:
    """The state that the run continues from, and its step."""
    folder, newest = Path(config.run_dir), checkpoints.latest or 0
    if newest > config.train.steps:
        raise InputError(
            f"{folder}: its newest checkpoint is of step {newest}, train.steps is {config.train.steps}"
        )
    if found := checkpoints.restore(checkpoint_items(program.state)):
        watch.say(f"continuing from step {found.step} of {folder}")
        if not found.same_samples:
            watch.say("the data has changed since this run began: its batches differ from here on")
        return from_checkpoint_items(found.step, found.items, program.state), found.step
    weights, checkpoints.provenance = first_weights(config, mesh)
    return init_state(config, weights, places_of(program.state)), 0


def best_figure(values: Mapping[str, float], name: str) -> float:
    """The figure by which the best checkpoints are chosen, the smaller the better: a loss, or minus an accuracy or gap.

    Raises:
        InputError: `train.best_metric` is not a figure of the evaluation.
    """
    if name not in values:
        raise InputError(f"train.best_metric: {name}, expected one of {', '.join(values)}")
    return -values[name] if name.removeprefix("ema/").startswith(("accuracy/", "gap/")) else values[name]


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
        "evaluation": next((line for line in reversed(lines) if _is_evaluation(line, reached)), None),
        "plot": str(plot),
    }


def _is_evaluation(line: Mapping[str, Any], step: int) -> bool:
    return line["step"] == step and "eval/loss/total" in line


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


def _minutes_since(moment: float) -> float:
    return (time.monotonic() - moment) / 60


def _divides(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _described(mesh: Mesh) -> str:
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    return f"mesh {sizes}" if sizes else f"one {mesh.devices.flat[0].platform} device"
