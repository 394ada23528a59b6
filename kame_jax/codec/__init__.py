"""Mimi, the neural audio codec, and the sound files around it."""

from kame_jax.codec.mimi import (
    Mimi,
    MimiState,
    decode,
    decode_frame,
    encode,
    encode_frame,
    init_state,
    prepare,
    reset,
)

__all__ = [
    "Mimi",
    "MimiState",
    "decode",
    "decode_frame",
    "encode",
    "encode_frame",
    "init_state",
    "prepare",
    "reset",
]
