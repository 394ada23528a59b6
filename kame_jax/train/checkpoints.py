"""Checkpoints of a run: `<run_dir>/checkpoints/<step>` with the items `params`, `opt`, `data` and `meta`.

`params` and `meta` are what `interop.native` reads, so that any command takes such a folder; `opt` and `data` are what
a run continues from. Batches are a function of (seed, step): `data` is those two numbers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp

from kame_jax.config import ModelConfig
from kame_jax.errors import InputError
from kame_jax.interop import tree
from kame_jax.interop.native import Meta, read_meta, v1
from kame_jax.train.state import TrainState, dotted


class Checkpoints:
    """The checkpoints of one run; a context manager, whose end waits for what is being written.

    A checkpoint appears under its name when it is complete; what an interrupted save left is cleared away at the start.

    Args:
        folder: where they are, or will be; made with the first save.
        config: of the model.
        seed: of the run.
        samples: a name for the data (`corpus.fingerprint`).
        keep: how many stay, the newest.
    """

    def __init__(self, folder: Path, config: ModelConfig, *, seed: int, samples: str, keep: int):
        self.folder, self.config, self.keep = folder.absolute(), config, keep
        self.seed, self.samples = seed, samples
        self.provenance: dict[str, Any] = {}
        """Where the first weights came from, kept in `meta`."""
        self._opened: v1.training.Checkpointer | None = None

    @property
    def latest(self) -> int | None:
        """The newest complete step, or None."""
        if not self.folder.is_dir():
            return None
        newest = self._checkpointer.latest
        return None if newest is None else int(newest.step)

    @property
    def _checkpointer(self) -> v1.training.Checkpointer:
        if self._opened is None:
            with _quiet():
                self._opened = v1.training.Checkpointer(
                    self.folder,
                    context=_context(),
                    preservation_policy=v1.training.preservation_policies.LatestN(self.keep),
                    cleanup_tmp_directories=True,
                )
        return self._opened

    def save(self, state: TrainState) -> int:
        """Writes a state in the background, once it is copied to the host; a step that is there already stays as it is.

        Returns:
            The step.
        """
        step = int(state.step)
        if step == self.latest:
            return step
        items = {
            "params": _present(state.params),
            "opt": _present(_names(state.opt_state)),
            "data": {"seed": self.seed, "step": step, "samples": self.samples},
            "meta": Meta(self.config, self.provenance).to_json(),
        }
        with _quiet():
            self._checkpointer.save_checkpointables_async(step, items, force=True)
        return step

    def wait(self) -> None:
        """Returns when everything is written."""
        with _quiet():
            self._checkpointer.wait()

    def restore(self, abstract: TrainState, places: TrainState) -> tuple[TrainState, bool]:
        """The newest state, each array sliced onto its devices, whatever mesh it was saved from.

        Args:
            abstract: shapes and dtypes.
            places: shardings.

        Returns:
            The state, and whether it was trained on the same samples.

        Raises:
            InputError: it is of another model, optimizer or seed.
        """
        step = self.latest
        path = self.folder / str(step)
        meta = read_meta(path)
        if meta.config != self.config:
            raise InputError(
                f"{path}: of another model than this run's: give a new run_dir, or start with init_from"
            )
        targets = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract, places
        )
        wanted = {
            "params": _present(targets.params),
            "opt": _present(_names(targets.opt_state)),
            "data": None,
        }
        try:
            with _quiet():
                items = self._checkpointer.load_checkpointables(step, wanted)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{path}: no state that this run can continue from: {reason}") from error
        if items["data"]["seed"] != self.seed:
            raise InputError(f"{path}: of a run with seed {items['data']['seed']}, this one has {self.seed}")
        self.provenance = meta.provenance
        found = tree.flatten({"params": items["params"], "opt_state": items["opt"]})

        def take(path: tuple[Any, ...], leaf: Any, place: Any) -> jax.Array:
            name = dotted(path)
            return found[name] if name in found else jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), place)

        state = jax.tree_util.tree_map_with_path(
            take, abstract._replace(step=None), places._replace(step=None)
        )
        state = state._replace(step=jax.device_put(jnp.asarray(step, jnp.int32), places.step))
        return state, items["data"]["samples"] == self.samples

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            with _quiet():
                self._opened.close()


def _context() -> v1.Context:
    """Small items are JSON, as `interop.native` reads them."""
    registry = v1.handlers.local_registry()
    for name in ("meta", "data"):
        registry.add(v1.handlers.JsonHandler, checkpointable_name=name)
    context = v1.Context()
    context.checkpointables.registry = registry
    return context


def _names(opt_state: Any) -> dict[str, Any]:
    """An optimizer's state as nested dictionaries by its own field names."""
    return tree.nest(
        {dotted(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(opt_state)[0]}
    )


def _present(nested: dict[str, Any]) -> dict[str, Any]:
    """Without arrays of size 0, which Orbax does not write."""
    return tree.nest({path: leaf for path, leaf in tree.flatten(nested).items() if leaf.size})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's running commentary."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
