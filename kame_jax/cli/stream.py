"""`kame-jax stream`: a recording or its codes in, the model's reply out, on the 80 ms clock of a live session."""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kame_jax.cli.common import add_common, check_output, emit, log, read_codes, reporter
from kame_jax.errors import InputError, WorkError

if TYPE_CHECKING:
    from jax.sharding import Mesh
    from sentencepiece import SentencePieceProcessor

    from kame_jax.decode import Sampling
    from kame_jax.demo.dialogues import SampleEntry
    from kame_jax.model import LM
    from kame_jax.oracle import OracleOp

SOUND_OPTIONS = ("llm", "log", "stt", "transcript", "picture", "tail")
"""Options that need a sound file."""


def add_parser(subparsers: Any) -> None:
    """Add `stream` to the command line."""
    parser = subparsers.add_parser(
        "stream",
        help="a recording in, the model's reply out",
        description=f"{__doc__} Without --checkpoint and --user: the bundled tiny model answers a bundled question.",
    )
    add = parser.add_argument
    add(
        "--checkpoint", metavar="CKPT", help="file, folder or hf://org/repo (default: the bundled tiny model)"
    )
    add("--user", metavar="IN", help="sound file, or .npz with user_audio (default: a bundled question)")
    add(
        "--sample",
        metavar="NAME",
        help="which bundled question, d002 and so on (default: the first held out)",
    )
    add("--out", metavar="OUT", default="reply.wav", help=".wav, or .npz for codes (default: %(default)s)")
    log_help = (
        "oracle log, JSON lines, or the records of oracle_raw/<id>.json; without it the oracle stays idle"
    )
    add("--oracle", metavar="LOG", help=log_help)
    tail = (
        "silence after the recording (default: until the model has finished speaking, at most 30 s); the "
        "reply is as much longer"
    )
    add("--tail", metavar="SECONDS", type=_seconds, help=tail)
    add("--channel", default="mix", help='of a sound file: 0, 1, ..., "left", "right" or "mix" (default)')
    add("--codec", metavar="MIMI", help="Mimi's weights (default: those next to the checkpoint)")
    add("--tokenizer", metavar="FILE", help="SentencePiece model (default: the one next to the checkpoint)")
    add("--picture", metavar="PNG", help="draw the four streams (sound only)")
    helper = (
        "a back end that thinks along: YAML with TandemConfig settings (a language model), faq:FILE (questions and "
        'answers, no network), or "sample" (the bundled question\'s own)'
    )
    add("--llm", metavar="NAME", help=helper)
    add(
        "--transcript",
        metavar="FILE",
        help="what the user says and when: JSON list of word, start, end (seconds)",
    )
    add("--speaker", metavar="NAME", help="whose words of the transcript (default: all)")
    recogniser = (
        "recognise the user's words instead: pocketsphinx (offline), whisper[:URL] or realtime[:URL] (OpenAI-compatible"
        " endpoints), kyutai:ws://HOST:PORT (moshi-server), kyutai:CKPT (Kyutai's weights, run here), or YAML with "
        "STTConfig settings"
    )
    add("--stt", metavar="NAME", help=recogniser)
    add("--log", metavar="FILE", help="write words, questions and oracle changes; --oracle FILE replays them")
    add("--tensor", metavar="N", type=int, default=1, help="devices that share the weights (default: 1)")
    add(
        "--condition",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a condition of the model; for a vector, an .npy file; NAME= says that it is not given",
    )
    add(
        "--guidance",
        type=float,
        default=1.0,
        help="classifier-free guidance towards the oracle; 1 is off (default)",
    )
    add(
        "--null-condition",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="condition that guidance leads away from (default: the same conditions)",
    )
    add("--int8-weights", action="store_true", help="round the weights to int8")
    add("--int8-cache", action="store_true", help="round the keys and values to int8")
    add("--greedy", action="store_true", help="the most likely tokens instead of sampling")
    add("--text-temperature", type=float, default=0.7, help="default: %(default)s")
    add("--text-top-k", type=int, default=25, help="default: %(default)s")
    add("--audio-temperature", type=float, default=0.8, help="default: %(default)s")
    add("--audio-top-k", type=int, default=250, help="default: %(default)s")
    add("--seed", type=int, default=4242, help="seed of the sampling (default: %(default)s)")
    add("--dtype", choices=("float32", "bfloat16"), help="dtype of the weights (default: the checkpoint's)")
    late = "oracle tokens that come after their frame: read next, or dropped as in the reference (default: queue)"
    add("--late", choices=("queue", "drop"), default="queue", help=late)
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Answer a recording."""
    from kame_jax.assets import TINY
    from kame_jax.cli.stream_sound import answer_sound, bundled_tandem
    from kame_jax.decode.own_voice import own_voice
    from kame_jax.demo.dialogues import ROOT
    from kame_jax.interop import load_checkpoint
    from kame_jax.interop.beside import find_tokenizer
    from kame_jax.oracle.text import load_tokenizer
    from kame_jax.tandem.sources import read_source

    args.checkpoint = args.checkpoint or str(TINY)
    bundled = args.user is None
    if args.sample and not bundled:
        raise InputError("--sample and --user exclude each other: each gives the user's input")
    if bundled:
        entry = _bundled_entry(args.sample)
        args.user, args.channel = str(next((ROOT / "audio").glob(f"{entry.id}.*"))), "right"
    sound = Path(args.user).suffix.lower() != ".npz"
    given = [name for name in SOUND_OPTIONS if getattr(args, name) is not None]
    if given and not sound:
        raise InputError(f"{args.user}: --{given[0]} needs a sound file, not codes")
    if args.llm and args.oracle:
        raise InputError("--llm and --oracle exclude each other: an oracle log is a back end's work already")
    if args.stt and args.transcript:
        raise InputError("--stt and --transcript exclude each other: each gives the user's words")
    args.source = read_source(args.stt) if args.stt else None
    check_output(args.out, ".wav", ".npz")
    for path in filter(None, (args.picture, args.log)):
        check_output(path)
    settings = _settings(args)
    mesh = _mesh(args.tensor)
    config, model = load_checkpoint(args.checkpoint, mesh=mesh, dtype=args.dtype)
    model = own_voice(model)
    if (args.oracle or args.llm) and config.oracle == "none":
        raise InputError(
            f"{args.checkpoint}: this model has no oracle embedding, but an oracle was requested"
        )
    if not sound:
        # Codes and token ids need no tokenizer, and a model for them may come without one.
        known = load_tokenizer(args.tokenizer) if args.tokenizer else None
        emit(args, _codes(args, model, settings, _read_ops(args, known, model), mesh))
        return
    tokenizer = load_tokenizer(args.tokenizer or find_tokenizer(args.checkpoint))
    if args.llm == "sample" and not bundled:
        raise InputError("--llm sample is about the bundled question: leave out --user, or give faq:FILE")
    tandem = bundled_tandem(entry) if args.llm == "sample" else None
    if bundled and args.llm and not (args.stt or args.transcript):
        args.transcript, args.speaker = str(ROOT / "text" / f"{entry.id}.json"), "B"
    if bundled and not args.llm and not args.oracle and config.oracle != "none":
        args.oracle = str(ROOT / "oracle_raw" / f"{entry.id}.json")
    ops = _read_ops(args, tokenizer, model)
    told = {"question": entry.question} if bundled else {}
    result = told | answer_sound(args, model, settings, tokenizer, ops, tandem, mesh)
    emit(args, result)
    if result["unanswered"]:
        raise WorkError(result["unanswered"])


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds from 0, got {text}")
    return seconds


def _mesh(tensor: int) -> Mesh | None:
    """Devices that share the weights; None is one alone."""
    import jax

    from kame_jax.sharding import make_mesh

    there = jax.devices()
    if not 1 <= tensor <= len(there):
        raise InputError(f"--tensor {tensor}: expected 1 to {len(there)}, the devices of this machine")
    return None if tensor == 1 else make_mesh(1, 1, tensor, there[:tensor])


def _bundled_entry(name: str | None) -> SampleEntry:
    from kame_jax.demo.dialogues import sample_entries

    entries = {entry.id: entry for entry in sample_entries("heldout")}
    if name is not None and name not in entries:
        raise InputError(
            f"--sample {name}: no bundled question that was held out; there are {', '.join(entries)}"
        )
    return entries[name or next(iter(entries))]


def _settings(args: argparse.Namespace) -> Sampling:
    from kame_jax.decode import greedy, sampling

    if not math.isfinite(args.guidance):
        raise InputError(f"--guidance is {args.guidance}, expected a finite number")
    if args.greedy:
        return greedy(1)
    try:
        return sampling(
            1,
            text_temperature=args.text_temperature,
            text_top_k=args.text_top_k,
            audio_temperature=args.audio_temperature,
            audio_top_k=args.audio_top_k,
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def _read_ops(
    args: argparse.Namespace, tokenizer: SentencePieceProcessor | None, model: LM
) -> list[OracleOp]:
    from kame_jax.decode.offline import read_oracle_log

    return read_oracle_log(args.oracle, tokenizer, model.config.text_card) if args.oracle else []


def _codes(
    args: argparse.Namespace, model: LM, settings: Sampling, ops: list[OracleOp], mesh: Mesh | None
) -> dict[str, Any]:
    """Codes in: exactly the frames that the reference's `LMGen` returns, as codes or as sound."""
    from kame_jax.cli.stream_sound import check_voice, join, open_engine, write_codes
    from kame_jax.codec.audio import write_audio
    from kame_jax.codec.mimi import prepare
    from kame_jax.codec.recording import decode_recording
    from kame_jax.interop import load_mimi
    from kame_jax.interop.beside import find_codec

    user = _user_codes(args.user, model)
    mimi = None
    if Path(args.out).suffix.lower() == ".wav":
        check_voice(args, model)
        if user.shape[1] <= model.config.max_delay:
            raise InputError(f"{args.user}: {user.shape[1]} frames are too few for a reply with sound")
        mimi = prepare(load_mimi(args.codec or find_codec(args.checkpoint)), model.config.dep_q)
    engine = open_engine(args, model, None, None, mesh)
    progress, said, wanted = reporter(), [], deque(ops)
    started = time.perf_counter()
    with join(args, engine, settings) as session:
        for step, codes in enumerate(user.T):
            while wanted and wanted[0].step <= step:
                session.change(wanted.popleft())
            said.append(session.push(codes).tokens)
            progress(step + 1, user.shape[1])
    wall = time.perf_counter() - started
    frames = [tokens for tokens in said if tokens is not None]
    tokens = np.array(frames, np.int32).reshape(len(frames), 1 + model.config.dep_q).T
    if mimi is None:
        write_codes(args.out, tokens)
    else:
        write_audio(args.out, decode_recording(mimi, tokens[None, 1:])[0], mimi.config.sample_rate)
    result = {"output": args.out, "frames": tokens.shape[1], "wall_seconds": round(wall, 2)}
    counts = session.counts if model.config.oracle != "none" else {}
    return result | {f"oracle_tokens_{name}": count for name, count in counts.items()}


def _user_codes(path: str, model: LM) -> np.ndarray:
    """What the user says: int32 `[user codebooks, frames]`."""
    rows, card = model.config.num_user_rows, model.config.card
    user = read_codes(path, ("user_audio",))
    if len(user) < rows:
        raise InputError(f"{path}: user_audio has {len(user)} codebooks, the model hears {rows}")
    if len(user) > rows:
        log(f"{path}: user_audio has {len(user)} codebooks, of which the model hears the first {rows}")
    user = user[:rows]
    if user.min() < 0 or user.max() > card:
        raise InputError(f"{path}: codes run from {user.min()} to {user.max()}, expected 0 to {card}")
    return user.astype(np.int32)
