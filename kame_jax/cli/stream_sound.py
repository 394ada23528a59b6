"""Sound through `kame-jax stream`: one session of an engine, with an oracle log, a back end, or neither."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kame_jax.cli.common import log
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

    from kame_jax.config import TandemConfig
    from kame_jax.decode import Sampling
    from kame_jax.decode.session import Frame
    from kame_jax.demo.dialogues import SampleEntry
    from kame_jax.model import LM
    from kame_jax.oracle import OracleOp
    from kame_jax.tandem import Backend, Conversation, Transcript


def answer_sound(
    args: argparse.Namespace,
    model: LM,
    settings: Sampling,
    tokenizer: SentencePieceProcessor,
    ops: list[OracleOp],
    backend: Backend | None,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Answers a recording: sound of the same length out, model frame t beside user frame t.

    Args:
        args: the command's.
        model: the weights; the engine takes them over.
        settings: sampling of one row.
        tokenizer: of both text rows.
        ops: an oracle log.
        backend: who answers instead, or None to make the one that `args.llm` names.
        progress: told the frames done and their total.

    Raises:
        InputError: a file that cannot be used, or options that do not fit.
    """
    from kame_jax.codec.audio import read_audio, write_audio
    from kame_jax.config import TandemConfig
    from kame_jax.decode.engine import Engine, EngineOptions
    from kame_jax.files import write_whole
    from kame_jax.interop import load_mimi
    from kame_jax.interop.beside import find_codec
    from kame_jax.tandem import Conversation, TimedTranscript
    from kame_jax.tandem.backend import json_line

    if not model.config.dep_q:
        raise InputError(
            f"{args.checkpoint}: this model has no voice (dep_q 0), so there is no sound to write"
        )
    config = free_to_ask() if backend is not None else TandemConfig()
    if backend is None and args.llm:
        backend, config = read_backend(args.llm)
    mimi = load_mimi(args.codec or find_codec(args.checkpoint))
    audio = read_audio(args.user, mimi.config.sample_rate, args.channel)
    transcript = _transcript(args, config, mimi.config.sample_rate)
    if backend is not None and transcript is None:
        raise InputError("a back end must know what the user says: give --transcript FILE or --stt NAME")
    size = mimi.config.frame_size
    frames = -(-len(audio) // size)
    heard = np.pad(audio, (0, frames * size - len(audio))).reshape(frames, size)
    # Later delays leave the last frames' answers for after the end.
    heard = np.concatenate([heard, np.zeros((max(model.config.max_delay - 1, 0), size), np.float32)])
    log(f"{args.user}: {len(audio) / mimi.config.sample_rate:.2f} s; compiling")
    options = EngineOptions(
        int8_weights=args.int8_weights,
        int8_cache=args.int8_cache,
        guided=args.guidance != 1.0,
        late=args.late,
    )
    engine = Engine(model, mimi, tokenizer, options)
    lines: list[str] = []
    with engine.join(seed=args.seed, settings=settings, guidance=args.guidance) as session:
        conversation = Conversation(
            session, transcript, backend, config, lambda event: lines.append(json_line(event)), log
        )
        recognised = transcript is not None and not isinstance(transcript, TimedTranscript)
        paced = recognised or (backend is not None and not backend.immediate)
        started = time.perf_counter()
        out = asyncio.run(_converse(conversation, heard, ops, paced, progress))
        wall = time.perf_counter() - started
        said = session.words.text if session.words is not None else ""
        given = last_oracle(session.log, tokenizer)
    own = np.concatenate([frame.samples for frame in out if frame.samples is not None])[: len(audio)]
    write_audio(args.out, own, mimi.config.sample_rate)
    if args.log:
        write_whole(args.log, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
    result = {
        "said": said,
        "oracle": given,
        "output": args.out,
        "frames": frames,
        "wall_seconds": round(wall, 2),
    }
    report = conversation.report()
    if args.picture:
        _draw(args, engine, audio, own, out, transcript, lines, report)
    if model.config.oracle == "none":
        report = {name: value for name, value in report.items() if not name.startswith("oracle_")}
    return result | {
        name: round(value, 4) if isinstance(value, float) else value for name, value in report.items()
    }


async def _converse(
    conversation: Conversation,
    heard: np.ndarray,
    ops: list[OracleOp],
    paced: bool,
    progress: Callable[[int, int], None],
) -> list[Frame]:
    """The whole recording; what the conversation used is closed."""
    try:
        return await conversation.run(list(heard), paced, ops, progress)
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


def _transcript(args: argparse.Namespace, config: TandemConfig, sample_rate: int) -> Transcript | None:
    from kame_jax.tandem import TimedTranscript
    from kame_jax.tandem.sources import open_source

    if args.transcript:
        return TimedTranscript.read(args.transcript, args.speaker, config.pause)
    source = args.source or config.stt
    return None if source is None else open_source(source, sample_rate, config.pause)


def _draw(
    args: argparse.Namespace,
    engine: Any,
    audio: np.ndarray,
    own: np.ndarray,
    out: list[Frame],
    transcript: Transcript | None,
    lines: list[str],
    report: dict[str, Any],
) -> None:
    from kame_jax.picture import Mark, conversation
    from kame_jax.tandem import TimedTranscript

    words = transcript.words if isinstance(transcript, TimedTranscript) else ()
    marks = [Mark(start, word) for word, start, _ in words]
    if transcript is not None:
        from kame_jax.tandem.picture import talk

        parts = (engine.tokenizer, engine.codec_config, engine.config, audio, own, out)
        talk(args.picture, *parts, [json.loads(line) for line in lines], report, marks)
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
