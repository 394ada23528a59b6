"""`kame-jax stream`: a recording or its codes in, the model's reply out, on the 80 ms clock of a live session."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kame_jax.cli.common import add_common, emit, log
from kame_jax.errors import InputError, WorkError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

    from kame_jax.decode import Sampling
    from kame_jax.demo.dialogues import SampleEntry
    from kame_jax.model import LM
    from kame_jax.oracle import OracleOp

REPORT_SECONDS = 5.0


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
    add("--oracle", metavar="LOG", help="oracle log, JSON lines; without it the oracle stays idle")
    add("--channel", default="mix", help='of a sound file: 0, 1, ..., "left", "right" or "mix" (default)')
    add("--codec", metavar="MIMI", help="Mimi's weights (default: those beside the checkpoint)")
    add("--tokenizer", metavar="FILE", help="SentencePiece model (default: the one beside the checkpoint)")
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
    add("--guidance", type=float, default=1.0, help="of the oracle over none; 1 is no guidance (default)")
    add("--int8-weights", action="store_true", help="round the weights to int8")
    add("--int8-cache", action="store_true", help="round the keys and values to int8")
    add("--greedy", action="store_true", help="the most likely tokens instead of sampling")
    add("--text-temperature", type=float, default=0.7, help="default: %(default)s")
    add("--text-top-k", type=int, default=25, help="default: %(default)s")
    add("--audio-temperature", type=float, default=0.8, help="default: %(default)s")
    add("--audio-top-k", type=int, default=250, help="default: %(default)s")
    add("--seed", type=int, default=4242, help="of the sampling (default: %(default)s)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the weights (default: the checkpoint's)")
    late = "oracle tokens that come after their frame: read next, or never, as the reference has it (default: queue)"
    add("--late", choices=("queue", "drop"), default="queue", help=late)
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Answer a recording."""
    from kame_jax.cli.stream_sound import answer_sound, bundled_tandem
    from kame_jax.decode.own_voice import own_voice
    from kame_jax.demo.dialogues import ROOT
    from kame_jax.interop import load_checkpoint
    from kame_jax.interop.beside import find_tokenizer
    from kame_jax.oracle.text import load_tokenizer
    from kame_jax.tandem.sources import read_source

    if not args.checkpoint:
        from kame_jax.assets import TINY

        args.checkpoint = str(TINY)
    bundled = args.user is None
    if args.sample and not bundled:
        raise InputError("--sample and --user exclude each other: each says what is heard")
    if bundled:
        entry = _bundled_entry(args.sample)
        args.user, args.channel = str(next((ROOT / "audio").glob(f"{entry.id}.*"))), "right"
    sound = not args.user.endswith(".npz")
    if Path(args.out).suffix != (".wav" if sound else ".npz"):
        raise InputError(
            f"{args.out}: the name must end in {'.wav' if sound else '.npz'}, as IN is {args.user}"
        )
    if (args.llm or args.log or args.stt or args.transcript) and not sound:
        raise InputError(f"{args.user}: --llm, --log, --stt and --transcript need a sound file, not codes")
    if args.llm and args.oracle:
        raise InputError("--llm and --oracle exclude each other: an oracle log is a back end's work already")
    if args.stt and args.transcript:
        raise InputError("--stt and --transcript exclude each other: each says what the user says")
    args.source = read_source(args.stt) if args.stt else None
    for path in (args.out, args.picture, args.log):
        if path and not Path(path).absolute().parent.is_dir():
            raise InputError(f"{path}: its folder does not exist")
    settings = _settings(args)
    config, model = load_checkpoint(args.checkpoint, dtype=args.dtype)
    model = own_voice(model)
    if (args.oracle or args.llm) and config.oracle == "none":
        raise InputError(
            f"{args.checkpoint}: this model has no oracle embedding, and an oracle was asked for"
        )
    if not sound:
        # Codes and token ids need no tokenizer, and a model for them may come without one.
        known = load_tokenizer(args.tokenizer) if args.tokenizer else None
        emit(args, _codes(args, model, settings, _read_ops(args, known, model)))
        return
    tokenizer = load_tokenizer(args.tokenizer or find_tokenizer(args.checkpoint))
    told: dict[str, Any] = {}
    if bundled:
        told = {"question": entry.question}
    if args.llm == "sample" and not bundled:
        raise InputError("--llm sample is about the bundled question: leave out --user, or give faq:FILE")
    tandem = bundled_tandem(entry) if args.llm == "sample" else None
    if bundled and args.llm and not (args.stt or args.transcript):
        args.transcript, args.speaker = str(ROOT / "text" / f"{entry.id}.json"), "B"
    if bundled and not args.oracle and not args.llm:
        ops = _bundled_ops(entry.id, tokenizer)
    else:
        ops = _read_ops(args, tokenizer, model)
    result = told | answer_sound(args, model, settings, tokenizer, ops, tandem, _reporter())
    emit(args, result)
    if result["unanswered"]:
        raise WorkError(result["unanswered"])


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


