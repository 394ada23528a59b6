"""`kame-jax bench convert`: what converting a checkpoint costs compared with copying its file.

Prints the floor (the copy), the measured time, their ratio, and the peak memory of each conversion.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from kame_jax.bench.measure import Outcome, Say

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


HELP = "conversion to Orbax and back, against copying the file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--source", metavar="FILE", help="a safetensors file to convert (default: one made up)"
    )
    parser.add_argument(
        "--config", default="kame_7b", help="the configuration of a made-up file (default: kame_7b)"
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16", help="dtype of a made-up file")
    parser.add_argument(
        "--scratch", metavar="DIR", default=None, help="where to work; needs three times the file's size"
    )


@dataclass(frozen=True)
class Conversion:
    """What one conversion took."""

    seconds: float
    peak_rss: int
    """Largest resident memory in bytes, file pages included."""
    peak_anonymous: int
    """Largest memory in bytes without what mirrors files; sampled, 0 where the system does not report it."""


def measure(args: argparse.Namespace, say: Say) -> Outcome:
    """There and back, each in its own process."""
    with tempfile.TemporaryDirectory(prefix="kame_jax_bench_", dir=args.scratch) as folder:
        scratch = Path(folder)
        source = Path(args.source) if args.source else make_checkpoint(scratch, args.config, args.dtype)
        size = source.stat().st_size
        say(f"{source.name}: {size:,} bytes; copying it")
        floor = _copy_seconds(source, scratch / "copy")
        say(f"copied in {floor:.1f} s; converting")
        forward = _measured(_to_jax, source, scratch / "jax")
        say(f"to_jax in {forward.seconds:.1f} s; converting back")
        if source.parent == scratch:
            source.unlink()  # three copies of a large file are enough
        back = _measured(_to_torch, scratch / "jax", scratch / "torch")
    rows = {"to_jax": forward, "to_torch": back}
    result = {
        "bytes": size,
        "floor_seconds": floor,
        **{
            name: {
                "seconds": m.seconds,
                "ratio": m.seconds / floor,
                "peak_rss": m.peak_rss,
                "peak_rss_ratio": m.peak_rss / size,
                "peak_anonymous": m.peak_anonymous,
                "peak_anonymous_ratio": m.peak_anonymous / size,
            }
            for name, m in rows.items()
        },
    }
    lines = [
        f"{size / 1e9:.2f} GB; floor: copying the file takes {floor:.1f} s ({size / 1e6 / floor:.0f} MB/s)",
        f"{'':<10}{'seconds':>9}{'x floor':>9}{'peak RSS':>12}{'x size':>8}{'anonymous':>12}{'x size':>8}",
    ]
    lines += [
        f"{name:<10}{m.seconds:>9.1f}{m.seconds / floor:>9.2f}{m.peak_rss / 1e9:>9.2f} GB{m.peak_rss / size:>8.2f}"
        f"{m.peak_anonymous / 1e9:>9.2f} GB{m.peak_anonymous / size:>8.2f}"
        for name, m in rows.items()
    ]
    return result, "\n".join(lines)


def make_checkpoint(folder: Path, config: str, dtype: str) -> Path:
    """A file with the names and sizes of a model in KAME's layout, filled with noise."""
    from kame_jax.config import load_model
    from kame_jax.interop import lm_tables
    from kame_jax.interop.layouts import Layout
    from kame_jax.interop.safetensors_file import DTYPES as KINDS
    from kame_jax.interop.safetensors_file import SafetensorsWriter, TensorInfo
    from kame_jax.interop.table import expand
    from kame_jax.model import tree

    model = load_model(config)
    slots = expand(lm_tables.written(model, Layout.KAME), tree.shapes(tree.abstract(model)))
    kind = KINDS[DTYPES[dtype]]
    infos = {key: TensorInfo(slot.shape, kind) for key, slot in slots.items()}
    largest = max(int(np.prod(info.shape)) for info in infos.values())
    noise = np.random.default_rng(0).standard_normal(largest, np.float32).astype(kind)
    path = folder / "model.safetensors"
    writer = SafetensorsWriter(path, infos)
    for key, info in infos.items():
        writer.write(key, noise[: int(np.prod(info.shape))].reshape(info.shape))
    writer.close()
    return path


def _copy_seconds(source: Path, target: Path) -> float:
    _forget(source)
    start = time.perf_counter()
    shutil.copyfile(source, target)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def _forget(path: Path) -> None:
    """Asks the system to drop a file from its cache, so that every measurement reads it from the disk."""
    if hasattr(os, "posix_fadvise"):
        for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _measured(work: Callable[[Path, Path], None], source: Path, target: Path) -> Conversion:
    """Runs a conversion in its own process."""
    _forget(source)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(work, source, target, theirs))
    process.start()
    anonymous = 0
    while not ours.poll(0.05) and process.is_alive():
        anonymous = max(anonymous, _anonymous_bytes(process.pid))
    if not ours.poll():
        raise RuntimeError(f"the conversion of {source} failed")
    seconds, peak = ours.recv()
    process.join()
    return Conversion(seconds, peak, anonymous)


def _child(work: Callable[[Path, Path], None], source: Path, target: Path, pipe: Connection) -> None:
    start = time.perf_counter()
    work(source, target)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send((seconds, peak))


def _anonymous_bytes(pid: int | None) -> int:
    """Memory of a process that is not a mirror of files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _to_jax(source: Path, target: Path) -> None:
    from kame_jax.checkpoint.native import Meta, save
    from kame_jax.interop.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(source)
    save(target, checkpoint.weights, Meta(checkpoint.config, checkpoint.provenance))


def _to_torch(source: Path, target: Path) -> None:
    from kame_jax.interop.checkpoint import open_checkpoint
    from kame_jax.interop.export import export

    checkpoint = open_checkpoint(source, lora="keep")
    export(checkpoint, target, checkpoint.provenance["source_layout"])
