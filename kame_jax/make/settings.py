"""JSON that commands keep beside what they make: written whole, and compared when they go on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kame_jax.errors import InputError
from kame_jax.files import write_text


def write_json(path: Path, value: Any) -> None:
    """Writes a file that gets its name only when it is complete."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def changed_settings(file: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of each setting that differs from `description`; None where it says nothing.

    Raises:
        InputError: it is not JSON.
    """
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: is not JSON: {error}") from None
    return {name: old.get(name) for name, value in description.items() if old.get(name) != value}
