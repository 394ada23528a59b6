"""What the actions of `kame-jax data` share: rules, shards, and a closing report that names what was left out."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kame_jax.cli.common import emit, log
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.config import LLMConfig
    from kame_jax.make.answers import Answers

T = TypeVar("T")

SHOWN = 20
"""Most problems in a result for scripts; all of them are on stderr."""


def add_rules(parser: argparse.ArgumentParser) -> None:
    """Add `--preset` and `--rule`; `kame_jax.make.rules.read_rules` reads them."""
    parser.add_argument(
        "--preset",
        choices=("kame-jax", "reference"),
        default="kame-jax",
        help="all corrections, or data exactly as kame_finetune makes it (default: %(default)s)",
    )
    parser.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="NAME=on|off",
        help="change one rule of the preset; may be given several times",
    )


def add_max_bad(parser: argparse.ArgumentParser) -> None:
    """Add `--max-bad`; `finish` reads it."""
    parser.add_argument(
        "--max-bad",
        type=int,
        default=0,
        metavar="N",
        help="how many dialogues may be left out before the exit status is 2 (default: 0); the rest is built anyway",
    )


async def with_answers(
    config: LLMConfig | None,
    cache: str | Path,
    shard: tuple[int, int],
    make: Callable[[Answers | None], Awaitable[T]],
) -> T:
    """What `make` makes with the language model of `config`; with none where that is None."""
    from kame_jax.make.answers import Answers

    if config is None:
        return await make(None)
    async with Answers(config, cache, f"{shard[0]}-of-{shard[1]}") as answers:
        return await make(answers)


def finish(
    args: argparse.Namespace,
    result: Mapping[str, Any],
    problems: Sequence[str],
    text: str | None = None,
    *,
    stopped: str | None = None,
) -> None:
    """Print the result, and fail when more was left out than was allowed, or the work was stopped.

    Args:
        args: with `max_bad`, and what `emit` reads.
        result: for scripts.
        problems: one line for each dialogue that was left out.
        text: for people.
        stopped: why the language model is no longer asked, where that happened.

    Raises:
        InputError: more than `--max-bad` dialogues were left out.
    """
    if stopped:
        problems = [*problems, f"stopped: {stopped}; run again to continue, nothing is asked twice"]
        log(problems[-1])
    bad = {"bad": len(problems), "problems": list(problems[:SHOWN])}
    emit(args, dict(result) | bad, None if text is None else f"{text}\nleft out: {len(problems)}")
    if len(problems) > args.max_bad:
        raise InputError(
            f"{len(problems)} left out, each named above; all others are done (--max-bad {len(problems)} accepts it)"
        )


def read_shard(text: str) -> tuple[int, int]:
    """`i/n` as (i, n).

    Raises:
        InputError: anything else.
    """
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise InputError(f"--shard {text}: expected i/n with 0 <= i < n, as 0/4")
    return int(first), int(count)
