"""`kame-jax convert`: checkpoints of other programs to ours and back, and whether they are the same."""

from __future__ import annotations

import importlib
from typing import Any

ACTIONS = ("inspect", "to_jax", "to_torch", "verify")
"""Each is a module `convert_<action>` of this folder with `add_parser(subparsers)`."""


def add_parser(subparsers: Any) -> None:
    """Add `convert` and its actions to the command line."""
    parser = subparsers.add_parser(
        "convert", help="checkpoints of other programs to ours and back", description=__doc__
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name in ACTIONS:
        importlib.import_module(f"kame_jax.cli.convert_{name}").add_parser(actions)
