"""`kame-jax convert inspect SOURCE`: what is this file? Layout, config, parameter counts, dtypes, surprises."""

from __future__ import annotations

import argparse
from typing import Any

from kame_jax.cli.common import emit
from kame_jax.cli.convert_common import add_source


def add_parser(subparsers: Any) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "inspect", help="layout, config, parameter counts, dtypes, surprises", description=__doc__
    )
    add_source(parser, "source")
    parser.add_argument("--headers", action="store_true", help="read only the headers, not the weights")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Print the report."""
    from kame_jax.interop.report import describe, inspect

    wanted = "mimi" if args.mimi else "lm"
    report = inspect(args.source, args.config, wanted, args.base, values=not args.headers)
    emit(args, report, describe(report))
