"""`kame-jax convert to-torch CKPT DEST --layout NAME`: back to PyTorch.

DEST becomes a folder with the weights, the configuration that the reference's loader takes, tokenizer and codec.
"""

from __future__ import annotations

import argparse
from typing import Any

from kame_jax.cli.common import emit, log
from kame_jax.cli.convert_common import add_derived, add_source, open_source, terminable

DTYPES = ("float32", "bfloat16", "float16")


def add_parser(subparsers: Any) -> None:
    """Add the action."""
    parser = subparsers.add_parser(
        "to-torch", help="back to PyTorch, in a layout of choice", description=__doc__
    )
    add_source(parser, "checkpoint")
    parser.add_argument("dest", help="folder to make")
    parser.add_argument(
        "--layout", required=True, metavar="NAME", help="kame, moshi, mimi, ...; another name lists them all"
    )
    parser.add_argument(
        "--fold-oracle",
        action="store_true",
        help="for moshi and moshi-fused: fold the oracle's padding row into the text embedding and drop the oracle",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="cast the weights (default: keep each tensor's own)")
    add_derived(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Read CKPT, write DEST."""
    import jax.numpy as jnp

    from kame_jax.files import free_folder
    from kame_jax.interop.beside import find_beside
    from kame_jax.interop.export import export

    checkpoint = open_source(args, args.checkpoint)
    free_folder(args.dest)
    beside = find_beside(args.checkpoint, checkpoint)
    dtype = jnp.dtype(args.dtype) if args.dtype else None
    with terminable():
        files = export(
            checkpoint, args.dest, args.layout, fold_oracle=args.fold_oracle, dtype=dtype, beside=beside
        )
    for note in beside.lines:
        log(f"note: {note}")
    result = {
        "dest": args.dest,
        "layout": args.layout,
        "files": [file.name for file in files],
        "carried": beside.sources,
        "missing": beside.missing,
    }
    emit(args, result, "\n".join(str(file) for file in files))
