"""`kame-jax data oracle`: what a back end would have said at each moment of recorded dialogues, as training data.

Six hint levels, an event every half second. Strategies: `hint` (the true reply, word by word), `random` (others'
replies, then the true one), `llm` (any OpenAI-compatible endpoint). Killed and started again, no call is made twice.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kame_jax.cli.common import add_common, log
from kame_jax.cli.data_common import add_max_bad, add_rules, finish, read_shard, with_answers
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.config import LLMConfig
    from kame_jax.make.answers import Answers
    from kame_jax.make.oracles import OracleRecipe, OraclesMade
    from kame_jax.make.random_oracle import Tokens


def add_parser(subparsers: Any) -> None:
    """Add `oracle`."""
    parser = subparsers.add_parser("oracle", help="simulated oracles for dialogues", description=__doc__)
    add = parser.add_argument
    add("dialogues", metavar="DIALOGUES", help="folder with text/<id>.json; oracle_raw/ is written there")
    add("--strategy", choices=("hint", "random", "llm"), default="hint", help="default: %(default)s")
    add("--interval", type=float, default=0.5, help="seconds between events (default: 0.5)")
    add("--bounds", choices=("paper", "released"), help="of the hint levels (default: the preset's)")
    add("--seed", type=int, default=0, help="seed of the random strategy (default: 0)")
    add(
        "--tokenizer",
        metavar="FILE",
        help="measures replies in tokens for the random strategy (default: words)",
    )
    add(
        "--pool",
        metavar="DIR",
        help="dialogues whose replies the random strategy shows (default: DIALOGUES); keep held-out ones out of it",
    )
    add("--raw-text", action="store_true", help="keep answers as they come (thinking tags, markup, digits)")
    add(
        "--context-chars", type=int, default=6000, help="of the conversation shown to a model (default: 6000)"
    )
    add(
        "--llm",
        metavar="FILE",
        help="YAML of the endpoint: model, base_url, prices, max_cost, max_concurrent, ...",
    )
    add("--cache", metavar="DIR", help="where answers are kept (default: DIALOGUES/llm_cache)")
    add("--out", metavar="DIR", help="where oracles are written (default: DIALOGUES/oracle_raw)")
    add("--overwrite", action="store_true", help="also make oracles again that exist")
    add("--shard", metavar="I/N", help="take every N-th dialogue, so that N processes share the work")
    add_rules(parser)
    add_max_bad(parser)
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Make oracles."""
    from kame_jax.config import LLMConfig
    from kame_jax.config.load import load_settings
    from kame_jax.make.oracles import OracleRecipe
    from kame_jax.make.rules import read_rules

    if args.interval <= 0 or args.context_chars < 1:
        raise InputError("--interval and --context-chars: expected a value above 0")
    changes = list(args.rule)
    if args.bounds:
        changes.append(f"paper_bounds={'on' if args.bounds == 'paper' else 'off'}")
    rules = read_rules(args.preset, changes)
    recipe = OracleRecipe(
        args.strategy,
        rules,
        args.interval,
        args.seed,
        normalise=not args.raw_text and args.preset != "reference",
        context_chars=args.context_chars,
    )
    config = None
    if args.strategy == "llm":
        if not args.llm:
            raise InputError("--strategy llm needs --llm FILE: a YAML file with at least `model: ...`")
        config = load_settings(LLMConfig, args.llm)
    shard = read_shard(args.shard) if args.shard else (0, 1)
    report = asyncio.run(_make(args, recipe, config, shard))
    result = {
        "oracles": args.out or str(Path(args.dialogues) / "oracle_raw"),
        "made": report.made,
        "kept": report.kept,
        "events": report.events,
        "events_by_level": report.levels,
        "unspeakable": report.empty,
        "without_reply": report.without_reply,
        "changes": dict(report.changes),
        "stopped": report.stopped,
    }
    text = (
        f"{result['oracles']}: {report.made} oracles made, {report.kept} there already, {report.events:,} events\n"
        f"by hint level: {'  '.join(f'{i}: {n:,}' for i, n in enumerate(report.levels))}\n"
        f"made speakable: {', '.join(f'{k} {n:,}' for k, n in report.changes.items()) or 'nothing to change'}"
    )
    if report.without_reply:
        text += (
            f"\n{report.without_reply:,} events left out: other dialogues have too few replies of that length"
        )
    finish(args, result, report.problems, text, stopped=report.stopped)


async def _make(
    args: argparse.Namespace, recipe: OracleRecipe, config: LLMConfig | None, shard: tuple[int, int]
) -> OraclesMade:
    from kame_jax.make.oracles import make_oracles
    from kame_jax.train.progress import Terminal

    with Terminal() as terminal:

        def progress(done: int, total: int, text: str) -> None:
            terminal.count(f"oracles for {args.dialogues}", done, total, text)

        async def make(answers: Answers | None) -> OraclesMade:
            return await make_oracles(
                args.dialogues,
                recipe,
                out=args.out,
                answers=answers,
                tokens=_tokens(args.tokenizer),
                pool=args.pool,
                shard=shard,
                overwrite=args.overwrite,
                progress=progress,
                say=log,
            )

        return await with_answers(config, args.cache or Path(args.dialogues) / "llm_cache", shard, make)


def _tokens(tokenizer: str | None) -> Tokens:
    """What replies are measured in."""
    if tokenizer is None:
        return str.split
    from kame_jax.oracle.text import load_tokenizer

    return load_tokenizer(tokenizer).encode
