"""Sound through `kame-jax stream`: one session of an engine, with an oracle log, a back end, or neither.

The conversation does not end with the recording: silence follows until the model has finished speaking.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kame_jax.cli.common import log, reporter
from kame_jax.errors import InputError
from kame_jax.files import regular_file

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from sentencepiece import SentencePieceProcessor

    from kame_jax.codec.mimi import Mimi
    from kame_jax.config import TandemConfig
    from kame_jax.decode import Sampling
    from kame_jax.decode.engine import Engine
    from kame_jax.decode.session import Frame, Session
    from kame_jax.demo.dialogues import SampleEntry
    from kame_jax.model import LM
    from kame_jax.oracle import OracleOp
    from kame_jax.tandem import Backend, Conversation, Transcript
    from kame_jax.tandem.tail import Tail


def answer_sound(
    args: argparse.Namespace,
    model: LM,
    settings: Sampling,
    tokenizer: SentencePieceProcessor,
    ops: list[OracleOp],
    backend: Backend | None,
    mesh: Mesh | None,
) -> dict[str, Any]:
    """Answers a recording, model frame t answering user frame t; the reply is as long, plus what follows the end.

    Args:
        args: the command's.
        model: the weights; the engine takes them over.
        settings: sampling of one row.
        tokenizer: of both text rows.
        ops: an oracle log.
        backend: the back end to use instead, or None to make the one that `args.llm` names.
        mesh: devices that share the weights.

    Raises:
        InputError: a file that cannot be used, or options that do not fit.
    """
    from kame_jax.codec.audio import read_audio, write_audio
    from kame_jax.config import TandemConfig
    from kame_jax.files import write_text
    from kame_jax.interop import load_mimi
    from kame_jax.interop.beside import find_codec
    from kame_jax.tandem import Conversation, TimedTranscript
    from kame_jax.tandem.backend import json_line
    from kame_jax.tandem.tail import Tail

    check_voice(args, model)
    config = free_to_ask() if backend is not None else TandemConfig()
    if backend is None and args.llm:
        backend, config = read_backend(args.llm)
    mimi = load_mimi(args.codec or find_codec(args.checkpoint))
    rate, size = mimi.config.sample_rate, mimi.config.frame_size
    audio = read_audio(args.user, rate, args.channel)
    transcript = _transcript(args, config, rate, len(audio) / rate)
    if backend is not None and transcript is None:
        raise InputError("a back end must know what the user says: give --transcript FILE or --stt NAME")
    heard = np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)
    log(f"{args.user}: {len(audio) / rate:.2f} s; compiling")
    engine = open_engine(args, model, mimi, tokenizer, mesh)
    events: list[dict[str, Any]] = []
    with join(args, engine, settings) as session:
        conversation = Conversation(session, transcript, backend, config, events.append, log)
        tail = Tail(conversation, heard, ops, args.tail)
        recognised = transcript is not None and not isinstance(transcript, TimedTranscript)
        paced = recognised or (backend is not None and not backend.immediate)
        started = time.perf_counter()
        out = asyncio.run(_converse(conversation, heard, ops, paced, tail))
        wall = time.perf_counter() - started
        said = session.words.text if session.words is not None else ""
        given = last_oracle(session.log, tokenizer)
    frames = tail.reply_frames(out)
    samples = len(audio) if frames == len(heard) else frames * size
    own = np.concatenate([frame.samples for frame in out if frame.samples is not None])[:samples]
    if Path(args.out).suffix.lower() == ".npz":
        tokens = [frame.tokens for frame in out if frame.tokens is not None]
        write_codes(args.out, np.stack(tokens[:frames], axis=1))
    else:
        write_audio(args.out, own, rate)
    if args.log:
        write_text(args.log, "".join(f"{json_line(event)}\n" for event in events))
    result = {
        "oracle": given,
        "said": said,
        "output": args.out,
        "frames": frames,
        "tail_seconds": round((frames - len(heard)) * size / rate, 2),
        "wall_seconds": round(wall, 2),
    }
    report = conversation.report()
    if args.picture:
        user = np.pad(audio, (0, len(own) - len(audio)))
        _draw(args, engine, user, own, out, transcript, events, report)
    if not said.strip() and conversation.unanswered is None:
        log(f"the model said nothing: {_why_silent(args, engine, events)}")
    if model.config.oracle == "none":
        result.pop("oracle")
        report = {name: value for name, value in report.items() if not name.startswith("oracle_")}
    return result | {
        name: round(value, 4) if isinstance(value, float) else value for name, value in report.items()
    }


def open_engine(
    args: argparse.Namespace,
    model: LM,
    mimi: Mimi | None,
    tokenizer: SentencePieceProcessor | None,
    mesh: Mesh | None,
) -> Engine:
    """The engine that the command's options describe.

    Raises:
        InputError: a condition that is missing or unknown, or options that do not fit.
    """
    from kame_jax.decode.engine import Engine, EngineOptions

    options = EngineOptions(
        int8_weights=args.int8_weights,
        int8_cache=args.int8_cache,
        guided=args.guidance != 1.0,
        late=args.late,
    )
    conditions = _conditions("--condition", args.condition, model)
    return Engine(model, mimi, tokenizer, options, conditions=conditions, mesh=mesh)


def join(args: argparse.Namespace, engine: Engine, settings: Sampling) -> Session:
    """The command's one session."""
    null = _conditions("--null-condition", args.null_condition, engine) if args.null_condition else None
    return engine.join(seed=args.seed, settings=settings, guidance=args.guidance, null_conditions=null)


