"""Logits against reference outputs, per head: `python convert/verify.py CKPT REFERENCE.safetensors [--atol A]`."""

from __future__ import annotations

import os
import sys

# This folder holds an `inspect.py`, which would hide Python's own from every import: search the project instead.
sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import dataclasses
import math
from collections.abc import Sequence

from convert.common import add_model_options, make_parser, oracle_option, run
from kame_jax.cli.common import emit, log
from kame_jax.interop.checkpoint import open_checkpoint
from kame_jax.interop.verify import HeadResult, verify


def compare(args: argparse.Namespace) -> int:
    """Compare; status 1 when a head does not pass."""
    checkpoint = open_checkpoint(
        args.checkpoint, config=args.config, base=args.base, lora=args.lora, oracle=oracle_option(args)
    )
    for note in checkpoint.notes:
        log(f"note: {note}")
    results = verify(checkpoint, args.reference, args.atol, args.dtype)
    ok = all(result.ok for result in results)
    emit(args, {"ok": ok, "heads": [_entry(result) for result in results]}, _table(results, ok))
    return 0 if ok else 1


def _entry(result: HeadResult) -> dict[str, object]:
    entry = dataclasses.asdict(result) | {"ok": result.ok}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}


def _table(results: Sequence[HeadResult], ok: bool) -> str:
    lines = [f"{'head':<10}{'positions':>10}{'max error':>12}{'allowed':>12}{'scale':>10}{'same argmax':>13}"]
    for r in results:
        verdict = "" if r.ok else "  FAILED" if r.mask_equal else "  FAILED: other positions count"
        lines.append(
            f"{r.name:<10}{r.positions:>10}{r.max_error:>12.3g}{r.tolerance:>12.3g}{r.scale:>10.3g}"
            f"{r.same_argmax:>12.1%}{verdict}"
        )
    return "\n".join([*lines, "passed" if ok else "FAILED"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("checkpoint", help="checkpoint of ours, or any source that to_jax takes")
    parser.add_argument(
        "reference", nargs="+", help="safetensors with codes, logits, text_logits and their masks"
    )
    parser.add_argument(
        "--atol",
        type=float,
        help="largest allowed difference of a logit (default: 2e-5 of a head's scale in float32)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the computation (default: float32)",
    )
    add_model_options(parser)
    return run(parser, compare, argv)


if __name__ == "__main__":
    sys.exit(main())
