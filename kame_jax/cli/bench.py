"""`kame-jax bench`: figures with their floor and ratio, on the device at hand."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from typing import Any

from kame_jax.cli.common import add_common, emit, log

BENCHES = ("convert", "decode", "codec", "loader", "train")
"""Each is a module of `kame_jax.bench`."""


def add_parser(subparsers: Any) -> None:
    """Add `bench` and what it measures to the command line."""
    parser = subparsers.add_parser("bench", help="figures with their floor and ratio", description=__doc__)
    benches = parser.add_subparsers(metavar="WHAT", required=True)
    for name in BENCHES:
        module = importlib.import_module(f"kame_jax.bench.{name}")
        bench = benches.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(bench)
        add_common(bench)
        bench.set_defaults(func=_runner(module))


def _runner(module: Any) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        result, text = module.measure(args, log)
        emit(args, result, text)

    return run
