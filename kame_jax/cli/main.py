"""`kame-jax`: finds the command, runs it, and turns every outcome into an exit status.

0 success; 1 failure at work; 2 bad usage, configuration or input file. A command is a module of this folder with
`add_parser(subparsers)`, which sets `run` as the parser's `func`. Its heavy imports belong inside `run`, so that
`--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

import kame_jax
from kame_jax.cli.common import log
from kame_jax.errors import InputError, WorkError, printable

COMMANDS = ("demo", "train", "evaluate", "plan", "stream", "codec", "convert", "data", "bench", "completion")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after one line on stderr."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser with the commands `names`, each added by its own module."""
    parser = Parser(prog="kame-jax", description=kame_jax.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kame-jax {kame_jax.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        importlib.import_module(f"kame_jax.cli.{name}").add_parser(subparsers)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; overrides (`a.b=c`) may stand before, between and after the options."""
    args, rest = parser.parse_known_args(argv)
    if rest and hasattr(args, "overrides") and all("=" in text and text[0] != "-" for text in rest):
        args.overrides = [*args.overrides, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit status."""
    with _plain_warnings():
        status = _run(list(sys.argv[1:] if argv is None else argv))
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the caller closed it
        try:
            stream.flush()
        except OSError as error:  # a full disk, or a reader that has gone as in `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if status == 0 and not isinstance(error, BrokenPipeError):
                _fail(f"kame-jax: {stream.name}: {error.strerror}", 1)
            status = status or 1
    return status


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings of the package are ordinary log lines, regardless of handlers that others give the root logger."""
    logger, handler = logging.getLogger("kame_jax"), _Lines()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log(record.getMessage())


def _run(argv: list[str]) -> int:
    # One command needs only its own module; the top-level help and a mistyped name need them all.
    names = argv[:1] if argv[:1] and argv[0] in COMMANDS else COMMANDS
    debug = bool(os.environ.get("KAME_JAX_DEBUG"))
    try:
        parser = build_parser(names)
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(parser)
        if not argv:
            parser.print_help()
            return 0
        args = parse(parser, argv)
        debug |= getattr(args, "debug", False)
        status: int | None = args.func(args)
    except SystemExit as stop:  # argparse has already said why
        return int(stop.code or 0)
    except InputError as error:
        return _fail(f"kame-jax: {error}", 2)
    except KeyboardInterrupt:
        return _fail("kame-jax: interrupted", 130)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, WorkError):
            return _fail(f"kame-jax: {error}", 1)
        reason = " ".join(str(error).split()) or "no message"
        return _fail(f"kame-jax: {type(error).__name__}: {reason} (--debug shows where)", 1)
    return status or 0


def _fail(line: str, status: int) -> int:
    """Say why on stderr, if anything reads it, and return the exit status."""
    with contextlib.suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
