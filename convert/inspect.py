"""What is this file: layout, config, parameter counts, dtypes, surprises. `python convert/inspect.py SOURCE`."""

from __future__ import annotations

import os
import sys

# This folder holds an `inspect.py`, which would hide Python's own from every import: search the project instead.
sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
from collections.abc import Sequence

from convert.common import make_parser, run
from kame_jax.cli.common import emit
from kame_jax.interop.report import describe, inspect


def show(args: argparse.Namespace) -> None:
    """Print the report."""
    report = inspect(args.source, args.config, "mimi" if args.mimi else "lm", args.base)
    emit(args, report, describe(report))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = make_parser(__doc__ or "")
    parser.add_argument(
        "source", help="safetensors file, folder, checkpoint of ours, or hf://org/repo[@revision]"
    )
    parser.add_argument("--base", metavar="SOURCE", help="the model that LoRA adapters belong to")
    return run(parser, show, argv)


if __name__ == "__main__":
    sys.exit(main())
