"""`kame-jax convert verify CKPT REFERENCE.safetensors [--atol A]`: logits against reference outputs, per head."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kame_jax.cli.common import emit
from kame_jax.cli.convert_common import add_derived, add_source, open_source

if TYPE_CHECKING:
    from kame_jax.interop.verify import HeadResult


def add_parser(subparsers: Any) -> None:
    """Add the action."""
    parser = subparsers.add_parser("verify", help="logits against reference outputs", description=__doc__)
    add_source(parser, "checkpoint")
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
    add_derived(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Compare; status 1 when a head does not pass."""
    from kame_jax.interop.verify import verify

    checkpoint = open_source(args, args.checkpoint)
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
