"""Checkpoints of a run: `<run_dir>/checkpoints/<step>` with the items `params`, `opt`, `data` and `meta`.

`params` and `meta` are what `native` reads, so that any command takes such a folder; `opt` and `data` are what a run
continues from. Batches are a function of (seed, step): `data` is those two numbers, and a sum over every array's bits,
which reveals a damaged checkpoint. What the arrays of `params` and `opt` are is the
trainer's business: here they have dotted paths, which become the nested dictionaries of the file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils

from kame_jax.checkpoint.checksum import checksum, combined, named_sums, sums
from kame_jax.checkpoint.native import Meta, json_context, quiet, read_meta, v1
from kame_jax.config import ModelConfig
from kame_jax.errors import InputError, WorkError

DAMAGED = ".damaged"
"""Added to the name of a checkpoint that cannot be used."""


ITEMS = ("params", "opt", "data", "meta")
"""What a checkpoint holds."""

Items = Mapping[str, Mapping[str, Any]]
"""The items `params` and `opt`: arrays by dotted path, or shapes with shardings in place of them, in one order always:
the sum over their bits depends on it."""


class Restored(NamedTuple):
    """What a run continues from."""

    step: int
    items: dict[str, dict[str, Any]]
    same_samples: bool
    """Whether it was trained on the samples that this run has."""


class Damaged(Exception):
    """A checkpoint is incomplete, or differs from what was written."""


class Checkpoints:
    """The checkpoints of one run; a context manager that waits on exit for what is being written.

    A checkpoint appears under its name when it is complete; what an interrupted save left is removed at the start.

    Args:
        folder: where they are, or will be; made with the first save.
        config: of the model.
        seed: of the run.
        samples: a name for the data (`corpus.fingerprint`).
        keep: how many of the newest are kept.
        keep_best: how many more are kept, those with the smallest figure given to `save`.
        say: called with a line for each damaged checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        *,
        seed: int,
        samples: str,
        keep: int,
        keep_best: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.folder, self.config, self.keep, self.keep_best = folder.absolute(), config, keep, keep_best
        self.seed, self.samples, self.say = seed, samples, say
        self.provenance: dict[str, Any] = {}
        """Where the first weights came from, kept in `meta`."""
        self._opened: v1.training.Checkpointer | None = None
        self._silence, self._failed = contextlib.ExitStack(), False

    @property
    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return max(self.steps, default=None)

    @property
    def steps(self) -> list[int]:
        """The complete steps, in their order."""
        if not self.folder.is_dir():
            return []
        try:
            with quiet():
                named = sorted(int(one.step) for one in self._checkpointer.checkpoints)
        except ValueError as error:
            raise InputError(
                f"{self.folder}: the figures that train.keep_best compares (*/metrics/metrics) are damaged: {error}. "
                "Without that file a checkpoint is not compared"
            ) from None
        # An empty folder with a number as its name is not a checkpoint.
        return [step for step in named if any((self.folder / str(step) / item).exists() for item in ITEMS)]

    @property
    def _checkpointer(self) -> v1.training.Checkpointer:
        if self._opened is None:
            policies = v1.training.preservation_policies
            stay: Any = policies.LatestN(self.keep)
            if self.keep_best:
                best = policies.BestN(
                    get_metric_fn=lambda figures: -figures["best"],
                    n=self.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
                stay = policies.AnyPreservationPolicy([stay, best])
            with quiet():
                self._opened = v1.training.Checkpointer(
                    self.folder,
                    context=json_context(),
                    preservation_policy=stay,
                    cleanup_tmp_directories=True,
                )
        return self._opened

    def save(self, step: int, items: Items, figure: float | None = None) -> None:
        """Writes a state in the background, once it is copied to the host; an existing step is left as it is.

        Args:
            step: how many updates made it.
            items: the weights under `params`, what else the run continues from under `opt`.
            figure: what `keep_best` compares, the smaller the better; None leaves it out.

        Raises:
            WorkError: this one, or the one before it, cannot be written.
        """
        if step == self.latest:
            return
        weights = named_sums(items["params"])
        written = {name: _nested(arrays) for name, arrays in items.items()} | {
            "data": {
                "seed": self.seed,
                "step": step,
                "samples": self.samples,
                "checksum": combined([*weights.values(), *sums([*items["opt"].values()])]),
            },
            "meta": Meta(self.config, self.provenance, weights).to_json(),
        }
        figures = {"best": figure} if self.keep_best and figure is not None else None
        with self._writing():
            self._checkpointer.save_checkpointables_async(step, written, force=True, metrics=figures)

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
            WorkError: something cannot be written.
        """
        with self._writing():
            self._checkpointer.wait()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Reports in one line why a checkpoint was not written, here or in the background."""
        try:
            with quiet():
                yield
        except Exception as error:
            # What is left of it has another name, and is removed at the next start.
            self._failed = True
            raise WorkError(
                f"{self.folder}: a checkpoint cannot be written: {_reason(error)}. Earlier ones are unaffected: "
                "make room, and the same command continues from the newest"
            ) from error

    def restore(self, wanted: Items) -> Restored | None:
        """The newest state that is whole, each array sliced onto its devices, from any mesh.

        A damaged one is reported and renamed (`<step>.damaged`), and the one before it is used.

        Args:
            wanted: shapes, dtypes and shardings of what `save` was given.

        Returns:
            None without any checkpoint.

        Raises:
            InputError: the checkpoint is of another model, optimizer or seed; or all of them are damaged.
        """
        steps = self.steps
        for step in reversed(steps):
            try:
                return self._restore(step, wanted)
            except Damaged as damage:
                self.say(f"{self.folder / str(step)}: damaged, so the checkpoint before it is used: {damage}")
                self._set_aside(step)
        if steps:
            raise InputError(f"{self.folder}: every checkpoint is damaged; start again in another run_dir")
        return None

    def _restore(self, step: int, wanted: Items) -> Restored:
        path = self.folder / str(step)
        try:
            meta = read_meta(path)
        except (InputError, OSError) as error:
            raise Damaged(_short(error)) from error
        if meta.config != self.config:
            raise InputError(
                f"{path}: of another model than this run's: give a new run_dir, or start with init_from"
            )
        self._check_names(step, wanted)
        try:
            with quiet():
                nested = {name: _nested(arrays) for name, arrays in wanted.items()}
                items = self._checkpointer.load_checkpointables(step, nested | {"data": None})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise Damaged(_short(error)) from error
        data = items["data"]
        if not isinstance(data, dict) or not all(
            isinstance(data.get(name), int) for name in ("seed", "checksum")
        ):
            raise Damaged("data/data.json differs from what was written")
        if data["seed"] != self.seed:
            raise InputError(f"{path}: of a run with seed {data['seed']}, this one has {self.seed}")
        found = {name: _complete(items[name], arrays) for name, arrays in wanted.items()}
        if _checksum(found) != data["checksum"]:
            raise Damaged("its arrays are not those that were written")
        self.provenance = meta.provenance
        return Restored(step, found, data.get("samples") == self.samples)

    def _check_names(self, step: int, wanted: Items) -> None:
        """Raises InputError when a whole checkpoint's arrays are not this run's, Damaged when items are missing."""
        try:
            with quiet():
                there = self._checkpointer.checkpointables_metadata(step).metadata
            names = {item: set(flatten_dict(there[item], sep=".")) for item in wanted}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise Damaged(_short(error)) from error
        for item, found in names.items():
            if other := sorted(found ^ {path for path, leaf in wanted[item].items() if leaf.size}):
                raise InputError(
                    f"{self.folder / str(step)}: this run cannot continue from it: {item} differs in "
                    f"{len(other)} arrays ({', '.join(other[:3])}): give a new run_dir, or start with init_from"
                )

    def _set_aside(self, step: int) -> None:
        if self._opened is not None:
            with quiet():
                self._opened.close()
            self._opened = None
        if jax.process_index() == 0:
            path = self.folder / str(step)
            path.rename(path.with_name(path.name + DAMAGED))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")

    def __enter__(self) -> Checkpoints:
        # Also the long error messages of Orbax's own threads: `save` and `wait` raise the error.
        self._silence.enter_context(quiet())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._writing():
                if self._opened is not None:
                    self._opened.close()
        except WorkError:
            if error is None:
                raise
        finally:
            self._silence.close()
            if self._failed:
                # Other threads of Orbax fail later still.
                logging.getLogger("absl").setLevel(logging.CRITICAL)


def save_weights(
    path: Path, params: Mapping[str, jax.Array], config: ModelConfig, provenance: Mapping[str, Any]
) -> None:
    """Weights alone as a checkpoint that every command reads, replacing an existing one."""
    meta = Meta(config, dict(provenance), named_sums(params))
    items = {"params": _nested(params), "meta": meta.to_json()}
    with quiet(), json_context():
        v1.save_checkpointables(path.absolute(), items, overwrite=True)


def _checksum(items: Items) -> int:
    return checksum([*items["params"].values(), *items["opt"].values()])


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """As nested dictionaries, without arrays of size 0, which Orbax does not write."""
    nested: dict[str, Any] = unflatten_dict(
        {path: leaf for path, leaf in arrays.items() if leaf.size}, sep="."
    )
    return nested


def _complete(nested: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_nested`."""
    arrays = flatten_dict(nested, sep=".")
    return {
        path: arrays[path] if leaf.size else jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        for path, leaf in wanted.items()
    }


def _reason(error: BaseException) -> str:
    """The system's message, where libraries wrapped it in long ones."""
    said = _short(error)
    known = (
        os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
    )
    return next((text for text in known if text in str(error)), said)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
