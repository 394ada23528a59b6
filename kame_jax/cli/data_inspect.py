"""`kame-jax data inspect`: what a data set holds, in figures, and any of its records as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kame_jax.cli.common import add_common, log
from kame_jax.cli.data_common import add_max_bad, finish
from kame_jax.errors import InputError


def add_parser(subparsers: Any) -> None:
    """Add `inspect`."""
    parser = subparsers.add_parser(
        "inspect", help="figures of a data set, a record as a picture", description=__doc__
    )
    add = parser.add_argument
    add("data", metavar="DATA", help="a data set (DATA:validation names a split), records or parquet files")
    add("--picture", metavar="OUT.png", help="draw a record instead of counting")
    add("--record", metavar="ID", help="the record to draw (default: the first)")
    add("--speaker", choices=("A", "B"), default="A", help="the speaker shown as the model (default: A)")
    add("--seconds", metavar="FROM:TO", help="part of the record to draw")
    add("--tokenizer", metavar="FILE", help="SentencePiece model (default: the data set's)")
    add(
        "--bounds",
        choices=("paper", "released"),
        default="paper",
        help="of the hint levels (default: %(default)s)",
    )
    add_max_bad(parser)
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Inspect a data set."""
    from kame_jax.data.statistics import Statistics, describe
    from kame_jax.make.build import open_source
    from kame_jax.make.job import Job, Outcome
    from kame_jax.streams import FRAME_RATE
    from kame_jax.train.progress import Terminal

    source = open_source(args.data)
    if args.picture:
        _draw(args, source)
        return
    with Terminal() as terminal:
        job = Job(
            Outcome(),
            sum(1 for _ in source.names()),
            progress=lambda done, total, text: terminal.count(f"reading {args.data}", done, total, text),
            say=log,
        )
        figures = Statistics(
            args.bounds,
            source.facts.get("text_padding_id", 3),
            source.facts.get("text_end_padding_id", 0),
            source.facts.get("frame_rate", FRAME_RATE),
        )
        for name, read in source.items():
            with job.guard(name):
                figures.add(read())
            job.advance()
    result = figures.result()
    finish(
        args,
        {"data": args.data} | result | {"made_with": source.facts},
        job.outcome.problems,
        describe(result),
    )


def _draw(args: argparse.Namespace, source: Any) -> None:
    """Draw one record."""
    from kame_jax import picture
    from kame_jax.data.collate import oracle_row
    from kame_jax.data.cutting import Sample
    from kame_jax.oracle.schedule import OracleSchedule
    from kame_jax.oracle.text import load_tokenizer
    from kame_jax.streams import FRAME_RATE

    if Path(args.picture).suffix.lower() != ".png":
        raise InputError(f"--picture {args.picture}: the name must end in .png")
    tokenizer_path = args.tokenizer or source.tokenizer
    if tokenizer_path is None:
        raise InputError(f"{args.data}: has no tokenizer, name a SentencePiece model with --tokenizer")
    tokenizer = load_tokenizer(tokenizer_path)
    read = next((read for name, read in source.items() if args.record in (None, name)), None)
    if read is None:
        raise InputError(f"--record {args.record}: no such dialogue in {args.data}")
    record = read()
    rate = source.facts.get("frame_rate", FRAME_RATE)
    pad, end_pad = (
        source.facts.get(f"text_{name}", i) for name, i in (("padding_id", 3), ("end_padding_id", 0))
    )
    start, stop = _part(args.seconds, rate, record.frames)
    own, user = record.tokens[args.speaker], record.tokens["B" if args.speaker == "A" else "A"]
    sample = Sample(record.id, own, own, record.events[args.speaker])
    row = oracle_row(sample, OracleSchedule(tokenizer.vocab_size(), pad))
    picture.record(
        args.picture,
        tokenizer,
        title=f"{record.id}: {args.speaker} is the model",
        user=user[:, start:stop],
        own=own[:, start:stop],
        oracle=row[start:stop],
        frame_rate=rate,
        silent=(pad, end_pad),
    )
    finish(args, {"picture": args.picture, "record": record.id, "frames": stop - start}, [])


def _part(text: str | None, rate: float, frames: int) -> tuple[int, int]:
    if not text:
        return 0, frames
    first, _, last = text.partition(":")
    try:
        start, stop = round(float(first or 0) * rate), round(float(last) * rate) if last else frames
    except ValueError:
        raise InputError(f"--seconds {text}: expected FROM:TO, as 10:25") from None
    if not 0 <= start < min(stop, frames):
        raise InputError(f"--seconds {text}: expected a part of 0 to {frames / rate:.1f}")
    return start, min(stop, frames)
