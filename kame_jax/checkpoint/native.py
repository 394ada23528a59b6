"""Our own checkpoints: an Orbax folder with the items `params` (arrays by our names) and `meta` (what they are).

`meta/data.json` holds the model's configuration and where the weights came from. Training saves `params`, `opt`,
`data` and `meta` under the same names; everything that only needs the model reads the first and the last. Arrays
are written one at a time, so a conversion needs memory for the largest array, not for the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from kame_jax.checkpoint.checksum import host_sum, sums
from kame_jax.checkpoint.weights import Box, Shapes, Weights, cast, whole
from kame_jax.config import MimiConfig, ModelConfig, build, to_dict
from kame_jax.errors import InputError
from kame_jax.files import building, free_folder, read_json, settle
from kame_jax.model import tree

try:
    from orbax.checkpoint import v1
except ImportError:  # until Orbax moves its first version out of `experimental`
    from orbax.checkpoint.experimental import v1

FORMAT_VERSION = 1
META_NAME = "data.json"
"""The file that Orbax's own JSON handler reads and writes in an item."""
CHUNK_BYTES = 32 << 20
"""Largest piece of an array in one file; stacked layers and weight sets are cut apart first."""
KINDS: dict[str, type] = {"lm": ModelConfig, "mimi": MimiConfig}


@dataclass(frozen=True)
class Meta:
    """What the `meta` item says."""

    config: ModelConfig | MimiConfig
    provenance: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    """Path -> `checksum.sums` of the array; empty in checkpoints of earlier versions, which are not checked."""

    def to_json(self) -> dict[str, Any]:
        """The item's content."""
        kind = "mimi" if isinstance(self.config, MimiConfig) else "lm"
        return {
            "format": "kame_jax",
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "model": to_dict(self.config),
            "provenance": self.provenance,
            "sums": self.sums,
        }


def read_meta(path: Path) -> Meta:
    """The `meta` item of a checkpoint.

    Raises:
        InputError: it is missing, damaged, or of a newer format.
    """
    file = path / "meta" / META_NAME
    if not file.is_file():
        raise InputError(f"{path}: has params/ but no meta/{META_NAME}: not a checkpoint of kame_jax")
    value = read_json(file)
    if value.get("format") != "kame_jax" or value.get("kind") not in KINDS:
        raise InputError(f"{file}: not the description of a kame_jax checkpoint")
    if value.get("format_version", 0) > FORMAT_VERSION:
        raise InputError(
            f"{file}: format {value['format_version']} is newer than this program's {FORMAT_VERSION}"
        )
    config: Any = build(KINDS[value["kind"]], value.get("model", {}), about=f"{file}: model")
    return Meta(config, value.get("provenance", {}), value.get("sums", {}))


def native_kind(path: Path) -> str:
    """`lm` or `mimi` for a folder that is, or was, a checkpoint of ours; empty for any other.

    One that lacks some of its files still counts: reading it then reports what is missing.
    """
    marks = ("_CHECKPOINT_METADATA", f"meta/{META_NAME}", "params/_METADATA")
    if not any((path / mark).is_file() for mark in marks):
        return ""
    try:
        return "mimi" if read_json(path / "meta" / META_NAME).get("kind") == "mimi" else "lm"
    except InputError:
        return "lm"


def newest_step(folder: Path) -> Path | None:
    """The newest checkpoint of a run, given the run's folder or its `checkpoints/`; None for any other folder."""
    for place in (folder, folder / "checkpoints"):
        named = place.iterdir() if place.is_dir() else ()
        if steps := [path for path in named if re.fullmatch(r"[0-9]+", path.name) and native_kind(path)]:
            return max(steps, key=lambda path: int(path.name))
    return None


def json_context() -> v1.Context:
    """An Orbax context that keeps the small items, `meta` and a run's `data`, as JSON."""
    registry = v1.handlers.local_registry()
    for name in ("meta", "data"):
        registry.add(v1.handlers.JsonHandler, checkpointable_name=name)
    context = v1.Context()
    context.checkpointables.registry = registry
    return context