def _conditions(option: str, pairs: Sequence[str], of: LM | Engine) -> dict[str, str | np.ndarray | None]:
    """Conditions as the command line has them; those of a model that has none of the name are left for it to refuse."""
    vectors = {config.name for config in of.config.conditioners if config.kind == "tensor"}
    found: dict[str, str | np.ndarray | None] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name in found:
            raise InputError(f"{option} {pair}: expected NAME=VALUE, each name once")
        found[name] = value or None
        if value and name in vectors:
            regular_file(value, "an .npy file")
            try:
                found[name] = np.load(value, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"{option} {pair}: cannot be read as an .npy file: {error}") from None
    return found


def check_voice(args: argparse.Namespace, model: LM) -> None:
    """Before a reply with sound.

    Raises:
        InputError: the model cannot speak.
    """
    if not model.config.dep_q:
        raise InputError(
            f"{args.checkpoint}: this model has no voice (dep_q 0), so there is no sound to write"
        )


def write_codes(path: str, tokens: np.ndarray) -> None:
    """Writes what the model said, int `[1 + codebooks, frames]`, as `text` and `audio` of an .npz file."""
    from kame_jax.files import write_whole

    write_whole(path, lambda file: np.savez(file, text=tokens[0], audio=tokens[1:]))


async def _converse(
    conversation: Conversation, heard: np.ndarray, ops: list[OracleOp], paced: bool, tail: Tail
) -> list[Frame]:
    """The whole recording and its tail; what the conversation used is closed."""
    try:
        return await conversation.run(list(heard), paced, ops, reporter(), tail)
    finally:
        if conversation.backend is not None:
            await conversation.backend.close()
        if conversation.transcript is not None:
            conversation.transcript.close()


def last_oracle(log: Sequence[OracleOp], tokenizer: SentencePieceProcessor) -> str | None:
    """The text of the last answer that the model was given; None where there was none."""
    from kame_jax.oracle.text import decode_text

    answer: list[int] = []
    for op in log:
        if op.op == "replace":
            answer = list(op.tokens)
        elif op.op == "append":
            answer += op.tokens
    return decode_text(tokenizer, answer) if answer else None


