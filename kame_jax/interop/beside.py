"""What belongs to a language model and lies beside it: its tokenizer, its codec, and what its maker says of its use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors

from kame_jax.errors import InputError
from kame_jax.files import read_json
from kame_jax.interop.checkpoint import open_checkpoint
from kame_jax.interop.locate import locate, read_config

TOKENIZER_NAMES = ("tokenizer.model", "tokenizer_spm_32k_3.model")
"""Looked for where no `config.json` names one."""


def find_tokenizer(spec: str | os.PathLike[str]) -> Path:
    """The SentencePiece model of a checkpoint.

    Args:
        spec: the checkpoint, as `load_checkpoint` takes it. Looked at: its folder and, for one of ours, the run folder
            above; or the files of its repository.

    Raises:
        InputError: there is none.
    """
    text = os.fspath(spec)
    if text.startswith("hf://"):
        return _from_hub(text)
    for folder in _folders(Path(text)):
        settings, _ = read_config(folder)
        named = str((settings or {}).get("tokenizer_name") or "")
        if named.startswith("hf://"):
            return _from_hub(named)
        for name in (named.removeprefix("file://"), *TOKENIZER_NAMES):
            if name and (folder / name).is_file():
                return folder / name
    raise InputError(
        f"{text}: no tokenizer beside it, expected {' or '.join(TOKENIZER_NAMES)}; give --tokenizer"
    )


def find_codec(spec: str | os.PathLike[str]) -> str:
    """Where Mimi's weights for a checkpoint are, as `load_mimi` takes it.

    Raises:
        InputError: there are none.
    """
    text = os.fspath(spec)
    if text.startswith("hf://"):
        return text
    for folder in _folders(Path(text)):
        try:
            locate(folder, "mimi")
        except InputError:
            continue
        return str(folder)
    raise InputError(f"{text}: no codec beside it, expected a safetensors file of Mimi; give --codec")


def loader_settings(spec: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """A section of the `config.json` that a checkpoint came with (`stt_config`, `lm_gen_config`); empty without one.

    A converted checkpoint remembers it.

    Raises:
        InputError: the checkpoint cannot be opened.
    """
    return dict((open_checkpoint(spec).provenance.get("config") or {}).get(name) or {})


def _folders(path: Path) -> Iterator[Path]:
    """The checkpoint's folder, and those above as far as a run folder (`run/checkpoints/100`)."""
    folder = path if path.is_dir() else path.parent
    yield folder
    for above in list(folder.absolute().parents)[:2]:
        if (above / "checkpoints").is_dir():
            yield above


def _from_hub(text: str) -> Path:
    org, repo, *rest = text.removeprefix("hf://").split("/")
    repo, _, revision = repo.partition("@")
    names = ["/".join(rest)] if rest else list(TOKENIZER_NAMES)
    try:
        if not rest:
            settings = read_json(
                Path(
                    huggingface_hub.hf_hub_download(f"{org}/{repo}", "config.json", revision=revision or None)
                )
            )
            names = [str(settings["tokenizer_name"]), *names] if settings.get("tokenizer_name") else names
    except hub_errors.EntryNotFoundError:
        pass  # a repository without config.json has the default names
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(f"{org}/{repo}", name, revision=revision or None))
        except hub_errors.EntryNotFoundError:
            continue
    raise InputError(f"{text}: no tokenizer in this repository ({', '.join(names)}); give --tokenizer")
