"""`kame-jax data`: from questions or recordings to training records, one action a step."""

from __future__ import annotations

import importlib
from typing import Any

ACTIONS = ("synthesize", "oracle", "tokenize", "build", "inspect")
"""Each is a module `data_<action>` of this folder with `add_parser(subparsers)`, in the order of the work."""


def add_parser(subparsers: Any) -> None:
    """Add `data` and its actions to the command line."""
    parser = subparsers.add_parser(
        "data", help="from questions or recordings to training records", description=__doc__
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name in ACTIONS:
        importlib.import_module(f"kame_jax.cli.data_{name}").add_parser(actions)
