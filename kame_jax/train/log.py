"""The metrics of a run's steps on their way from the devices to `metrics.jsonl`."""

from __future__ import annotations

import math

import jax

from kame_jax.config import RunConfig
from kame_jax.train.loss import report
from kame_jax.train.metrics import Meter, MetricsFile, Progress
from kame_jax.train.optimizer import learning_rates
from kame_jax.train.step import StepMetrics


class RunLog:
    """Writes the metrics of a step once the next one has been started, so that the devices never wait for it."""

    def __init__(self, config: RunConfig, file: MetricsFile, watch: Progress):
        self.config, self.file, self.watch = config, file, watch
        self.rates = learning_rates(config.optimizer, config.train.steps)
        self.meter = Meter(file.seconds)
        self._running: StepMetrics | None = None
        self._waiting: tuple[dict[str, float], StepMetrics] | None = None

    def started(self, step: int, out: StepMetrics, frames: int) -> None:
        """A step was started; what it returned need not be there yet.

        Returns when the step before is done: more in flight would only fill the memory with batches.
        """
        jax.block_until_ready(out if self._running is None else self._running)
        self.meter.add(frames)
        self._running = out
        self.flush()
        if step % self.config.train.log_every == 0 or step == self.config.train.steps:
            times = {"frames_per_second": self.meter.rate(), "seconds": self.meter.seconds}
            self._waiting = {"step": step} | times, out

    def flush(self) -> None:
        """Writes what waits, and stops the run if it is no number."""
        if self._waiting is None:
            return
        line, out = self._waiting
        self._waiting = None
        out, step = jax.device_get(out), int(line["step"])
        check_finite(step, out)
        line |= {name: float(value) for name, value in report(out.parts, self.config.loss).items()}
        line |= {"grad_norm": float(out.grad_norm)}
        line |= {f"learning_rate/{group}": float(rate(step - 1)) for group, rate in self.rates.items()}
        self.file.write(line)
        self.watch.step(line, self.config.train.steps)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Writes an evaluation."""
        self.file.write({"step": step} | {f"eval/{name}": value for name, value in values.items()})
        names = ("loss/total", "loss/text_non_pad", "accuracy/text_non_pad", "gap/loss/text_non_pad")
        shown = (f"{name} {values[name]:.3f}" for name in names if name in values)
        self.watch.say(f"step {step}: evaluation: " + ", ".join(shown))


def check_finite(step: int, out: StepMetrics) -> None:
    """Raises FloatingPointError if a step's loss or gradient is no number: all weights from there on are spoilt."""
    bad = [name for name, part in out.parts.items() if not math.isfinite(part.loss)]
    if not math.isfinite(out.grad_norm):
        bad.append("gradient norm")
    if bad:
        raise FloatingPointError(
            f"step {step}: {', '.join(bad)} is not a finite number; the last checkpoint is from before. "
            "Lower the learning rate, or look at the data of this step"
        )
