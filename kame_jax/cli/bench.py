"""`kame-jax bench`: figures with their floor and ratio, on whatever device is there."""

from __future__ import annotations

import importlib
from typing import Any

BENCHES = ("convert", "decode", "loader", "train")
"""Each is a module `bench_<name>` of this folder with `add_parser(subparsers)`."""


def add_parser(subparsers: Any) -> None:
    """Add `bench` and what it measures to the command line."""
    parser = subparsers.add_parser("bench", help="figures with their floor and ratio", description=__doc__)
    benches = parser.add_subparsers(metavar="WHAT", required=True)
    for name in BENCHES:
        importlib.import_module(f"kame_jax.cli.bench_{name}").add_parser(benches)
