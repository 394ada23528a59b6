"""`kame-jax evaluate`: losses and accuracies of a checkpoint over a data set, with its oracle and with an idle one.

Sums go over all tokens of the data set before anything is divided. Names are those of kame_finetune; `idle/...` is the
same with an oracle that never says anything, `gap/...` is the difference, the oracle's worth. A checkpoint of a run is
evaluated with that run's settings: loss weights, pieces of dialogues, rules of the data.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kame_jax.cli.common import add_common, emit
from kame_jax.config.presets import RUN_PRESETS
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.config import DataConfig, LossConfig, OracleConfig
    from kame_jax.data.cutting import Sample


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
    add(
        "--speakers",
        metavar="A,B",
        help="speakers taken as the model (default: as in the checkpoint's run, else A)",
    )
    add("--batch-size", type=int, default=8, help="rows at a time; changes no result (default: %(default)s)")
    add(
        "--max-frames",
        type=int,
        help="cut longer dialogues into pieces of at most this many frames (default: as the checkpoint's run)",
    )
    add("--min-frames", type=int, help="leave shorter pieces out (default: as the checkpoint's run)")
    add(
        "--preset",
        choices=tuple(RUN_PRESETS),
        help="the rules of the data: corrected ones, or those of kame_finetune (default: as the checkpoint's run)",
    )
    add(
        "--tail",
        choices=("clear", "keep"),
        help="what a new oracle does to the rest of a longer one (default: as the preset or the checkpoint's run)",
    )
    add(
        "--condition",
        action="append",
        metavar="NAME=VALUE",
        help="a condition of the model, each once; NAME= for not given (default: as in the checkpoint's run)",
    )
    add(
        "--codec",
        metavar="MIMI",
        help="Mimi's weights, for dialogues (default: those next to the checkpoint)",
    )
    add(
        "--tokenizer",
        metavar="FILE",
        help="SentencePiece model, for dialogues (default: the one next to the checkpoint or the data)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the computation (default: %(default)s)",
    )
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Evaluate a checkpoint."""
    from kame_jax.data.cutting import make_samples
    from kame_jax.data.dataset_samples import open_samples
    from kame_jax.interop import load_checkpoint
    from kame_jax.sharding import make_mesh
    from kame_jax.train.corpus import Tokenizers, cut_of, read_records, schedule_of
    from kame_jax.train.evaluation import make_evaluation
    from kame_jax.train.progress import Terminal

    data, oracle, loss = _settings(args)
    cut = cut_of(data)
    mesh = make_mesh()
    config, model = load_checkpoint(args.checkpoint, mesh=mesh, dtype=args.dtype)
    with Terminal() as terminal:
        samples: Sequence[Sample] | None = open_samples(args.data, config, data.speakers, cut)
        if samples is None:
            records = read_records(
                args.data,
                config,
                lambda: Tokenizers(_tokenizer(args), _codec(args)),
                progress=lambda done, total, text: terminal.count(
                    f"tokenising {args.data}", done, total, text
                ),
                rules=data.rules,
                say=terminal.say,
            )
            samples = make_samples(records, config, speakers=data.speakers, cut=cut)
        if not len(samples):
            raise InputError(f"{args.data}: no piece has at least --min-frames {data.min_frames} frames")
        evaluate = make_evaluation(
            config,
            samples,
            schedule_of(config, oracle.tail),
            loss,
            mesh,
            batch_size=args.batch_size,
            use_oracle=oracle.use and not args.no_oracle,
            conditions=data.conditions,
            progress=lambda done, total: terminal.count("evaluating", done, total),
        )
        metrics = evaluate(model)
    result = {"checkpoint": args.checkpoint, "data": args.data, "samples": len(samples)} | metrics
    emit(args, result, _table(metrics))


def _settings(args: argparse.Namespace) -> tuple[DataConfig, OracleConfig, LossConfig]:
    """Of the checkpoint's own run, else as runs have them by default; the preset and the options win over both."""
    from kame_jax.config import DataConfig, LossConfig, OracleConfig, load_run

    run = next((load_run(file) for file in _run_settings(Path(args.checkpoint)) if file.is_file()), None)
    data, oracle, loss = (
        (run.data, run.oracle, run.loss) if run else (DataConfig(), OracleConfig(), LossConfig())
    )
    chosen: dict[str, dict[str, Any]] = {"data": {}, "oracle": {}}
    for key, value in RUN_PRESETS.get(args.preset, {}).items():
        section, name = key.split(".")
        chosen[section][name] = value
    for name in ("max_frames", "min_frames", "speakers"):
        value = getattr(args, name)
        if value is not None:
            chosen["data"][name] = _speakers(value) if name == "speakers" else _positive(name, value)
    if args.max_frames is not None:
        chosen["data"]["context"] = 0
    if args.condition:
        chosen["data"]["conditions"] = tuple(args.condition)
    if args.tail:
        chosen["oracle"]["tail"] = args.tail
    _positive("batch_size", args.batch_size)
    return dataclasses.replace(data, **chosen["data"]), dataclasses.replace(oracle, **chosen["oracle"]), loss


def _run_settings(checkpoint: Path) -> list[Path]:
    """Where the settings of a checkpoint's run may be: the run's folder, one of its checkpoints, or its average."""
    folders = [checkpoint]
    if checkpoint.parent.name == "checkpoints":
        folders.append(checkpoint.parent.parent)
    if checkpoint.name in ("checkpoints", "ema"):
        folders.append(checkpoint.parent)
    return [folder / "config.yaml" for folder in folders]


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InputError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    return value


def _speakers(text: str) -> tuple[str, ...]:
    speakers = tuple(name.strip() for name in text.split(","))
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
