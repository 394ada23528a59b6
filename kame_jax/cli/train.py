"""`kame-jax train`: trains a model, or continues where an earlier run in the same folder stopped.

Ctrl-C, SIGTERM and SIGHUP save a checkpoint first; the exit status is then 130 or 75, and the same command continues.
75 asks for that: it also ends a process of a run whose steps do not come back, or whose other processes are gone.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from kame_jax.cli.common import add_common, add_config, emit, read_config
from kame_jax.errors import PREEMPTED


def add_parser(subparsers: Any) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser("train", help="train a model, or continue a run", description=__doc__)
    add_config(parser)
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Train what the configuration says."""
    config = read_config(args)
    if config is None:
        return
    with _asks_again_when_stopped():
        from kame_jax.train.malloc import keep_freed_memory

        keep_freed_memory()
        from kame_jax.train.processes import connect

        connect()
        from kame_jax.train.loop import run

        result = run(config)
    emit(args, result, _text(result))


@contextlib.contextmanager
def _asks_again_when_stopped() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command with the status on which launchers repeat it, while there is nothing to save.

    Loading JAX and reading the data take a while; `train.signals` holds both back once the run has a state.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(PREEMPTED)

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _text(result: dict[str, Any]) -> str:
    """The result for people."""
    last = result["metrics"] or {}
    lines = [f"step {result['step']}: loss {last.get('loss/total', float('nan')):.4f}"]
    if result["step"] == result["resumed_from"]:
        lines[0] += " (the run had ended before: nothing was trained)"
    if result["evaluation"]:
        lines.append(f"evaluation of that step: loss {result['evaluation']['eval/loss/total']:.4f}")
    lines += [f"checkpoint: {result['checkpoint']}", f"curves: {result['plot']}"]
    return "\n".join(lines)
