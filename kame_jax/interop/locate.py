"""From what a user types to files: a file, a folder, or `hf://org/repo[@revision][/file]`."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kame_jax import hub
from kame_jax.checkpoint.native import native_kind, newest_step
from kame_jax.errors import InputError
from kame_jax.files import read_json, regular_file
from kame_jax.interop import kwargs, mimi_kwargs
from kame_jax.interop.layouts import holds
from kame_jax.interop.names import NamedTensors
from kame_jax.interop.places import Folder, NotThere, Place, find_named, read_config
from kame_jax.interop.safetensors_file import SUFFIXES, SafetensorsFile

INDEX = ".index.json"
"""Suffix of a split checkpoint's file names."""
ADAPTER_CONFIG = "adapter_config.json"
MIMI_CONFIG_NAME = "mimi_config.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

NAMES: dict[str, tuple[str, ...]] = {
    "lm": ("model.safetensors", "consolidated.safetensors"),
    "adapter": ("lora.safetensors", "adapter_model.safetensors"),
    "mimi": (
        "tokenizer-e351c8d8-checkpoint125.safetensors",
        "mimi-pytorch-e351c8d8@125.safetensors",
        "model.safetensors",
    ),
}
"""Names of files where no `config.json` gives them."""
NAMED_BY = {"lm": "moshi_name", "adapter": "lora_name", "mimi": "mimi_name"}
"""The key of `config.json` that names each."""


@dataclass(frozen=True)
class Located:
    """Files of one checkpoint."""

    name: str
    """What to call it in messages."""
    place: Place
    """The place of its files."""
    native: Path | None = None
    """Folder of an Orbax checkpoint of ours; then the other fields are empty."""
    weights: tuple[Path, ...] = ()
    """The safetensors files with its tensors (several when it is split)."""
    adapter: Path | None = None
    """LoRA adapters that belong to the weights."""
    config: Mapping[str, Any] | None = None
    """Its `config.json` or `moshi_lm_kwargs.json`, and PEFT's description of its adapters."""
    config_name: str = ""
    mimi_config: Mapping[str, Any] | None = None
    """The codec's own configuration."""
    notes: tuple[str, ...] = ()
    """What a person should know about the choice."""


def locate(spec: str | os.PathLike[str], wanted: str = "lm") -> Located:
    """Find the files of a checkpoint.

    Args:
        spec: a safetensors file or the index of a split one, a folder, an Orbax checkpoint of ours, a run (its newest
            checkpoint), or `hf://org/repo[@revision][/file]`.
        wanted: `lm`, or `mimi` to find the codec in a folder or repository that holds both.

    Raises:
        InputError: nothing there, nothing readable, more than one candidate, or a name that leads elsewhere.
    """
    text = os.fspath(spec)
    if text.startswith(hub.PREFIX):
        repository, file = hub.parse(text)
        return _in_repository(_described(text, repository), file, wanted)
    path = Path(text.removeprefix("file://"))
    if path.is_dir():
        return _in_folder(path, wanted)
    if not os.path.lexists(path):
        raise NotThere(f"{path}: no such file or folder")
    regular_file(path, "a checkpoint")
    folder = Folder(path.parent)
    files = _shards(folder, path) if path.name.endswith(INDEX) else (path,)
    return dataclasses.replace(_described(str(path), folder), weights=files)


def _described(name: str, place: Place) -> Located:
    """A checkpoint of which only the configurations are known yet."""
    config, config_name = read_config(place)
    settings = dict(config or {})
    if mimi_kwargs.is_mimi_kwargs(settings):
        return Located(name, place, config=config, config_name=config_name, mimi_config=settings)
    path = None
    if named := settings.get("mimi_config_name"):
        path = find_named(place, named)
    elif isinstance(place, Folder):
        path = place.find(MIMI_CONFIG_NAME)
    return Located(name, place, None, (), None, config, config_name, read_json(path) if path else None)


def _in_repository(located: Located, file: str | None, wanted: str) -> Located:
    """What a repository holds, requested by name: each missing file costs a request."""
    place, settings = located.place, located.config or {}
    named = file or settings.get(NAMED_BY[wanted])
    names = (str(named),) if named else NAMES[wanted]
    weights = next((found for name in names if (found := _by_name(place, name))), ())
    adapter = None
    if wanted == "lm" and file is None and (not weights or settings.get("lora", "lora_name" in settings)):
        named = settings.get("lora_name")
        candidates = (find_named(place, name) for name in ((named,) if named else NAMES["adapter"]))
        adapter = next(filter(None, candidates), None)
        if named and adapter is None:
            raise InputError(
                f"{located.name}: its {located.config_name} names the adapters {named}, which are not there"
            )
    if not weights and adapter is None:
        raise NotThere(f"{located.name}: the repository has no {' or '.join(names)}, whole or split")
    located = dataclasses.replace(located, weights=weights)
    return _with_adapter(located, adapter) if adapter else located


def _by_name(place: Place, name: str) -> tuple[Path, ...]:
    """The file of that name, or the parts that its index lists; empty without either."""
    if path := find_named(place, name):
        return _shards(place, path) if name.endswith(INDEX) else (path,)
    index = None if name.startswith(hub.PREFIX) else find_named(place, name + INDEX)
    return _shards(place, index) if index else ()


