"""From what a user types to files: a path, a folder, or `hf://org/repo[@revision][/file]`."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors

from kame_jax.errors import InputError
from kame_jax.files import read_json
from kame_jax.interop.layouts import detect, has_base
from kame_jax.interop.mimi_kwargs import is_mimi_kwargs
from kame_jax.interop.safetensors_file import SUFFIXES, SafetensorsFile

CONFIG_NAMES = ("config.json", "moshi_lm_kwargs.json")
WEIGHT_NAMES = ("model.safetensors", "consolidated.safetensors", "lora.safetensors")
DEFAULT_NAMES: dict[str, Sequence[str]] = {
    "lm": WEIGHT_NAMES,
    "mimi": (
        "tokenizer-e351c8d8-checkpoint125.safetensors",
        "mimi-pytorch-e351c8d8@125.safetensors",
        "model.safetensors",
    ),
}
"""Names looked for in a repository that has no `config.json` to say its own."""
MIMI_CONFIG_NAME = "mimi_config.json"
INDEX_NAME = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Located:
    """Files of one checkpoint."""

    name: str
    """What to call it in messages."""
    native: Path | None = None
    """Folder of an Orbax checkpoint of ours; then there is nothing else."""
    weights: tuple[Path, ...] = ()
    """The safetensors files with its tensors (several when it is split)."""
    adapter: Path | None = None
    """LoRA adapters that belong to the weights."""
    config: dict[str, Any] | None = None
    """Its `config.json` or `moshi_lm_kwargs.json`."""
    config_name: str = ""
    mimi_config: dict[str, Any] | None = None
    """The codec's own configuration."""


def locate(spec: str | os.PathLike[str], wanted: str = "lm") -> Located:
    """Find the files of a checkpoint.

    Args:
        spec: a safetensors file, a folder, an Orbax checkpoint of ours, a run (its newest checkpoint), or
            `hf://org/repo[@revision][/file]`.
        wanted: `lm`, or `mimi` to find the codec in a folder or repository that holds both.

    Raises:
        InputError: nothing there, nothing readable there, or more than one candidate.
    """
    text = os.fspath(spec)
    if text.startswith("hf://"):
        return _locate_hub(text, wanted)
    path = Path(text.removeprefix("file://"))
    if path.is_dir():
        return _locate_folder(path, wanted)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    config, name = read_config(path.parent)
    codec = _read_mimi_config(path.parent, config)
    return Located(str(path), weights=(path,), config=config, config_name=name, mimi_config=codec)


def newest_step(folder: Path) -> Path | None:
    """The newest checkpoint of a run, given the run's folder or its `checkpoints/`; None for any other folder."""
    for place in (folder, folder / "checkpoints"):
        steps = [p for p in place.iterdir() if p.name.isdigit() and is_native(p)] if place.is_dir() else []
        if steps:
            return max(steps, key=lambda path: int(path.name))
    return None


def is_native(path: Path) -> bool:
    """Whether a folder is an Orbax checkpoint of ours (`native.py`)."""
    return (path / "params" / "_METADATA").is_file()


