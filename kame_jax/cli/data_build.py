"""`kame-jax data build`: records to a data set that training reads (ArrayRecord, described by TFDS), or to parquet.

Sources are folders of records, kame_finetune's parquet files, other data sets, and folders of dialogues, which are
tokenised first. A record with tokens outside the vocabulary is left out and named.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kame_jax.cli.common import add_common, log
from kame_jax.cli.data_common import add_max_bad, add_rules, finish
from kame_jax.cli.data_tokenize import add_tokenizing, tokenize_folder
from kame_jax.errors import InputError


def add_parser(subparsers: Any) -> None:
    """Add `build`."""
    parser = subparsers.add_parser("build", help="records to a data set", description=__doc__)
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="records, parquet files, data sets or dialogues")
    add("out", metavar="OUT", help="new folder of the data set; or prefix of parquet files, with --parquet")
    add("--parquet", action="store_true", help="write kame_finetune's parquet files")
    add(
        "--held-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the dialogues that go to the validation split",
    )
    add("--seed", type=int, default=0, help="seed of that choice (default: 0)")
    add(
        "--block-frames",
        type=int,
        default=4096,
        help="longer dialogues are stored in several blocks (default: 4096)",
    )
    add(
        "--card",
        type=int,
        default=2048,
        help="audio vocabulary of sources that do not state theirs (default: 2048)",
    )
    add("--text-card", type=int, default=32000, help="text vocabulary of those (default: 32000)")
    add("--tokens", metavar="RECORDS", help="where dialogues are tokenised to (default: OUT.tokens)")
    add_tokenizing(parser)
    add_rules(parser)
    add_max_bad(parser)
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Build a data set."""
    from kame_jax.files import free_folder
    from kame_jax.make.build import build_dataset, export_parquet, open_source
    from kame_jax.streams import FRAME_SECONDS
    from kame_jax.train.progress import Terminal

    if not 0 <= args.held_out < 1:
        raise InputError(f"--held-out {args.held_out}: expected a share of at least 0 and below 1")
    for name in ("block_frames", "card", "text_card"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: expected at least 1")
    if not args.parquet:
        free_folder(args.out)
    problems: list[str] = []
    sources = [open_source(path) for path in _tokenized(args, problems)]
    known = {"card": args.card, "text_card": args.text_card}
    with Terminal() as terminal:

        def progress(done: int, total: int, text: str) -> None:
            terminal.count(f"building {args.out}", done, total, text)

        if args.parquet:
            files, report = export_parquet(sources, args.out, known=known, progress=progress, say=log)
            result: dict[str, Any] = {"files": files}
            text = "\n".join(str(file) for file in files)
        else:
            report = build_dataset(
                sources,
                args.out,
                held_out=args.held_out,
                seed=args.seed,
                block_frames=args.block_frames,
                known=known,
                progress=progress,
                say=log,
            )
            result = {"data": args.out}
            text = f"{args.out}: " + ", ".join(
                f"{split} {counts['dialogues']:,} dialogues, {counts['frames'] * FRAME_SECONDS / 3600:.2f} h"
                for split, counts in report.splits.items()
            )
    finish(args, result | {"splits": report.splits}, problems + report.problems, text)


def _tokenized(args: argparse.Namespace, problems: list[str]) -> list[str]:
    """The sources, dialogues replaced by their records."""
    paths = []
    dialogues = [p for p in args.sources if (Path(p) / "audio").is_dir() and (Path(p) / "text").is_dir()]
    for path in args.sources:
        if path not in dialogues:
            paths.append(path)
            continue
        out = args.tokens or f"{args.out.rstrip('/')}.tokens"
        if len(dialogues) > 1:
            out = f"{out}/{Path(path).name}"
        report, _ = tokenize_folder(args, path, out)
        problems += report.problems
        paths.append(out)
    return paths
