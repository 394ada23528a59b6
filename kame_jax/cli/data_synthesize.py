"""`kame-jax data synthesize`: a question set to spoken two-speaker dialogues, for the other actions to read.

GSM8K, MMLU-Pro, HSSBench, MT-Bench and plain JSON lines (`question`, `answer`), local or `hf://datasets/...`. What
cannot be spoken is left out and counted by reason; `manifest.json` says which source items went in.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kame_jax.cli.common import add_common, log
from kame_jax.cli.data_common import add_max_bad, finish, read_shard, with_answers
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.config import LLMConfig, TTSConfig
    from kame_jax.make.answers import Answers
    from kame_jax.make.speech import Engine
    from kame_jax.make.synthesize import Recipe, SpokenItems

ESPEAK_VOICES = ("en+m3", "en-us+f3,en-us+m5,en+f2,en-us+f1")
KYUTAI_VOICES = (
    "expresso/ex03-ex01_happy_001_channel1_334s.wav",
    "expresso/ex04-ex02_default_001_channel1_354s.wav,expresso/ex04-ex02_default_001_channel2_354s.wav",
)
DIALOGUE_TOKENS = 500
"""Default of `max_tokens` here: a whole dialogue, where a live answer is a sentence or two."""
ENDPOINT_VOICES = ("alloy", "nova,echo,shimmer,onyx")


def add_parser(subparsers: Any) -> None:
    """Add `synthesize`."""
    parser = subparsers.add_parser(
        "synthesize", help="a question set to spoken dialogues", description=__doc__
    )
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help=".jsonl, .json or .parquet; or hf://datasets/owner/name/path[@revision]",
    )
    add("out", metavar="DIALOGUES", help="folder of dialogues: audio/, text/, manifest.json")
    add(
        "--format",
        choices=("gsm8k", "mmlu-pro", "hssbench", "mt-bench", "plain"),
        help="format of SOURCE (default: recognised)",
    )
    add("--llm", metavar="FILE", help="YAML of an endpoint that words the dialogues (default: templates)")
    add("--cache", metavar="DIR", help="where its answers are kept (default: DIALOGUES/llm_cache)")
    add(
        "--tts",
        metavar="NAME",
        default="espeak",
        help="who speaks: espeak (default; offline), openai (a server with /audio/speech), kyutai (moshi-server); or "
        "YAML with TTSConfig settings: prices, budget, retries",
    )
    add(
        "--tts-url",
        metavar="URL",
        help="address of that server: http://host:port/v1, or ws://host:port for kyutai",
    )
    add("--tts-model", default="tts-1", help="the model's name on that server (default: %(default)s)")
    add("--voices-a", metavar="V,V", help="voices of A, the model; one is drawn for each dialogue")
    add("--voices-b", metavar="V,V", help="voices of B, the user")
    add(
        "--lead",
        default="0.3:2.0",
        metavar="S:S",
        help="silence before the first word (default: %(default)s s)",
    )
    add(
        "--reply", default="0.2:0.8", metavar="S:S", help="silence between two turns (default: %(default)s s)"
    )
    add(
        "--hesitates", type=float, default=0.1, help="probability of a long pause between B's sentences (0.1)"
    )
    add("--max-words", type=int, default=80, help="most words of a question (default: 80)")
    add("--max-options", type=int, default=5, help="most options of a multiple choice (default: 5)")
    add("--limit", type=int, metavar="N", help="take only the first N items")
    add("--seed", type=int, default=0, help="seed of wording, voices and pauses (default: 0)")
    add("--shard", metavar="I/N", help="take every N-th item, so that N processes share the work")
    add_max_bad(parser)
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Make dialogues."""
    from kame_jax.config import LLMConfig
    from kame_jax.config.load import load_settings
    from kame_jax.make.rewrite import Limits
    from kame_jax.make.synthesize import Recipe, Timing

    for name in ("max_words", "max_options", "limit"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    if not 0 <= args.hesitates <= 1:
        raise InputError(f"--hesitates {args.hesitates}: expected 0 to 1")
    server = _server(args)
    known = {"espeak": ESPEAK_VOICES, "openai": ENDPOINT_VOICES, "kyutai": KYUTAI_VOICES}
    defaults = known["espeak" if server is None else server.source]
    voices = [
        tuple(name.strip() for name in (given or default).split(",") if name.strip())
        for given, default in zip((args.voices_a, args.voices_b), defaults)
    ]
    if not all(voices):
        raise InputError("--voices-a, --voices-b: expected at least one voice each")
    recipe = Recipe(
        (voices[0], voices[1]),
        args.seed,
        Limits(question=args.max_words, options=args.max_options),
        Timing(
            lead=_seconds("lead", args.lead), reply=_seconds("reply", args.reply), hesitates=args.hesitates
        ),
    )
    config = (
        load_settings(LLMConfig, args.llm, defaults={"max_tokens": DIALOGUE_TOKENS}) if args.llm else None
    )
    with contextlib.closing(_engine(server, [*voices[0], *voices[1]])) as engine:
        report = asyncio.run(_make(args, engine, recipe, config))
    result = {
        "dialogues": args.out,
        "made": report.made,
        "kept": report.kept,
        "hours": report.seconds / 3600,
        "refused": dict(report.refused),
        "stopped": report.stopped,
    }
    text = (
        f"{args.out}: {report.made} dialogues made, {report.kept} there already, {report.seconds / 3600:.2f} h\n"
        f"cannot be spoken: {', '.join(f'{k} {n:,}' for k, n in report.refused.items()) or 'none'}"
    )
    finish(args, result, report.problems, text, stopped=report.stopped)


def _seconds(name: str, text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise InputError(f"--{name} {text}: expected seconds, FROM:TO") from None


def _engine(server: TTSConfig | None, voices: list[str]) -> Engine:
    from kame_jax.make.speech import Espeak
    from kame_jax.make.speech_endpoint import SpeechEndpoint
    from kame_jax.make.speech_kyutai import KyutaiSpeech

    if server is None:
        espeak = Espeak()
        espeak.require(voices)
        return espeak
    return KyutaiSpeech(server) if server.source == "kyutai" else SpeechEndpoint(server)


def _server(args: argparse.Namespace) -> TTSConfig | None:
    """The text-to-speech server; None is espeak-ng.

    Raises:
        InputError: it has no address, or its settings are invalid (all problems in one list).
    """
    from kame_jax.config import TTSConfig, load_settings, validate
    from kame_jax.config.tts import SERVERS

    if args.tts == "espeak":
        return None
    if args.tts not in SERVERS:
        return load_settings(TTSConfig, args.tts)
    if not args.tts_url:
        raise InputError(f"--tts {args.tts} needs --tts-url, the address of the server")
    return validate(TTSConfig(args.tts, args.tts_url, args.tts_model))


async def _make(
    args: argparse.Namespace, engine: Engine, recipe: Recipe, config: LLMConfig | None
) -> SpokenItems:
    from kame_jax.make.synthesize import synthesize
    from kame_jax.train.progress import Terminal

    shard = read_shard(args.shard) if args.shard else (0, 1)
    with Terminal() as terminal:

        async def make(answers: Answers | None) -> SpokenItems:
            return await synthesize(
                args.source,
                args.out,
                engine,
                recipe,
                form=args.format,
                answers=answers,
                limit=args.limit,
                shard=shard,
                progress=lambda done, total, text: terminal.count("synthesising", done, total, text),
                say=log,
            )

        return await with_answers(config, args.cache or Path(args.out) / "llm_cache", shard, make)