def save(
    path: str | os.PathLike[str],
    weights: Weights,
    meta: Meta,
    also: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a checkpoint, complete or not at all.

    Args:
        path: the folder to make; it must not exist, or be empty.
        weights: what to write, in the dtypes it is kept in.
        meta: what it is.
        also: puts further files into the folder before it appears.

    Raises:
        InputError: there is something at `path`.
    """
    target = free_folder(path)
    written: dict[str, int] = {}
    lazy = {p: _Lazy(weights, p, written) for p, shape in weights.shapes.items() if np.prod(shape)}
    axes = tree.axes(tree.abstract(meta.config))
    if missing := sorted(set(axes) - set(weights.shapes)):
        raise InputError(
            f"{path}: a checkpoint holds all of a model, but {missing[0]} and others are missing"
        )
    args = {p: _save_args(array, axes[p]) for p, array in lazy.items()}
    with quiet(), building(target, alone=True) as scratch, _checkpointer() as checkpointer:
        inside = scratch / "checkpoint"
        params = ocp.args.PyTreeSave(unflatten_dict(lazy, sep="."), save_args=unflatten_dict(args, sep="."))
        checkpointer.save(inside, ocp.args.Composite(params=params))
        _add_meta(inside, dataclasses.replace(meta, sums=written))
        also(inside)
        settle(inside, target)


def _add_meta(checkpoint: Path, meta: Meta) -> None:
    """Adds the item `meta` to a checkpoint, as Orbax's JSON handler would have.

    Saved together with `params`, a thread of Orbax would wait for minutes when those cannot be written.
    """
    (checkpoint / "meta").mkdir()
    (checkpoint / "meta" / META_NAME).write_text(json.dumps(meta.to_json()))
    index = checkpoint / "_CHECKPOINT_METADATA"
    content = json.loads(index.read_text())
    handler = ocp.JsonCheckpointHandler
    content["item_handlers"]["meta"] = f"{handler.__module__}.{handler.__qualname__}"
    index.write_text(json.dumps(content))


def _checkpointer() -> ocp.Checkpointer:
    """Writes `params` an array at a time, in files that need no further processing."""
    registry = ocp.type_handlers.create_type_handler_registry((_Lazy, _OneByOne(deepcopy_host_arrays=False)))
    params = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_zarr3=True, use_compression=False, type_handler_registry=registry
    )
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(params=params))


class NativeWeights:
    """The `params` item of a checkpoint, read an array at a time.

    Raises:
        InputError: its arrays are not those of the model that `meta` describes; when they are read, also: they differ
            from what was written.
    """

    def __init__(self, path: Path, meta: Meta):
        self.path, self.sums, config = path, meta.sums, meta.config
        self._read: tuple[str, np.ndarray] | None = None
        expected = tree.shapes(tree.abstract(config))
        with _damage_of(path):
            items = v1.checkpointables_metadata(path.absolute()).metadata
            self._stored = flatten_dict(items["params"], sep=".")
        found = {p: tuple(leaf.shape) for p, leaf in self._stored.items()}
        found |= {p: shape for p, shape in expected.items() if not np.prod(shape)}
        problems = [f"missing: {p} {list(s)}" for p, s in expected.items() if p not in found]
        problems += [f"unknown: {p} {list(s)}" for p, s in found.items() if p not in expected]
        problems += [
            f"wrong shape: {p} is {list(s)}, expected {list(expected[p])}"
            for p, s in found.items()
            if p in expected and expected[p] != s
        ]
        if problems:
            raise InputError(
                f"{path}: its arrays do not fit the model ({len(problems)} problems)", sorted(problems)
            )
        self.shapes: Shapes = expected

    def dtype(self, path: str) -> np.dtype:
        """See `Weights`."""
        return np.dtype(self._stored[path].dtype) if path in self._stored else np.dtype(np.float32)

    def read(self, path: str, boxes: Sequence[Box], dtype: np.dtype | None = None) -> list[np.ndarray]:
        """See `Weights`. The whole array is read, and kept until another is requested."""
        array = self._array(path)
        if len(boxes) == 1 and all(extent == (0, size) for extent, size in zip(boxes[0], array.shape)):
            self._read = None
            return [cast(array, dtype or array.dtype)]
        parts = [np.array(array[tuple(slice(*extent) for extent in box)]) for box in boxes]
        return [cast(part, dtype or array.dtype) for part in parts]

    def _array(self, path: str) -> np.ndarray:
        if path not in self._stored:
            return np.zeros(self.shapes[path], np.float32)
        if self._read is None or self._read[0] != path:
            self._read = None
            self._read = path, self.restore({path: np.ndarray})[path]
            self._check({path: host_sum(self._read[1])})
        return self._read[1]

    def _check(self, found: Mapping[str, int]) -> None:
        """Raises InputError when arrays have other sums than they were written with."""
        if changed := sorted(path for path, number in found.items() if self.sums.get(path, number) != number):
            raise InputError(
                f"{self.path}: damaged checkpoint: {', '.join(changed[:5])} differ from what was written; take another "
                "copy, or another step of the run by its name"
            )

    def check(self, arrays: Mapping[str, jax.Array]) -> None:
        """Compares arrays on devices with what was written, those that are in the dtype they were written in.

        Raises:
            InputError: they are damaged.
        """
        whole = {p: array for p, array in arrays.items() if p in self.sums and array.dtype == self.dtype(p)}
        if all(array.is_fully_addressable and array.platform() == "cpu" for array in whole.values()):
            self._check({path: host_sum(np.asarray(array)) for path, array in whole.items()})
        else:
            self._check(dict(zip(whole, sums(list(whole.values())), strict=True)))

    def restore(self, targets: Mapping[str, Any]) -> dict[str, Any]:
        """Several arrays at once.

        Args:
            targets: path -> `np.ndarray` for the host, or a `jax.ShapeDtypeStruct` with a sharding for devices; each
                device then reads its own part.
        """
        stored = {p: t for p, t in targets.items() if p in self._stored}
        context = v1.Context()
        context.pytree.loading.partial_load = True
        with _damage_of(self.path), context:
            items = v1.load_checkpointables(self.path.absolute(), {"params": unflatten_dict(stored, sep=".")})
            arrays: dict[str, Any] = flatten_dict(items["params"], sep=".")
            return arrays


@dataclasses.dataclass
class _Lazy:
    """An array that is read when it is about to be written."""

    weights: Weights
    path: str
    sums: dict[str, int]
    """Gets the sum of what was written."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weights.shapes[self.path]

    @property
    def dtype(self) -> np.dtype:
        return self.weights.dtype(self.path)


class _OneByOne(ocp.type_handlers.NumpyHandler):
    """Writes arrays one at a time, each read just before; Orbax itself would take them all at once."""

    async def serialize(
        self, values: Sequence[_Lazy], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> list:
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            array = whole(value.weights, value.path)
            writes = await super().serialize([array], [info], [arg])
            value.sums[value.path] = await asyncio.to_thread(host_sum, array)
            for future in writes:
                await asyncio.to_thread(future.result)
            del array
        return []


def _save_args(array: _Lazy, axes: tuple[str, ...]) -> ocp.SaveArgs:
    """How an array is cut into files: by its stacked dimensions first, then to at most `CHUNK_BYTES`."""
    if np.prod(array.shape) * array.dtype.itemsize <= CHUNK_BYTES:
        return ocp.SaveArgs()
    stacked = tuple(i for i, axis in enumerate(axes) if axis in ("layers", "sets", "codebooks"))
    # Odd sizes (32,001 rows) have no divisors to cut by; such a table stays in one piece.
    odd = any(size % 2 for i, size in enumerate(array.shape) if size > 1 and i not in stacked)
    return ocp.SaveArgs(shard_axes=stacked, chunk_byte_size=None if odd else CHUNK_BYTES)


@contextlib.contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Turns any error of Orbax about a checkpoint into one clear one."""
    try:
        with quiet():
            yield
    except Exception as error:
        # Orbax tries one reader after the other and reports the last; what happened first is the reason.
        while error.__cause__ is not None or error.__context__ is not None:
            error = error.__cause__ or error.__context__  # type: ignore[assignment]
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{path}: damaged checkpoint: {reason}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Orbax's warnings about deliberate choices, and its long logs of errors that are raised."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def jax_arrays(
    weights: NativeWeights, places: Mapping[str, jax.sharding.Sharding], dtypes: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """All arrays on their devices, each device reading its own part, in the given dtypes."""
    targets = {p: jax.ShapeDtypeStruct(s, dtypes[p], sharding=places[p]) for p, s in weights.shapes.items()}
    empty = {
        p: jax.device_put(np.zeros(t.shape, t.dtype), places[p]) for p, t in targets.items() if not t.size
    }
    arrays = weights.restore(targets)
    weights.check(arrays)
    return arrays | empty
