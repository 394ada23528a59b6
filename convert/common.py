"""What the converter commands share: their common options, and how they end.

Progress goes to stderr; with `--json` the result is one JSON object, the last line of stdout. Exit status 0 done,
1 failed at work, 2 bad usage or input.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence

from kame_jax.cli.common import add_common
from kame_jax.errors import InputError
from kame_jax.interop.checkpoint import LORA_MODES, ORACLE_INITS


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every converter has."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    add_common(parser)
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
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options about adapters and the oracle embedding."""
    parser.add_argument("--base", metavar="SOURCE", help="the model that LoRA adapters belong to")
    parser.add_argument(
        "--lora",
        choices=LORA_MODES,
        default="merge",
        help="adapters: add them to the weights (default), or keep them",
    )
    parser.add_argument(
        "--oracle",
        choices=(*ORACLE_INITS, "none"),
        default="none",
        help="give a model without an oracle embedding one: a clone of its text embedding (as the reference does), "
        "or one that changes nothing while there is no oracle (default: none)",
    )


def oracle_option(args: argparse.Namespace) -> str | None:
    """The oracle initialisation that was asked for."""
    return None if args.oracle == "none" else args.oracle


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None,
) -> int:
    """Parse the command line, work, and turn every ending into an exit status."""
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has already said why
        return int(stop.code or 0)
    try:
        return work(args) or 0
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        reason = " ".join(str(error).split()) or "no message"
        print(f"{parser.prog}: {type(error).__name__}: {reason} (--debug shows where)", file=sys.stderr)
        return 1
