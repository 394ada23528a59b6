"""Back to PyTorch: `python convert/to_torch.py CKPT DEST --layout NAME`.

DEST becomes a folder with the weights and the configuration that the reference's loader takes.
"""

from __future__ import annotations

import os
import sys

# This folder holds an `inspect.py`, which would hide Python's own from every import: search the project instead.
sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
from collections.abc import Sequence

import numpy as np

from convert.common import add_model_options, make_parser, oracle_option, run
from kame_jax.cli.common import emit, log
from kame_jax.interop.checkpoint import open_checkpoint
from kame_jax.interop.export import LM_LAYOUTS, MIMI_LAYOUTS, export
from kame_jax.interop.safetensors_file import DTYPES

FLOATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def convert(args: argparse.Namespace) -> None:
    """Read CKPT, write DEST."""
    checkpoint = open_checkpoint(
        args.checkpoint,
        wanted="mimi" if args.mimi else "lm",
        config=args.config,
        base=args.base,
        lora=args.lora,
        oracle=oracle_option(args),
    )
    for note in checkpoint.notes:
        log(f"note: {note}")
    dtype: np.dtype | None = DTYPES[FLOATS[args.dtype]] if args.dtype else None
    files = export(checkpoint, args.dest, args.layout, fold_oracle=args.fold_oracle, dtype=dtype)
    result = {"dest": args.dest, "layout": args.layout, "files": [file.name for file in files]}
    emit(args, result, "\n".join(str(file) for file in files))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("checkpoint", help="checkpoint of ours, or any source that to_jax takes")
    parser.add_argument("dest", help="folder to make")
    parser.add_argument("--layout", required=True, choices=(*LM_LAYOUTS, *MIMI_LAYOUTS))
    parser.add_argument(
        "--fold-oracle",
        action="store_true",
        help="for moshi and moshi-fused: add the oracle's padding row to the text embedding and drop the oracle",
    )
    parser.add_argument(
        "--dtype", choices=tuple(FLOATS), help="cast the weights (default: keep each tensor's own)"
    )
    add_model_options(parser)
    return run(parser, convert, argv)


if __name__ == "__main__":
    sys.exit(main())
