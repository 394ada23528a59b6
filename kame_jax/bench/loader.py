"""`kame-jax bench loader`: how fast the pipeline makes training rows, per core, and whether its memory stays flat.

Two data sets of made-up records, one several times the other, are read through the same pipeline that `kame-jax train`
uses: shuffled, cut, delayed, augmented. CPU time is what counts: the figure is frames over CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kame_jax.bench.measure import Outcome, Say, check_positive, resident_bytes
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.data.records import Record

BAR = 200_000
"""Frames per second and core that the pipeline promises."""
GROWTH = 4
"""Times the dialogues of the second data set."""


HELP = "training rows per second and core"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--data", metavar="DATA", help="measure this data set (default: two made-up ones)")
    add("--frames", type=int, default=2048, help="frames of a row (default: 2048)")
    add("--batch-size", type=int, default=8, help="rows of a batch (default: 8)")
    add("--dialogues", type=int, default=64, help="dialogues of the smaller made-up data set (default: 64)")
    add("--seconds", type=float, default=5.0, help="how long to measure each (default: 5)")
    add("--threads", type=int, default=1, help="threads that make batches ahead (default: 1)")
    add("--config", default="kame_7b", help="the configuration of the rows' streams (default: kame_7b)")
    add("--scratch", metavar="DIR", help="where made-up data is kept while it is measured")


def measure(args: argparse.Namespace, say: Say) -> Outcome:
    """Measures two data sets, or the one that is named."""
    check_positive(args, "frames", "batch_size", "dialogues", "threads")
    with tempfile.TemporaryDirectory(prefix="kame_jax_bench_", dir=args.scratch) as folder:
        if args.data:
            paths = [args.data]
        else:
            paths = [
                _made(Path(folder) / str(count), count, args, say)
                for count in (args.dialogues, args.dialogues * GROWTH)
            ]
        measures = [_measure(path, args) for path in paths]
    best = measures[0]
    result = {
        "frames_per_second_per_core": best["frames_per_cpu_second"],
        "frames_per_second": best["frames_per_second"],
        "floor": BAR,
        "ratio": best["frames_per_cpu_second"] / BAR,
        "row_frames": args.frames,
        "batch_size": args.batch_size,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "measures": measures,
    }
    lines = [
        f"{result['frames_per_second_per_core']:,.0f} frames/s per core, {result['ratio']:.1f} times the {BAR:,} "
        f"asked for ({args.frames} frames a row; {result['machine']})"
    ]
    lines += [
        f"{m['samples']:>7,} samples, {m['data_bytes'] / 2**20:,.0f} MiB: {m['frames_per_second']:,.0f} frames/s, "
        f"memory {m['rss_start_bytes'] / 2**20:,.0f} MiB at the first batch, "
        f"{m['rss_end_bytes'] / 2**20:,.0f} MiB at the last"
        for m in measures
    ]
    return result, "\n".join(lines)


def _made(out: Path, dialogues: int, args: argparse.Namespace, say: Say) -> Path:
    """A data set of random dialogues, as long as two rows, an oracle event every half a second."""
    from kame_jax.config import load_run
    from kame_jax.make.dataset_writer import write_dataset

    model = load_run(args.config).model
    say(f"making {dialogues} dialogues")

    def records() -> Iterator[Record]:
        for i in range(dialogues):
            yield _record(i, 2 * args.frames - model.max_delay - 1, model)

    write_dataset(out, {"train": records}, {"codebooks": model.n_q // 2})
    return out


def _record(index: int, frames: int, model: Any) -> Record:
    from kame_jax.data.events import pack_events
    from kame_jax.data.records import Record

    rng = np.random.default_rng(index)
    tokens, events = {}, {}
    for speaker in "AB":
        text = np.where(rng.random(frames) < 0.7, 3, rng.integers(4, model.text_card, frames))
        codes = rng.integers(0, model.card, (model.n_q // 2, frames))
        tokens[speaker] = np.concatenate([text[None], codes]).astype(np.int32)
        positions = np.arange(6, frames, 6)
        answers = [rng.integers(4, model.text_card, 24) for _ in positions]
        ratio = rng.random(len(positions))
        events[speaker] = pack_events(positions, ratio, np.arange(len(positions)) % 9 == 8, answers, answers)
    return Record(f"d{index:06d}", tokens, events)


def _measure(path: str | Path, args: argparse.Namespace) -> dict[str, Any]:
    """Reads batches for a while."""
    from kame_jax.config import load_run
    from kame_jax.data.dataset import find_dataset
    from kame_jax.data.dataset_samples import open_samples
    from kame_jax.data.pipeline import longest, read_ahead, train_batches
    from kame_jax.train.corpus import cut_of, schedule_of

    run = load_run(args.config, [f"data.max_frames={args.frames}"])
    model = run.model.architecture
    samples = open_samples(path, model, cut=cut_of(run.data))
    if samples is None:
        raise InputError(f"{path}: not a data set, expected a folder that `kame-jax data build` made")
    batches = train_batches(
        samples,
        schedule_of(model, run.oracle.tail),
        batch_size=args.batch_size,
        length=longest(samples),
        seed=0,
        augment=run.oracle,
    )
    found = find_dataset(path)
    size = sum(f.stat().st_size for f in found[0].iterdir()) if found else 0
    reader = read_ahead(batches, 0, 10**9, threads=args.threads)
    next(reader)
    first, frames = resident_bytes(), 0
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < args.seconds:
        frames += int(next(reader)["frames"].sum())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "samples": len(samples),
        "data_bytes": size,
        "frames": frames,
        "frames_per_second": frames / wall,
        "frames_per_cpu_second": frames / cpu,
        "rss_start_bytes": first,
        "rss_end_bytes": resident_bytes(),
    }
