"""What belongs to a language model and is stored with it: its tokenizer, its codec, and its maker's usage settings."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kame_jax import hub
from kame_jax.checkpoint.native import native_kind, newest_step, read_meta
from kame_jax.config import MimiConfig
from kame_jax.interop.checkpoint import Checkpoint, open_checkpoint
from kame_jax.interop.layouts import holds
from kame_jax.interop.locate import MIMI_CONFIG_NAME, NAMES, locate
from kame_jax.interop.names import NamedTensors
from kame_jax.interop.places import Folder, NotThere, Place, find_named, read_config
from kame_jax.interop.safetensors_file import SafetensorsFile
from kame_jax.oracle.text import TOKENIZER_NAMES, load_tokenizer

REFERENCE = "hf://kyutai/moshiko-pytorch-bf16"
"""Where the reference's loader takes a tokenizer and a codec from if a checkpoint lacks them."""


def find_tokenizer(spec: str | os.PathLike[str]) -> Path:
    """The SentencePiece model of a checkpoint.

    Args:
        spec: the checkpoint, as `load_checkpoint` takes it. Searched: its folder and, for one of ours, the run folder
            above; or the files of its repository.

    Raises:
        NotThere: there is none.
        InputError: the one that the checkpoint names is not in its folder, or cannot be fetched.
    """
    for place in _places(spec):
        named = _settings(place).get("tokenizer_name")
        if named and (path := find_named(place, named)):
            return path
        for name in TOKENIZER_NAMES:
            if path := place.find(name):
                return path
        models = sorted(place.path.glob("*.model")) if isinstance(place, Folder) else []
        if len(models) == 1:
            return models[0]
    raise NotThere(
        f"{os.fspath(spec)}: no tokenizer next to it, expected {' or '.join(TOKENIZER_NAMES)}; give --tokenizer "
        f"(the reference's loader takes {REFERENCE}/{TOKENIZER_NAMES[1]})"
    )


def find_codec(spec: str | os.PathLike[str]) -> str:
    """Where Mimi's weights for a checkpoint are, as `load_mimi` takes it.

    Raises:
        NotThere: there are none.
        InputError: what the checkpoint names as its codec is not in its folder, or cannot be fetched.
    """
    for place in _places(spec):
        with contextlib.suppress(NotThere):
            locate(str(place), "mimi")
            return str(place)
    raise NotThere(
        f"{os.fspath(spec)}: no codec next to it, expected a safetensors file of Mimi; give --codec (the reference's "
        f"loader takes {REFERENCE}/{NAMES['mimi'][0]})"
    )


class Beside(NamedTuple):
    """The tokenizer and the codec of a checkpoint, to be copied with it."""

    tokenizer: Path | None
    codec: Path | None
    mimi_config: Mapping[str, Any] | None
    missing: tuple[str, ...]
    """Why one of them is missing, and where the reference takes it from."""

    @property
    def sources(self) -> dict[str, str]:
        """Where the copies come from, by what they are."""
        found = {"tokenizer": self.tokenizer, "codec": self.codec}
        return {what: str(path) for what, path in found.items() if path is not None}

    @property
    def lines(self) -> list[str]:
        """What a person should know about it."""
        return [*(f"{what} copied from {source}" for what, source in self.sources.items()), *self.missing]

    @property
    def names(self) -> dict[str, str]:
        """Names of the copies, by the key of `config.json` that names them."""
        names = {}
        if self.tokenizer is not None:
            usual = self.tokenizer.suffix == ".model"
            names["tokenizer_name"] = self.tokenizer.name if usual else TOKENIZER_NAMES[1]
        if self.codec is not None:
            names["mimi_name"] = NAMES["mimi"][0]
        if self.mimi_config is not None:
            names["mimi_config_name"] = MIMI_CONFIG_NAME
        return names

    def copy(self, folder: Path) -> None:
        """Copies what is available into a folder."""
        names = self.names
        for key, path in (("tokenizer_name", self.tokenizer), ("mimi_name", self.codec)):
            if path is not None:
                shutil.copyfile(path, folder / names[key])
        if self.mimi_config is not None:
            (folder / MIMI_CONFIG_NAME).write_text(json.dumps(self.mimi_config, indent=4) + "\n")


def find_beside(spec: str | os.PathLike[str], checkpoint: Checkpoint) -> Beside:
    """The tokenizer and the codec of an opened checkpoint, each checked; the codec itself has neither.

    Raises:
        InputError: a named or found tokenizer or codec is not one, or leads out of the checkpoint.
    """
    if isinstance(checkpoint.config, MimiConfig):
        return Beside(None, None, None, ())
    tokenizer = codec = mimi_config = None
    missing: list[str] = []
    try:
        tokenizer = find_tokenizer(spec)
        load_tokenizer(tokenizer)  # a link may lead to any file: only a tokenizer is copied
    except (NotThere, hub.Unreachable) as error:
        missing.append(error.message)
    try:
        found = locate(find_codec(spec), "mimi")
        if len(found.weights) != 1:
            raise NotThere(
                f"{found.name}: its codec is an Orbax checkpoint, which is not copied; give --codec"
            )
        [codec] = found.weights
        mimi_config = found.mimi_config
        if holds(NamedTensors(SafetensorsFile(codec)).infos) != "mimi":
            raise NotThere(f"{codec}: has the name of a codec but does not hold one; give --codec")
    except (NotThere, hub.Unreachable) as error:
        codec = None
        missing.append(error.message)
    return Beside(tokenizer, codec, mimi_config if codec else None, tuple(missing))


def loader_settings(spec: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """A section of the `config.json` that a checkpoint came with (`stt_config`, `lm_gen_config`); empty without one.

    A converted checkpoint remembers it.

    Raises:
        InputError: the checkpoint cannot be opened.
    """
    return dict((open_checkpoint(spec).provenance.get("config") or {}).get(name) or {})


def _places(spec: str | os.PathLike[str]) -> Iterator[Place]:
    """Where to look: the repository; or the checkpoint's folder and those above, as far as a run folder."""
    text = os.fspath(spec)
    if text.startswith(hub.PREFIX):
        yield hub.parse(text)[0]
        return
    path = Path(text.removeprefix("file://"))
    folder = path if path.is_dir() else path.parent
    yield Folder(folder)
    for above in list(folder.absolute().parents)[:2]:
        if (above / "checkpoints").is_dir():
            yield Folder(above)


def _settings(place: Place) -> Mapping[str, Any]:
    """The `config.json` of a checkpoint, or the one that a converted checkpoint came with."""
    config, _ = read_config(place)
    if config is None and isinstance(place, Folder):
        native = place.path if native_kind(place.path) else newest_step(place.path)
        config = read_meta(native).provenance.get("config") if native else None
    return config or {}
