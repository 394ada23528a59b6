"""Codes of many recordings at once, on all local devices. `make.tokens` makes records of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kame_jax.codec import mimi as codec

Encode = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Recordings float32 `[samples]` to their codes int32 `[codebooks, frames]`."""


def fingerprint(mimi: codec.Mimi) -> str:
    """A short name for a codec's weights."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(mimi):
        digest.update(np.asarray(leaf))
    return digest.hexdigest()[:16]


def batch_encoder(mimi: codec.Mimi, codebooks: int, rows: int = 16) -> Encode:
    """Codes of many recordings: longest first, `rows` at a time, cut over all local devices.

    Batches have few different shapes, so that few programs are compiled: rows are a power of two for each device, and
    lengths one or one and a half times a power of two of the codec's chunks.
    """
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("batch",))
    everywhere, cut = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    run = jax.jit(
        lambda m, audio: codec.encode(m, audio, codebooks), in_shardings=(everywhere, cut), out_shardings=cut
    )
    ready = jax.device_put(codec.prepare(mimi, codebooks), everywhere)
    size = mimi.config.frame_size
    most = len(devices) * _power(-(-rows // len(devices)))

    def encode(recordings: Sequence[np.ndarray]) -> list[np.ndarray]:
        order = sorted(range(len(recordings)), key=lambda i: -len(recordings[i]))
        codes: dict[int, np.ndarray] = {}
        for at in range(0, len(order), most):
            part = order[at : at + most]
            frames = -(-len(recordings[part[0]]) // size)
            chunks = _step(-(-frames // codec.CHUNK_FRAMES))
            count = min(most, len(devices) * _power(-(-len(part) // len(devices))))
            batch = np.zeros((count, chunks * codec.CHUNK_FRAMES * size), np.float32)
            for row, i in zip(batch, part):
                row[: len(recordings[i])] = recordings[i]
            for i, row in zip(part, np.asarray(run(ready, jax.device_put(jnp.asarray(batch), cut)))):
                codes[i] = row[:, : -(-len(recordings[i]) // size)].astype(np.int32)
        return [codes[i] for i in range(len(recordings))]

    return encode


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << max(count - 1, 0).bit_length()


def _step(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, ..."""
    whole = _power(count)
    return whole * 3 // 4 if whole >= 4 and count <= whole * 3 // 4 else whole
