"""Whole recordings through the streaming codec, from and to host memory.

One compiled call of a fixed number of frames is run over and over, so that recordings of any length share it, an hour
takes no more device memory than a few seconds, and a caller can show progress.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kame_jax.codec.mimi import CHUNK_FRAMES, Mimi, decode_frame, encode_frame, init_state

Progress = Callable[[int, int], None]
"""Called with the frames done and their total."""

_encode = jax.jit(encode_frame, static_argnames="codebooks", donate_argnames="state")
_decode = jax.jit(decode_frame, donate_argnames="state")


def encode_recording(
    mimi: Mimi,
    audio: np.ndarray,
    *,
    codebooks: int | None = None,
    chunk: int = CHUNK_FRAMES,
    progress: Progress | None = None,
) -> np.ndarray:
    """Codes of a recording.

    Args:
        mimi: the weights, `prepare`d.
        audio: float32 `[batch, samples]`; the last frame is filled up with zeros.
        codebooks: how many, at most those stored (default: all).
        chunk: frames a call; 1 is what a live stream does, and gives the same codes.
        progress: told after every call.

    Returns:
        int32 `[batch, codebooks, frames]`.

    Raises:
        ValueError: no samples, or more codebooks than stored.
    """
    size = mimi.config.frame_size
    batch, samples = audio.shape
    if not samples:
        raise ValueError("audio must have at least one sample")
    frames = -(-samples // size)
    state = init_state(mimi, batch, frames=chunk)
    out = []
    for start in range(0, frames, chunk):
        piece = audio[:, start * size : (start + chunk) * size].astype(np.float32)
        piece = np.pad(piece, ((0, 0), (0, chunk * size - piece.shape[1])))
        codes, state = _encode(mimi, state, jnp.asarray(piece), codebooks=codebooks)
        out.append(np.asarray(codes))
        if progress:
            progress(min(start + chunk, frames), frames)
    return np.concatenate(out, axis=2)[:, :, :frames]


def decode_recording(
    mimi: Mimi, codes: np.ndarray, *, chunk: int = CHUNK_FRAMES, progress: Progress | None = None
) -> np.ndarray:
    """Audio of a recording.

    Args:
        mimi: the weights, `prepare`d.
        codes: int `[batch, codebooks, frames]`, each in `[0, bins)`.
        chunk: frames a call; 1 is what a live stream does, and gives the same audio.
        progress: told after every call.

    Returns:
        float32 `[batch, frames * frame_size]`.

    Raises:
        ValueError: no frames, more codebooks than stored, or a code outside the codebook.
    """
    bins, frames = mimi.config.quantizer.bins, codes.shape[2]
    if not frames:
        raise ValueError("codes must have at least one frame")
    if codes.min() < 0 or codes.max() >= bins:
        raise ValueError(f"codes must be in [0, {bins}), got {codes.min()} to {codes.max()}")
    state = init_state(mimi, codes.shape[0], frames=chunk)
    out = []
    for start in range(0, frames, chunk):
        piece = codes[:, :, start : start + chunk].astype(np.int32)
        piece = np.pad(piece, ((0, 0), (0, 0), (0, chunk - piece.shape[2])))
        audio, state = _decode(mimi, state, jnp.asarray(piece))
        out.append(np.asarray(audio))
        if progress:
            progress(min(start + chunk, frames), frames)
    return np.concatenate(out, axis=1)[:, : frames * mimi.config.frame_size]