def _bundled_ops(name: str, tokenizer: SentencePieceProcessor) -> list[OracleOp]:
    """The oracle of a bundled dialogue, as its recording has it."""
    from kame_jax.data.dialogue import read_dialogue
    from kame_jax.demo.dialogues import ROOT
    from kame_jax.oracle import OracleOp
    from kame_jax.oracle.text import encode_oracle
    from kame_jax.streams import FRAME_RATE

    records: Any = read_dialogue(ROOT, name).oracle or []
    return [
        OracleOp(
            int(r["timestamp_ms"] * FRAME_RATE / 1000),
            "replace",
            tuple(encode_oracle(tokenizer, r["prediction"])),
        )
        for r in records
    ]


def _oracle_row(
    args: argparse.Namespace, model: LM, ops: list[OracleOp], steps: int
) -> tuple[np.ndarray | None, Any]:
    from kame_jax.oracle import OracleSchedule

    config = model.config
    if config.oracle == "none":
        return None, None
    schedule = OracleSchedule(config.text_card, config.text_padding_id, late=args.late)
    row, state = schedule.play(ops, steps)
    return row[None], state


def _codes(args: argparse.Namespace, model: LM, settings: Sampling, ops: list[OracleOp]) -> dict[str, Any]:
    """Codes in, codes out: exactly the frames that the reference's `LMGen` returns."""
    import jax

    from kame_jax.decode.offline import generate
    from kame_jax.files import write_whole

    user = _read_codes(args.user, model)
    oracle, state = _oracle_row(args, model, ops, user.shape[1])
    started = time.perf_counter()
    keys = jax.random.key(args.seed)[None]
    tokens = generate(model, user[None], oracle, settings, keys, progress=_reporter())[0]
    wall = time.perf_counter() - started
    write_whole(args.out, lambda file: np.savez(file, text=tokens[0], audio=tokens[1:]))
    return _result(args, tokens.shape[1], wall, state)


def _read_codes(path: str, model: LM) -> np.ndarray:
    rows, card = model.config.num_user_rows, model.config.card
    try:
        with np.load(path, allow_pickle=False) as file:
            user = file["user_audio"]
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as an .npz with user_audio: {error}") from None
    if user.ndim != 2 or user.shape[0] != rows or not np.issubdtype(user.dtype, np.integer):
        raise InputError(
            f"{path}: user_audio is {user.dtype} {list(user.shape)}, expected integers [{rows}, frames]"
        )
    if user.size and (user.min() < 0 or user.max() > card):
        raise InputError(f"{path}: codes run from {user.min()} to {user.max()}, expected 0 to {card}")
    return user.astype(np.int32)


def _result(args: argparse.Namespace, frames: int, wall: float, state: Any) -> dict[str, Any]:
    result = {"output": args.out, "frames": frames, "wall_seconds": round(wall, 2)}
    if state is not None:
        names = ("read", "erased", "late", "overflow")
        result |= {f"oracle_tokens_{name}": int(getattr(state, name)) for name in names}
    return result


def _reporter() -> Any:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            log(f"frame {done} of {total}")

    return report