def _shards(place: Place, index: Path) -> tuple[Path, ...]:
    """The files that an index lists.

    Raises:
        InputError: the index is not one, is empty, or lists files that are not there.
    """
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError(f"{index}: expected a weight_map from tensor names to files")
    names = sorted(set(files.values()))
    if not names:
        raise InputError(f"{index}: its weight_map is empty")
    found = {name: find_named(place, name) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        raise InputError(f"{index}: lists files that are not there: {', '.join(missing[:5])}")
    return tuple(path for path in found.values() if path)


def _with_adapter(located: Located, adapter: Path) -> Located:
    """The checkpoint with its adapters, and PEFT's own description of them."""
    config = located.config
    if path := located.place.find(ADAPTER_CONFIG):
        config = dict(config or {}) | kwargs.from_peft(read_json(path), str(path))
    return dataclasses.replace(located, adapter=adapter, config=config)


def _in_folder(folder: Path, wanted: str) -> Located:
    """What a folder holds, judged by the contents of its files."""
    place = Folder(folder)
    native = folder if native_kind(folder) == wanted else newest_step(folder) if wanted == "lm" else None
    if native:
        return Located(str(native), Folder(native), native=native)
    located = _described(str(folder), place)
    settings = located.config or {}
    parts = _parts(place, str(settings.get(NAMED_BY["lm"], "")))
    kinds: dict[str, list[Path]] = {"lm": [], "adapter": [], "mimi": []}
    for path in _tensor_files(folder):
        if path not in parts and (kind := holds(NamedTensors(SafetensorsFile(path)).infos)):
            kinds[kind].append(path)
    notes: list[str] = []
    if wanted == "lm" and (parts or kinds["lm"] or kinds["adapter"] or _describes_lm(settings)):
        if parts and kinds["lm"]:
            notes.append(f"the split checkpoint is read, not {', '.join(path.name for path in kinds['lm'])}")
        chosen = parts or _choose(place, kinds["lm"], settings, "lm", notes)
        [adapter] = _choose(place, kinds["adapter"], settings, "adapter", notes) or (None,)
    else:
        chosen, adapter = _choose(place, kinds["mimi"], settings, "mimi", notes), None
    if not chosen and adapter is None:
        if native_kind(folder) == "mimi":
            return Located(str(folder), place, native=folder)
        raise NotThere(_nothing_found(folder, wanted, kinds["mimi"]))
    located = dataclasses.replace(located, weights=chosen, notes=tuple(notes))
    return _with_adapter(located, adapter) if adapter else located


def _describes_lm(settings: Mapping[str, Any]) -> bool:
    """Whether a configuration is a language model's, so that a codec next to it is not what was meant."""
    return "dim" in settings or "moshi_name" in settings


def _tensor_files(folder: Path) -> Iterator[Path]:
    """Its safetensors files.

    Raises:
        InputError: one is a link to nothing, or not a regular file.
    """
    for path in sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES):
        if found := Folder(folder).find(path.name):
            yield found


def _parts(place: Folder, named: str) -> tuple[Path, ...]:
    """The files of a split checkpoint, by its index or, if that is missing, by their names; empty without any.

    Args:
        place: the folder.
        named: the file of weights that the configuration names; if it exists, a split checkpoint is not looked for.

    Raises:
        InputError: some of the files are missing.
    """
    if named and not named.endswith(INDEX) and find_named(place, named):
        return ()
    indices = [
        named,
        *(name + INDEX for name in NAMES["lm"]),
        *sorted(p.name for p in place.path.glob(f"*{INDEX}")),
    ]
    for name in indices:
        if name.endswith(INDEX) and (index := find_named(place, name)):
            return _shards(place, index)
    numbers: dict[int, Path] = {}
    count = 0
    for path in place.path.iterdir():
        found = re.fullmatch(r".+-(\d{1,5})-of-(\d{1,5})", path.stem)
        if found and path.suffix in SUFFIXES:
            numbers[int(found[1])], count = path, int(found[2])
    missing = sorted(set(range(1, count + 1)) - set(numbers))
    if missing:
        raise InputError(f"{place}: a split checkpoint of {count} files lacks number {missing[0]}")
    return tuple(numbers[i] for i in sorted(numbers))


def _choose(
    place: Folder, paths: Sequence[Path], settings: Mapping[str, Any], kind: str, notes: list[str]
) -> tuple[Path, ...]:
    """The one candidate, the one that the configuration names, or the one with a usual name; empty without any."""
    named = settings.get(NAMED_BY[kind])
    if named and (path := find_named(place, named)):
        return (path,)
    if named and not paths and kind == "adapter" and settings.get("lora", True):
        raise InputError(f"{place}: its configuration names the adapters {named}, which are not there")
    usual = [path for path in paths if path.name in NAMES[kind]]
    if len(paths) > 1 and len(usual) != 1:
        raise InputError(
            f"{place}: several files of {_WHAT[kind]} ({', '.join(p.name for p in paths)}): name one of them"
        )
    if named and paths:
        notes.append(
            f"the configuration names {named}, which is not there; {(usual or paths)[0].name} is taken"
        )
    return tuple((usual or paths)[:1])


_WHAT = {"lm": "weights", "adapter": "adapters", "mimi": "Mimi"}


def _nothing_found(folder: Path, wanted: str, codecs: Sequence[Path]) -> str:
    if wanted == "lm" and codecs:
        return (
            f"{folder}: its configuration describes a language model, but only the codec is there "
            f"({codecs[0].name}; --mimi takes that)"
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        return (
            f"{folder}: only pickles ({', '.join(pickles)}), which can run any code when loaded and are not read; "
            "convert one you trust with torch.load(..., weights_only=True) and safetensors.torch.save_file"
        )
    what = "a language model" if wanted == "lm" else "Mimi"
    return f"{folder}: no safetensors file of {what}, and no checkpoint of ours (a folder with params/)"
