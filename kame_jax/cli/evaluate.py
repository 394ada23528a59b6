"""`kame-jax evaluate`: losses and accuracies of a checkpoint over a data set, with its oracle and with an idle one.

Sums go over all tokens of the data set before anything is divided. Names are those of kame_finetune; `idle/...` is the
same with an oracle that never says anything, `gap/...` what the oracle is worth.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kame_jax.cli.common import add_common, emit
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.data.cutting import Cut, Sample


def add_parser(subparsers: Any) -> None:
    """Add `evaluate` to the command line."""
    parser = subparsers.add_parser(
        "evaluate", help="losses and accuracies of a checkpoint on a data set", description=__doc__
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="CKPT", help="run, folder, file or hf://org/repo")
    add(
        "--data",
        required=True,
        metavar="DATA",
        help="data set (SET:validation), or folder of dialogues or of records",
    )
    add(
        "--no-oracle",
        action="store_true",
        help="leave the oracle embedding out (kame_finetune without --use_oracle)",
    )
    add("--speakers", default="A", metavar="A,B", help="who is the model (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="rows at a time; changes no result (default: %(default)s)")
    add("--max-frames", type=int, help="cut longer dialogues into pieces of at most this many frames")
    add("--min-frames", type=int, help="leave shorter pieces out")
    add(
        "--tail",
        choices=("clear", "keep"),
        help="what a new oracle does to the rest of a longer one (default: as in the checkpoint's run)",
    )
    add(
        "--codec", metavar="MIMI", help="Mimi's weights, for dialogues (default: those beside the checkpoint)"
    )
    add(
        "--tokenizer",
        metavar="FILE",
        help="SentencePiece model, for dialogues (default: beside checkpoint or data)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the computation (default: %(default)s)",
    )
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    from kame_jax.config import LossConfig
    from kame_jax.data.cutting import make_samples
    from kame_jax.data.dataset_samples import open_samples
    from kame_jax.interop import load_checkpoint
    from kame_jax.sharding import make_mesh
    from kame_jax.train.corpus import Tokenizers, read_records, schedule_of
    from kame_jax.train.evaluation import make_evaluation
    from kame_jax.train.progress import Terminal
    from kame_jax.train.state import abstract_model, params_of

    speakers = _speakers(args.speakers)
    for name in ("batch_size", "max_frames", "min_frames"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    mesh = make_mesh()
    config, model = load_checkpoint(args.checkpoint, mesh=mesh, dtype=args.dtype)
    with Terminal() as terminal:
        cut, tail, rules = _rules(args)
        samples: Sequence[Sample] | None = open_samples(args.data, config, speakers, cut)
        if samples is None:
            records = read_records(
                args.data,
                config,
                lambda: Tokenizers(_tokenizer(args), _codec(args)),
                progress=lambda done, total, text: terminal.count(
                    f"tokenising {args.data}", done, total, text
                ),
                rules=rules,
                say=terminal.say,
            )
            samples = make_samples(records, config, speakers=speakers, cut=cut)
        if not len(samples):
            raise InputError(f"{args.data}: no piece has --min-frames {args.min_frames} frames")
        evaluate = make_evaluation(
            abstract_model(config, args.dtype),
            samples,
            schedule_of(config, tail),
            LossConfig(),
            mesh,
            batch_size=args.batch_size,
            use_oracle=not args.no_oracle,
            progress=lambda done, total: terminal.count("evaluating", done, total),
        )
        metrics = evaluate(params_of(model))
    result = {"checkpoint": args.checkpoint, "data": args.data, "samples": len(samples)} | metrics
    emit(args, result, _table(metrics))


def _rules(args: argparse.Namespace) -> tuple[Cut, str, str]:
    """How dialogues are cut, what a new oracle does, and by what rules they are tokenised.

    All this as in the checkpoint's own run, else as runs do by default.
    """
    from kame_jax.config import DataConfig, OracleConfig, load_run
    from kame_jax.data.cutting import Cut

    own = Path(args.checkpoint) / "config.yaml"
    run = load_run(own) if own.is_file() else None
    data, oracle = (run.data, run.oracle) if run else (DataConfig(), OracleConfig())
    cut = Cut(args.max_frames, args.min_frames, carry_oracle=data.carry_oracle, mask_fill=data.mask_fill)
    return cut, args.tail or oracle.tail, data.rules


def _speakers(text: str) -> list[str]:
    speakers = [name.strip() for name in text.split(",")]
    if not speakers or set(speakers) - {"A", "B"} or len(set(speakers)) < len(speakers):
        raise InputError(f"--speakers {text!r}: expected A, B or A,B")
    return speakers


def _tokenizer(args: argparse.Namespace) -> Path:
    from kame_jax.interop.beside import find_tokenizer
    from kame_jax.oracle.text import TOKENIZER_NAME, tokenizer_file

    if args.tokenizer:
        return tokenizer_file(args.tokenizer)
    try:
        return find_tokenizer(args.checkpoint)
    except InputError:
        beside = Path(args.data) / TOKENIZER_NAME
        if beside.is_file():
            return beside
        raise


def _codec(args: argparse.Namespace) -> str:
    from kame_jax.interop.beside import find_codec

    return args.codec or find_codec(args.checkpoint)


def _table(metrics: dict[str, float]) -> str:
    """The metrics for people: a row for each part, a column for each oracle."""
    columns = [prefix for prefix in ("", "idle/", "gap/") if f"{prefix}loss/total" in metrics]
    titles = {"": "recorded" if len(columns) > 1 else "", "idle/": "idle oracle", "gap/": "gap"}
    lines = [f"{'':<32}" + "".join(f"{titles[prefix]:>14}" for prefix in columns)]
    for name in (key for key in metrics if not key.startswith(("idle/", "gap/"))):
        cells = (metrics[prefix + name] for prefix in columns)
        lines.append(
            f"{name:<32}" + "".join(f"{x:>14.4f}" if math.isfinite(x) else f"{'-':>14}" for x in cells)
        )
    return "\n".join(lines)