def read_config(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The configuration file in a folder and its name; (None, "") without one.

    Raises:
        InputError: it is there and not a JSON object.
    """
    for name in CONFIG_NAMES:
        if (folder / name).is_file():
            return read_json(folder / name), name
    return None, ""


def _locate_folder(folder: Path, wanted: str) -> Located:
    if is_native(folder):
        return Located(str(folder), native=folder)
    if wanted == "lm" and (newest := newest_step(folder)):
        return Located(str(newest), native=newest)
    config, config_name = read_config(folder)
    settings = config or {}
    codec = _read_mimi_config(folder, config)
    located = Located(str(folder), config=config, config_name=config_name, mimi_config=codec)
    if wanted == "lm" and (folder / INDEX_NAME).is_file():
        shards = sorted(set(read_json(folder / INDEX_NAME).get("weight_map", {}).values()))
        return dataclasses.replace(located, weights=tuple(folder / shard for shard in shards))
    kinds: dict[str, list[Path]] = {"lm": [], "adapter": [], "mimi": []}
    for path in sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file()):
        with SafetensorsFile(path) as file:
            if kind := _kind(list(file.infos)):
                kinds[kind].append(path)
    if wanted == "mimi" or not (kinds["lm"] or kinds["adapter"]):
        chosen = _choose(folder, kinds["mimi"], settings.get("mimi_name"), "files of Mimi")
        adapter = None
    else:
        chosen = _choose(folder, kinds["lm"], settings.get("moshi_name"), "files of weights")
        adapter = _choose(folder, kinds["adapter"], settings.get("lora_name"), "adapter files")
    if chosen is None and adapter is None:
        raise InputError(_nothing_found(folder, wanted))
    return dataclasses.replace(located, weights=(chosen,) if chosen else (), adapter=adapter)


def _read_mimi_config(folder: Path, config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The codec's configuration: the file beside the weights that is one, or that `config` names."""
    settings = config or {}
    if is_mimi_kwargs(settings):
        return dict(settings)
    path = folder / str(settings.get("mimi_config_name") or MIMI_CONFIG_NAME)
    return read_json(path) if path.is_file() else None


def _kind(keys: list[str]) -> str | None:
    """`lm`, `adapter` or `mimi`."""
    layout = detect(keys)
    if layout is None:
        return None
    if layout == "lora" and not has_base(keys):
        return "adapter"
    return "mimi" if layout.startswith("mimi") else "lm"


def _choose(folder: Path, paths: Sequence[Path], named: object, what: str) -> Path | None:
    """The one candidate, or the one that the configuration names."""
    for path in paths:
        if len(paths) == 1 or path.name == named:
            return path
    for path in paths:
        if path.name in WEIGHT_NAMES:
            return path
    if paths:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"{folder}: several {what} ({names}): name one of them")
    return None


def _nothing_found(folder: Path, wanted: str) -> str:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        return (
            f"{folder}: only pickles ({', '.join(pickles)}), which can run any code when loaded and are not read; "
            "convert one you trust with torch.load(..., weights_only=True) and safetensors.torch.save_file"
        )
    what = "a language model" if wanted == "lm" else "Mimi"
    return f"{folder}: no safetensors file of {what}, and no checkpoint of ours (a folder with params/)"


def _locate_hub(text: str, wanted: str) -> Located:
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?", text)
    if not found:
        raise InputError(f"{text}: expected hf://org/repo, with @revision or /file behind it where needed")
    repo, revision, name = found.groups()
    located = Located(text)
    for candidate in CONFIG_NAMES:
        if path := _download(repo, candidate, revision, text):
            located = Located(text, config=read_json(path), config_name=candidate)
            break
    settings = located.config or {}
    if settings.get("mimi_config_name") and (
        path := _download(repo, settings["mimi_config_name"], revision, text)
    ):
        located = dataclasses.replace(located, mimi_config=read_json(path))
    named = name or settings.get("moshi_name" if wanted == "lm" else "mimi_name")
    names = [str(named)] if named else DEFAULT_NAMES[wanted]
    for candidate in names:
        if candidate.startswith(("hf://", "file://")):
            other = locate(candidate, wanted)
            return dataclasses.replace(located, weights=other.weights, adapter=other.adapter)
        if path := _download(repo, candidate, revision, text):
            lora = settings.get("lora_name") if wanted == "lm" else None
            adapter = _download(repo, str(lora), revision, text) if lora else None
            return dataclasses.replace(located, weights=(path,), adapter=adapter)
    raise InputError(f"{text}: the repository has no {' or '.join(names)}")


def _download(repo: str, name: str, revision: str | None, text: str) -> Path | None:
    """A file of a repository, fetched or from the cache; None if the repository lacks it."""
    try:
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
    except hub_errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{text}: {name} is not in the cache and the hub cannot be reached: {_line(error)}"
        ) from None
    except hub_errors.EntryNotFoundError:
        return None
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError) as error:
        raise InputError(f"{text}: {name} cannot be fetched: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
