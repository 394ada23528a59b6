"""What the actions of `kame-jax convert` share: options, opening a source, and leaving nothing half-written."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from kame_jax.cli.common import add_common, log

if TYPE_CHECKING:
    from kame_jax.interop import Checkpoint

ORACLE_INITS = ("clone", "identity", "none")


def add_source(parser: argparse.ArgumentParser, name: str) -> None:
    """Add a checkpoint to read, and the options that say what it is."""
    add_common(parser)
    parser.add_argument(
        name, help="a safetensors file, a folder, an Orbax checkpoint of ours, or hf://org/repo[@revision]"
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the model's configuration, where the source has none: YAML, a ready name, or the reference's JSON",
    )
    parser.add_argument(
        "--mimi",
        action="store_true",
        help="the codec, where a folder or repository holds both it and a model",
    )
    parser.add_argument("--base", metavar="SOURCE", help="the model that LoRA adapters belong to")


def add_derived(parser: argparse.ArgumentParser) -> None:
    """Add how the source may be changed on the way: merged adapters, an oracle embedding."""
    parser.add_argument(
        "--lora",
        choices=("merge", "keep"),
        default="merge",
        help="adapters: add them to the weights (default), or keep them",
    )
    parser.add_argument(
        "--oracle",
        choices=ORACLE_INITS,
        default="none",
        help="give a model without an oracle embedding one: a clone of its text embedding (as the reference does), "
        "or one that changes nothing while there is no oracle (default: none)",
    )


def open_source(args: argparse.Namespace, spec: str) -> Checkpoint:
    """The checkpoint that the options describe; its notes go to stderr."""
    from kame_jax.interop import open_checkpoint

    checkpoint = open_checkpoint(
        spec,
        wanted="mimi" if args.mimi else "lm",
        config=args.config,
        base=args.base,
        lora=args.lora,
        oracle=None if args.oracle == "none" else args.oracle,
    )
    for note in checkpoint.notes:
        log(f"note: {note}")
    return checkpoint


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Lets a SIGTERM end the work like an error, so that what was half written is removed."""

    def stop(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
