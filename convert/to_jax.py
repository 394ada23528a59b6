"""Any known layout to an Orbax checkpoint: `python convert/to_jax.py SOURCE DEST`.

The layout and the configuration are recognised, not asked for.
"""

from __future__ import annotations

import os
import sys

# This folder holds an `inspect.py`, which would hide Python's own from every import: search the project instead.
sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
from collections.abc import Sequence

from convert.common import add_model_options, make_parser, oracle_option, run
from kame_jax.checkpoint.native import Meta, save
from kame_jax.cli.common import emit, log
from kame_jax.interop.checkpoint import open_checkpoint
from kame_jax.model import tree


def convert(args: argparse.Namespace) -> None:
    """Read SOURCE, write DEST."""
    checkpoint = open_checkpoint(
        args.source,
        wanted="mimi" if args.mimi else "lm",
        config=args.config,
        base=args.base,
        lora=args.lora,
        oracle=oracle_option(args),
    )
    for note in checkpoint.notes:
        log(f"note: {note}")
    parameters = tree.count(checkpoint.weights.shapes)
    log(f"{checkpoint.name}: {checkpoint.layout}, {parameters:,} parameters")
    save(args.dest, checkpoint.weights, Meta(checkpoint.config, checkpoint.provenance))
    result = {
        "source": args.source,
        "dest": args.dest,
        "layout": checkpoint.layout,
        "parameters": parameters,
        "notes": checkpoint.notes,
    }
    emit(args, result, f"{args.dest}: {parameters:,} parameters, from {checkpoint.layout}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = make_parser(__doc__ or "")
    parser.add_argument(
        "source", help="safetensors file, folder, checkpoint of ours, or hf://org/repo[@revision]"
    )
    parser.add_argument("dest", help="folder to make")
    add_model_options(parser)
    return run(parser, convert, argv)


if __name__ == "__main__":
    sys.exit(main())
