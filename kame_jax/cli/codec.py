"""`kame-jax codec encode | decode`: Mimi alone, between wav files and codes."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from kame_jax.cli.common import add_common, check_output, emit, log, read_codes, reporter
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.codec.mimi import Mimi

DEFAULT_CODEBOOKS = 8
"""How many Moshi and KAME use of the released Mimi's 32."""
CODE_NAMES = ("codes", "audio", "user_audio")
"""Names under which `decode` looks for codes: any tool's, what `kame-jax stream` writes, and what it reads."""


def add_parser(subparsers: Any) -> None:
    """Add `codec` and its two actions to the command line."""
    parser = subparsers.add_parser("codec", help="Mimi alone: sound to codes and back")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    encode = actions.add_parser("encode", help="wav to codes", description=_encode.__doc__)
    encode.add_argument("input", metavar="IN.wav", help="sound file: any rate, any number of channels")
    encode.add_argument("output", metavar="OUT.npz", help="codes, int32 [codebooks, frames]")
    encode.add_argument(
        "--channel",
        default="mix",
        help='which channel: 0, 1, ..., "left", "right" or "mix" (default), their mean',
    )
    encode.add_argument(
        "--codebooks", type=int, help=f"how many (default: {DEFAULT_CODEBOOKS}, or all if fewer are stored)"
    )
    encode.set_defaults(func=_encode)

    decode = actions.add_parser("decode", help="codes to wav", description=_decode.__doc__)
    decode.add_argument(
        "input", metavar="IN.npz", help=f"codes under one of the names {', '.join(CODE_NAMES)}"
    )
    decode.add_argument("output", metavar="OUT.wav", help="16-bit wav, one channel")
    decode.add_argument("--codebooks", type=int, help="use only the first N (default: all in the file)")
    decode.set_defaults(func=_decode)

    for action in (encode, decode):
        action.add_argument(
            "--codec",
            metavar="MIMI",
            help="weights: file, folder or hf://org/repo, foreign or ours (default: the bundled tiny codec)",
        )
        action.add_argument(
            "--streaming", action="store_true", help="process frame by frame, as a live session does"
        )
        add_common(action)


def _encode(args: argparse.Namespace) -> None:
    """Turn a sound file into codes, stored under the name that `kame-jax stream` reads (`user_audio`)."""
    from kame_jax.codec.audio import read_audio
    from kame_jax.codec.recording import encode_recording
    from kame_jax.files import write_whole

    check_output(args.output, ".npz")
    mimi = _load(args.codec, args.codebooks)
    audio = read_audio(args.input, mimi.config.sample_rate, args.channel)
    start = time.perf_counter()
    codes = encode_recording(mimi, audio[None], chunk=_chunk(args, len(audio), mimi), progress=reporter())[0]
    wall = time.perf_counter() - start
    write_whole(args.output, lambda file: np.savez(file, user_audio=codes))
    emit(args, _result(args, codes, len(audio) / mimi.config.sample_rate, wall))


def _decode(args: argparse.Namespace) -> None:
    """Turn codes into a sound file."""
    from kame_jax.codec.audio import write_audio
    from kame_jax.codec.recording import decode_recording

    check_output(args.output, ".wav")
    codes = read_codes(args.input, CODE_NAMES)
    if args.codebooks is not None:
        if not 1 <= args.codebooks <= len(codes):
            raise InputError(
                f"--codebooks must be between 1 and {len(codes)}, those in {args.input}, got {args.codebooks}"
            )
        codes = codes[: args.codebooks]
    mimi = _load(args.codec, len(codes))
    bins = mimi.config.quantizer.bins
    if codes.min() < 0 or codes.max() >= bins:
        raise InputError(
            f"{args.input}: codes run from {codes.min()} to {codes.max()}, expected 0 to {bins - 1}"
        )
    start = time.perf_counter()
    chunk = _chunk(args, codes.shape[1] * mimi.config.frame_size, mimi)
    audio = decode_recording(mimi, codes[None], chunk=chunk, progress=reporter())[0]
    wall = time.perf_counter() - start
    clipped = write_audio(args.output, audio, mimi.config.sample_rate)
    if clipped:
        log(f"{clipped} of {len(audio)} samples were louder than full scale and were clipped")
    emit(args, _result(args, codes, len(audio) / mimi.config.sample_rate, wall) | {"clipped": clipped})


def _load(path: str | None, codebooks: int | None) -> Mimi:
    """Mimi's weights, ready for inference with `count` codebooks."""
    from kame_jax.assets import TINY
    from kame_jax.codec.mimi import prepare
    from kame_jax.interop import load_mimi

    if path is None:
        log(
            "no --codec: the bundled tiny codec is used; its codes mean nothing to other models than the bundled one"
        )
        path = str(TINY)
    mimi = load_mimi(path)
    stored = mimi.quantizer.count
    count = min(DEFAULT_CODEBOOKS, stored) if codebooks is None else codebooks
    if not 1 <= count <= stored:
        raise InputError(f"{path}: has {stored} codebooks, expected between 1 and that many, got {count}")
    return prepare(mimi, count)


def _chunk(args: argparse.Namespace, samples: int, mimi: Mimi) -> int:
    """Frames a call."""
    from kame_jax.codec.mimi import CHUNK_FRAMES

    return 1 if args.streaming else min(CHUNK_FRAMES, -(-samples // mimi.config.frame_size))


def _result(args: argparse.Namespace, codes: np.ndarray, seconds: float, wall: float) -> dict[str, Any]:
    """What scripts read."""
    return {
        "output": args.output,
        "codebooks": codes.shape[0],
        "frames": codes.shape[1],
        "seconds": round(seconds, 3),
        "wall_seconds": round(wall, 3),
        "streaming": args.streaming,
    }
