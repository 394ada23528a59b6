"""Files of Hugging Face repositories, by `hf://org/repo[@revision][/file]`. A failure of the hub is one line."""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, errors

from kame_jax.errors import InputError

PREFIX = "hf://"
CONNECT_SECONDS = 10.0


class Unreachable(InputError):
    """The hub did not answer, or not with the file."""


@dataclass(frozen=True)
class Repository:
    """A repository at a revision."""

    name: str
    """`org/repo`."""
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")

    def find(self, name: str) -> Path | None:
        """A file of the repository, fetched or from the cache; None where it has no file of that name.

        Raises:
            InputError: the name leads out of the repository, or the hub cannot be reached.
        """
        if not name or name.startswith("/") or ".." in name.split("/") or "://" in name:
            raise InputError(f"{self}: {name!r} is not a file of the repository")
        try:
            if not isinstance(
                huggingface_hub.try_to_load_from_cache(self.name, name, revision=self.revision), str
            ):
                check_reachable()
            return Path(huggingface_hub.hf_hub_download(self.name, name, revision=self.revision))
        except errors.LocalEntryNotFoundError as error:
            raise Unreachable(
                f"{self}: {name} is not in the cache and the hub cannot be reached: {_line(error)}"
            ) from None
        except errors.EntryNotFoundError:
            return None
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            raise Unreachable(f"{self}: {name} cannot be fetched: {_line(error)}") from None


def check_reachable() -> None:
    """Without this check, a file that is not cached is requested for half a minute where there is no network.

    Raises:
        OSError: the hub's machine does not accept a connection.
    """
    place = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or urllib.request.getproxies():
        return
    port = place.port or {"http": 80}.get(place.scheme, 443)
    try:
        socket.create_connection((place.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        raise OSError(f"{place.hostname} cannot be reached: {error.strerror or error}") from None


def parse(text: str) -> tuple[Repository, str | None]:
    """The repository, and the file in it where one is named.

    Raises:
        InputError: `text` has another form.
    """
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?", text)
    if not found:
        raise InputError(f"{text}: expected hf://org/repo, optionally with @revision or /file after it")
    name, revision, file = found.groups()
    return Repository(name, revision), file


def fetch(text: str, usual: Sequence[str] = ()) -> Path:
    """The file that `hf://org/repo[@revision]/file` names.

    Args:
        text: the name.
        usual: files to look for, in this order, where `text` names a repository alone.

    Raises:
        InputError: no file is named, there is none, or the hub cannot be reached.
    """
    repository, file = parse(text)
    names = [file] if file else usual
    path = next((path for name in names if (path := repository.find(name))), None)
    if not names:
        raise InputError(f"{text}: names a repository, expected a file in it: {PREFIX}org/repo/file")
    if path is None:
        raise InputError(f"{repository}: the repository has no {' or '.join(names)}")
    return path


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