def _why_silent(args: argparse.Namespace, engine: Engine, events: Sequence[dict[str, Any]]) -> str:
    """The likeliest reason for a reply without a word."""
    from kame_jax.tandem.tail import REPLY_WAIT

    kinds = [event.get("event") or event["op"] for event in events]
    if args.llm and "heard" not in kinds:
        return "no word of the user was understood"
    if args.llm and "asked" not in kinds:
        return "the back end was never asked"
    if args.llm and "replace" not in kinds and "append" not in kinds:
        return "no answer came from the back end"
    if args.tail is not None and args.tail < REPLY_WAIT:
        return f"it may need a longer --tail than {args.tail:g} s"
    if engine.config.oracle != "none" and not args.llm and not args.oracle:
        return "it had no oracle; give --llm NAME with --stt NAME or --transcript FILE, or --oracle LOG"
    return "it found nothing to answer"


def read_backend(name: str) -> tuple[Backend, TandemConfig]:
    """The back end that `--llm` names, and the settings of its conversation.

    Raises:
        InputError: no such file, or everything that is wrong with it.
    """
    from kame_jax.config import TandemConfig, load_settings
    from kame_jax.tandem import Embedded, LanguageModel

    if name.startswith("faq:"):
        return Embedded.read(name.removeprefix("faq:")), free_to_ask()
    config = load_settings(TandemConfig, name)
    return LanguageModel(config), config


def free_to_ask() -> TandemConfig:
    """Settings of a back end that costs nothing: asked at every word."""
    from kame_jax.config import TandemConfig, TriggerConfig

    return TandemConfig(trigger=TriggerConfig(interval=0.0, new_words=1), max_questions_a_minute=100_000)


def bundled_tandem(entry: SampleEntry) -> Backend:
    """The bundled question's answer behind those of all other bundled questions, so that it must be heard to win."""
    from kame_jax.demo.dialogues import sample_entries
    from kame_jax.tandem import Embedded

    turns = [turn for other in sample_entries() for turn in other.turns if turn.question != entry.question]
    known = {turn.question: turn.answer.text for turn in turns}
    return Embedded([*known.items(), (entry.question, entry.answer.text)])


def _transcript(
    args: argparse.Namespace, config: TandemConfig, sample_rate: int, seconds: float
) -> Transcript | None:
    """What the user says in a recording of so many seconds."""
    from kame_jax.tandem import TimedTranscript
    from kame_jax.tandem.sources import open_source

    if not args.transcript:
        source = args.source or config.stt
        return None if source is None else open_source(source, sample_rate, config.pause)
    transcript = TimedTranscript.read(args.transcript, args.speaker, config.pause)
    after = [start for _, start, _ in transcript.words if start > seconds]
    if after:
        message = (
            f"{args.transcript}: {len(after)} of {len(transcript.words)} words begin after the recording's end "
            f"({seconds:.2f} s), the last at {max(after):g}; times are seconds from its beginning"
        )
        if 2 * len(after) > len(transcript.words):
            raise InputError(message)
        log(message)
    return transcript


def _draw(
    args: argparse.Namespace,
    engine: Any,
    audio: np.ndarray,
    own: np.ndarray,
    out: list[Frame],
    transcript: Transcript | None,
    events: Sequence[dict[str, Any]],
    report: dict[str, Any],
) -> None:
    from kame_jax.picture import Mark, conversation
    from kame_jax.tandem import TimedTranscript

    words = transcript.words if isinstance(transcript, TimedTranscript) else ()
    marks = [Mark(start, word) for word, start, _ in words]
    if transcript is not None:
        from kame_jax.tandem.picture import talk

        parts = (engine.tokenizer, engine.codec_config, engine.config, audio, own, out)
        talk(args.picture, *parts, events, report, marks)
        return
    conversation(
        args.picture,
        engine.tokenizer,
        engine.codec_config,
        engine.config,
        audio,
        own,
        np.array([frame.tokens[0] for frame in out if frame.tokens is not None]),
        None if engine.config.oracle == "none" else np.array([frame.oracle for frame in out]),
        user_words=marks,
    )
