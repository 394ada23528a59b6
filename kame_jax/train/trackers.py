"""Where a run's metrics go besides `metrics.jsonl`: TensorBoard and Weights & Biases, each an extra to install."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from kame_jax.errors import InputError


class Tracker(Protocol):
    """Receives the lines of a run's metrics."""

    def write(self, line: Mapping[str, Any]) -> None:
        """A line: `step`, and numbers by name."""

    def close(self) -> None:
        """The run has ended; what was written is safe when this returns."""


class TensorBoard:
    """Event files in `<run_dir>/tensorboard`."""

    def __init__(self, folder: Path, start: int):
        module = _needed("tensorboardX", "tensorboard")
        # Points of steps that a continued run repeats are purged.
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        for name, value in _numbers(line).items():
            self._writer.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of that service, which continues under the same name in the same folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        module = _needed("wandb", "wandb")
        name = folder.resolve().name
        self._run = module.init(
            project="kame_jax", name=name, id=name, dir=str(folder), config=dict(settings), resume="allow"
        )

    def write(self, line: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self._run.log(_numbers(line), step=int(line["step"]))

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def make_trackers(
    names: Sequence[str], folder: Path, settings: Mapping[str, Any], start: int
) -> list[Tracker]:
    """The trackers that a run asks for (`train.trackers`).

    Args:
        names: "tensorboard", "wandb".
        folder: of the run.
        settings: the run's configuration, for the service to show.
        start: step that the run continues from.

    Raises:
        InputError: the package that one needs is not installed.
    """
    trackers: list[Tracker] = []
    for name in names:
        trackers.append(
            TensorBoard(folder, start) if name == "tensorboard" else WeightsAndBiases(folder, settings)
        )
    return trackers


def _needed(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"train.trackers: {extra} needs pip install 'kame_jax[{extra}]'") from error


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }
