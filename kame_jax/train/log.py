"""The metrics of a run's steps on their way from the devices to `metrics.jsonl`, trackers and the terminal."""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from kame_jax.config import RunConfig, to_dict
from kame_jax.train.flops import frame_flops
from kame_jax.train.hardware import find_chip
from kame_jax.train.loss import report
from kame_jax.train.metrics import Line, Meter, MetricsFile, Progress, read_metrics
from kame_jax.train.optimizer import frozen_groups, learning_rates
from kame_jax.train.processes import is_first
from kame_jax.train.program import Program, learning_groups
from kame_jax.train.step import StepMetrics
from kame_jax.train.trackers import Tracker, make_trackers


class RunLog:
    """Writes the metrics of a step once the next one has been started, so that the devices never wait for it.

    Of several processes the first one writes. A context manager that closes the trackers on exit.

    Args:
        config: the run.
        program: says which groups learn.
        mesh: its chips' peak is the denominator of MFU.
        length: columns of a row of the batch.
        folder: of the run; must exist.
        start: step that it continues from.
        watch: receives progress.
    """

    def __init__(
        self,
        config: RunConfig,
        program: Program,
        mesh: Mesh,
        length: int,
        folder: Path,
        start: int,
        watch: Progress,
    ):
        self.config, self.watch = config, watch
        self.path = folder / "metrics.jsonl"
        rates = learning_rates(config.optimizer, config.train.steps)
        self.rates = {group: rates[group] for group in learning_groups(program)}
        self._frame_rate = config.codec.frame_rate
        self._peak = _peak_frames(config, mesh, length)
        self._file = MetricsFile(self.path, start) if is_first() else None
        self.evaluated = self._file is None or self._file.evaluated
        """Whether the step that the run continues from was evaluated; the first process knows."""
        self._trackers: list[Tracker] = []
        if is_first():
            self._trackers = make_trackers(config.train.trackers, folder, to_dict(config), start)
        self.meter = Meter(self._file.seconds if self._file else 0.0)
        self._running: StepMetrics | None = None
        self._waiting: tuple[Line, StepMetrics] | None = None

    def started(self, step: int, out: StepMetrics, frames: int) -> None:
        """A step was started; its results need not be ready yet.

        Returns when the step before is done: more in flight would only fill the memory with batches.
        """
        jax.block_until_ready(out if self._running is None else self._running)
        self.meter.add(frames)
        self._running = out
        self.flush()
        if step % self.config.train.log_every == 0 or step == self.config.train.steps:
            rate = self.meter.rate()
            line = {"step": step, "frames_per_second": rate, "seconds": self.meter.seconds}
            line |= {"audio_seconds_per_second": rate / self._frame_rate, "memory_gib": _memory_gib()}
            if self._peak is not None:
                line["mfu"] = rate / self._peak
            self._waiting = line, out

    def flush(self) -> None:
        """Writes the pending metrics, and stops the run if they are not finite."""
        if self._waiting is None:
            return
        line, out = self._waiting
        self._waiting = None
        out, step = jax.device_get(out), int(line["step"])
        check_finite(step, out)
        line |= {name: float(value) for name, value in report(out.parts, self.config.loss).items()}
        line |= {"grad_norm": float(out.grad_norm)}
        line |= {f"grad_norm/{group}": float(norm) for group, norm in out.group_norms.items()}
        line |= {f"learning_rate/{group}": float(rate(step - 1)) for group, rate in self.rates.items()}
        self._write(line)
        self.watch.step(line, self.config.train.steps)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Writes an evaluation."""
        self._write({"step": step} | {f"eval/{name}": value for name, value in values.items()})
        names = ("loss/total", "loss/text_non_pad", "accuracy/text_non_pad", "gap/loss/text_non_pad")
        shown = (f"{name} {values[name]:.3f}" for name in names if name in values)
        self.watch.say(f"step {step}: evaluation: " + ", ".join(shown))

    def lines(self) -> list[Line]:
        """Everything in the run's file."""
        return read_metrics(self.path) if self.path.is_file() else []

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(line)
        for tracker in self._trackers:
            tracker.write(line)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            tracker.close()


def _peak_frames(config: RunConfig, mesh: Mesh, length: int) -> float | None:
    """Frames a second at which all chips would do nothing but multiply; None for chips that are not in the table."""
    chip = find_chip(mesh.devices.flat[0].device_kind)
    if chip is None:
        return None
    flops = frame_flops(config.model.architecture, length - 1, frozen=frozen_groups(config.optimizer))
    return chip.flops * mesh.size / flops.train


def _memory_gib() -> float:
    """The most memory used so far: of the first device where it reports it, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    used = stats.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return used / (1 << 30)


def check_finite(step: int, out: StepMetrics) -> None:
    """Raises FloatingPointError if a step's loss or gradient is not finite: all later weights would be useless."""
    bad = [name for name, part in out.parts.items() if not np.isfinite(part.loss).all()]
    if not math.isfinite(out.grad_norm):
        bad.append("gradient norm")
    if bad:
        raise FloatingPointError(
            f"step {step}: {', '.join(bad)} is not a finite number; the last checkpoint is from before. "
            "Lower the learning rate, or check the data of this step"
        )
