"""Where the files of a checkpoint are: a folder or a repository, and what a configuration may name in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kame_jax import hub
from kame_jax.errors import InputError
from kame_jax.files import read_json, regular_file

CONFIG_NAMES = ("config.json", "moshi_lm_kwargs.json")


class NotThere(InputError):
    """What was looked for is missing, as opposed to present but refused."""


@dataclass(frozen=True)
class Folder:
    """A folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def find(self, name: str) -> Path | None:
        """The regular file `name` of the folder, or None. A link may lead anywhere: the folder's owner made it.

        Raises:
            InputError: the name leads out of the folder, or there is something other than a regular file.
        """
        if not name or os.path.isabs(name) or ".." in Path(name).parts or "\0" in name:
            raise InputError(f"{self.path}: {name!r} is not a file of this folder")
        path = self.path / name
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: a link to {os.readlink(path)}, which does not exist")
        return regular_file(path, "a file") if path.exists() else None

    def holds(self, path: Path) -> bool:
        """Whether a file of the folder is inside it with all links resolved; in the hub's cache, inside the cache."""
        home = self.path.resolve()
        if home.parent.name == "snapshots":  # models--org--repo/snapshots/REVISION links to ../../blobs
            home = home.parent.parent
        return path.resolve().is_relative_to(home)


Place = Folder | hub.Repository


def find_named(place: Place, name: object) -> Path | None:
    """The file that a checkpoint's own configuration names: next to it, or `hf://org/repo/file` of another repository.

    A configuration is data from elsewhere: what it names must be inside the folder, links resolved.

    Raises:
        InputError: the name leads out of the checkpoint.
    """
    text = str(name)
    if text.startswith(hub.PREFIX):
        return hub.fetch(text)
    path = place.find(text.removeprefix("file://"))
    if path is not None and isinstance(place, Folder) and not place.holds(path):
        raise InputError(
            f"{path}: named by the checkpoint, but a link that leads out of its folder: copy the file there"
        )
    return path


def read_config(place: Place) -> tuple[Mapping[str, Any] | None, str]:
    """The configuration file of a checkpoint and its name; (None, "") without one.

    Raises:
        InputError: it exists and is not a JSON object.
    """
    for name in CONFIG_NAMES:
        if path := place.find(name):
            return read_json(path), name
    return None, ""
