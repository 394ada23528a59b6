"""Mimi, the neural audio codec: audio at 24 kHz to and from a few codebook indices every 80 ms.

Semantics: kyutai-labs/moshi `models/compression.py`. Pure functions over a `Mimi` and, where sound arrives piece by
piece, a `MimiState`; offline is the same code run over long pieces, so memory grows with the length, not its square.
Always float32, regardless of a file's dtype.

The parameter tree, for the released sizes (PyTorch's order of dimensions throughout; `s` counts stages, 4):

    encoder.first.{weight [64, 1, 7], bias}
    encoder.stages.{s}.blocks.{r}.conv1.{weight [C/2, C, 3], bias}
    encoder.stages.{s}.blocks.{r}.conv2.{weight [C, C/2, 1], bias}
    encoder.stages.{s}.down.{weight [2*C, C, 2*ratio], bias}
    encoder.last.{weight [512, 1024, 3], bias}
    decoder.first.{weight [1024, 512, 7], bias}
    decoder.stages.{s}.up.{weight [C, C/2, 2*ratio], bias}
    decoder.stages.{s}.blocks.{r}.conv1, conv2                   as in the encoder
    decoder.last.{weight [1, 64, 3], bias}
    encoder_transformer, decoder_transformer                     `kame_jax.model.transformer.Transformer`
    downsample.weight [512, 512, 4]                              upsample.weight [512, 1, 4]
    quantizer.{semantic, acoustic}.input_proj.weight [256, 512], .output_proj.weight [512, 256]
    quantizer.{semantic, acoustic}.codebooks.embedding_sum [K, 2048, 256], .cluster_usage [K, 2048], .initialized [K, 1]

with K = 1 semantic and n_q - 1 acoustic codebooks. `prepare` replaces the last line by divided centroids.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kame_jax.codec.conv import ConvTranspose1d, ReplicateConv1d
from kame_jax.codec.quantizer import SplitQuantizer
from kame_jax.codec.seanet import Decoder, Encoder, State
from kame_jax.config import MimiConfig
from kame_jax.model.attention import KVCache
from kame_jax.model.transformer import Transformer

CHUNK_FRAMES = 64
"""Frames that `encode` and `decode` take at once."""


class Mimi(nnx.Module):
    """The weights. See the top of the file for the tree, and the functions below for use.

    Raises:
        ValueError: the widths or rates of the config do not fit together.
    """

    def __init__(self, rngs: nnx.Rngs, config: MimiConfig):
        seanet, dim, steps = config.seanet, config.seanet.dim, config.steps_per_frame
        if config.transformer.dim != dim:
            raise ValueError(f"transformer.dim {config.transformer.dim} must equal seanet.dim {dim}")
        if steps < 2 or config.quantizer.n_q < 2:
            raise ValueError(
                f"a Mimi has at least 2 latent steps a frame and 2 codebooks, got {steps} and {config.quantizer.n_q}"
            )
        self.config = config
        self.encoder = Encoder(rngs, seanet)
        self.encoder_transformer = Transformer(rngs, config.transformer)
        self.downsample = ReplicateConv1d(rngs, dim, dim, 2 * steps, stride=steps, bias=False)
        self.quantizer = SplitQuantizer(rngs, dim, config.quantizer)
        self.upsample = ConvTranspose1d(rngs, dim, dim, steps, depthwise=True, bias=False)
        self.decoder_transformer = Transformer(rngs, config.transformer)
        self.decoder = Decoder(rngs, seanet)


class StreamState(NamedTuple):
    """The state of one direction of a batch of streams."""

    convs: State
    """Last inputs (or overlaps) of every convolution, each `[batch, ...]`."""
    offset: jax.Array
    """Transformer steps seen, int32 `[batch]`."""
    caches: list[KVCache]
    """One ring per transformer layer; which slots count follows from `offset`."""


class MimiState(NamedTuple):
    """A batch of streams in both directions; the two advance independently."""

    encoder: StreamState
    decoder: StreamState


def prepare(mimi: Mimi, codebooks: int | None = None) -> Mimi:
    """A copy for inference: float32, centroids divided, layers unstacked, the first `codebooks` (default: all) kept.

    Without it every call divides and slices again. The copy cannot be written back to a file.
    """
    copy: Mimi = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), mimi)
    count = _codebooks(mimi, codebooks)
    copy.encoder_transformer.unstack()
    copy.decoder_transformer.unstack()
    copy.quantizer.semantic.prepare(1)
    copy.quantizer.acoustic.prepare(count - 1)
    return copy


def encode(mimi: Mimi, audio: jax.Array, codebooks: int | None = None) -> jax.Array:
    """Codes of whole recordings.

    Args:
        mimi: the weights, `prepare`d or not.
        audio: float32 `[batch, samples]`; the last frame is filled up with zeros.
        codebooks: how many, at most those stored (default: all).

    Returns:
        int32 `[batch, codebooks, ceil(samples / frame_size)]`.

    Raises:
        ValueError: no samples, or more codebooks than stored.
    """
    if audio.ndim != 2 or not audio.shape[1]:
        raise ValueError(f"audio must be [batch, samples] with at least one sample, got shape {audio.shape}")
    size = mimi.config.frame_size
    batch, frames = audio.shape[0], -(-audio.shape[1] // size)
    chunk, count = _chunks(frames)
    audio = jnp.pad(audio, ((0, 0), (0, chunk * count * size - audio.shape[1])))
    state = init_state(mimi, batch, frames=chunk)

    def step(state: MimiState, audio: jax.Array) -> tuple[MimiState, jax.Array]:
        codes, state = encode_frame(mimi, state, audio, codebooks=codebooks)
        return state, codes

    _, codes = jax.lax.scan(step, state, audio.reshape(batch, count, chunk * size).swapaxes(0, 1))
    return codes.transpose(1, 2, 0, 3).reshape(batch, -1, count * chunk)[:, :, :frames]


def decode(mimi: Mimi, codes: jax.Array) -> jax.Array:
    """Audio of whole recordings.

    Args:
        mimi: the weights, `prepare`d or not.
        codes: int32 `[batch, codebooks, frames]`, each in `[0, bins)`; fewer codebooks than stored sound coarser.

    Returns:
        float32 `[batch, frames * frame_size]`.

    Raises:
        ValueError: no frames, or more codebooks than stored.
    """
    if codes.ndim != 3 or not codes.shape[2]:
        raise ValueError(
            f"codes must be [batch, codebooks, frames] with at least one frame, got shape {codes.shape}"
        )
    batch, books, frames = codes.shape
    chunk, count = _chunks(frames)
    codes = jnp.pad(codes, ((0, 0), (0, 0), (0, chunk * count - frames)))
    state = init_state(mimi, batch, frames=chunk)

    def step(state: MimiState, codes: jax.Array) -> tuple[MimiState, jax.Array]:
        audio, state = decode_frame(mimi, state, codes)
        return state, audio

    _, audio = jax.lax.scan(step, state, codes.reshape(batch, books, count, chunk).transpose(2, 0, 1, 3))
    return audio.swapaxes(0, 1).reshape(batch, -1)[:, : frames * mimi.config.frame_size]


def init_state(mimi: Mimi, batch: int, frames: int = 1, reference_ring: bool = False) -> MimiState:
    """Streams that have not started.

    Args:
        mimi: the weights; only their shapes matter.
        batch: number of streams.
        frames: the most frames of one call.
        reference_ring: keep only `context` keys, as the reference does. It writes the two steps of a frame before
            attending, so past the ring's wrap the first of them misses the oldest key of its window, and streaming
            drifts from offline. Otherwise the ring is large enough to be exact.
    """
    steps = frames * mimi.config.steps_per_frame
    context = mimi.config.transformer.context
    capacity = None if reference_ring or context is None else context + steps - 1

    def start(convs: State, transformer: Transformer) -> StreamState:
        return StreamState(
            convs, jnp.zeros(batch, jnp.int32), transformer.init_cache(batch, jnp.float32, capacity)
        )

    return MimiState(
        start(_encoder_convs(mimi, batch), mimi.encoder_transformer),
        start(_decoder_convs(mimi, batch), mimi.decoder_transformer),
    )


def reset(mimi: Mimi, state: MimiState, mask: jax.Array) -> MimiState:
    """Starts the streams of `mask` (bool `[batch]`) over, both directions; the others are not touched."""
    batch = mask.shape[0]

    def over(stream: StreamState, convs: State) -> StreamState:
        offset = jnp.where(mask, 0, stream.offset)
        return StreamState(_where(mask, convs, stream.convs), offset, stream.caches)

    return MimiState(
        over(state.encoder, _encoder_convs(mimi, batch)), over(state.decoder, _decoder_convs(mimi, batch))
    )


def encode_frame(
    mimi: Mimi,
    state: MimiState,
    audio: jax.Array,
    *,
    exec_mask: jax.Array | None = None,
    codebooks: int | None = None,
) -> tuple[jax.Array, MimiState]:
    """Codes of the next frames of each stream.

    Args:
        mimi: the weights, `prepare`d for speed.
        state: where the streams stand; may be donated.
        audio: float32 `[batch, n * frame_size]`, n at least 1.
        exec_mask: bool `[batch]`; rows where it is False do not advance, and their codes mean nothing.
        codebooks: how many, at most those stored (default: all).

    Returns:
        int32 `[batch, codebooks, n]`, and the next state.

    Raises:
        ValueError: not whole frames, more of them than the state was made for, or too many codebooks.
    """
    size, count = mimi.config.frame_size, _codebooks(mimi, codebooks)
    if audio.ndim != 2 or not audio.shape[1] or audio.shape[1] % size:
        raise ValueError(f"audio must be [batch, n * {size}] with n at least 1, got shape {audio.shape}")
    old = state.encoder
    _check_ring(mimi, old, audio.shape[1] // size)
    with jax.default_matmul_precision("highest"):
        x, seanet = mimi.encoder(audio[..., None], old.convs[0])
        x, caches = mimi.encoder_transformer.step(x, old.caches, old.offset)
        offset = old.offset + x.shape[1]
        x, resample = mimi.downsample(x, old.convs[1])
        codes = mimi.quantizer.encode(x, count)
    new = _advance(old, StreamState((seanet, resample), offset, caches), exec_mask)
    return codes, state._replace(encoder=new)


def decode_frame(
    mimi: Mimi, state: MimiState, codes: jax.Array, *, exec_mask: jax.Array | None = None
) -> tuple[jax.Array, MimiState]:
    """Audio of the next frames of each stream.

    Args:
        mimi: the weights, `prepare`d for speed.
        state: where the streams stand; may be donated.
        codes: int32 `[batch, codebooks, n]`, each in `[0, bins)`, n at least 1.
        exec_mask: bool `[batch]`; rows where it is False do not advance, and their audio means nothing.

    Returns:
        float32 `[batch, n * frame_size]`, and the next state.

    Raises:
        ValueError: no frame, more of them than the state was made for, or too many codebooks.
    """
    if codes.ndim != 3 or not codes.shape[2]:
        raise ValueError(f"codes must be [batch, codebooks, n] with n at least 1, got shape {codes.shape}")
    _codebooks(mimi, codes.shape[1])
    old = state.decoder
    _check_ring(mimi, old, codes.shape[2])
    with jax.default_matmul_precision("highest"):
        x = mimi.quantizer.decode(codes)
        x, resample = mimi.upsample(x, old.convs[0])
        offset = old.offset + x.shape[1]
        x, caches = mimi.decoder_transformer.step(x, old.caches, old.offset)
        x, seanet = mimi.decoder(x, old.convs[1])
    new = _advance(old, StreamState((resample, seanet), offset, caches), exec_mask)
    return x[..., 0], state._replace(decoder=new)


def _encoder_convs(mimi: Mimi, batch: int) -> State:
    """Convolution states of the encoding direction at the start of a stream."""
    return mimi.encoder.init_state(batch), mimi.downsample.init_state(batch)


def _decoder_convs(mimi: Mimi, batch: int) -> State:
    """Convolution states of the decoding direction at the start of a stream."""
    return mimi.upsample.init_state(batch), mimi.decoder.init_state(batch)


def _check_ring(mimi: Mimi, state: StreamState, frames: int) -> None:
    """Checks that the rings hold the keys that this many frames at once need."""
    context, capacity = mimi.config.transformer.context or 0, state.caches[0].k.shape[2]
    steps = frames * mimi.config.steps_per_frame
    if steps > (context if capacity == context else capacity - context + 1):
        raise ValueError(
            f"{frames} frames at once are more than this state was made for (`frames` of init_state)"
        )


def _advance(old: StreamState, new: StreamState, exec_mask: jax.Array | None) -> StreamState:
    """`new` for the rows of `exec_mask`; the rings need no mask, a row writes the same slots again."""
    if exec_mask is None:
        return new
    offset = jnp.where(exec_mask, new.offset, old.offset)
    return StreamState(_where(exec_mask, new.convs, old.convs), offset, new.caches)


def _where(mask: jax.Array, new: State, old: State) -> State:
    """`new` in the rows of `mask [batch]`, `old` elsewhere, for every array of a tree."""
    return jax.tree.map(lambda n, o: jnp.where(mask.reshape(-1, *(1,) * (n.ndim - 1)), n, o), new, old)


def _codebooks(mimi: Mimi, count: int | None) -> int:
    """Checks a number of codebooks; None is all of them."""
    stored = mimi.quantizer.count
    if count is not None and not 1 <= count <= stored:
        raise ValueError(f"codebooks must be between 1 and {stored}, the number stored, got {count}")
    return stored if count is None else count


def _chunks(frames: int) -> tuple[int, int]:
    """Frames of one chunk, and how many chunks cover `frames`."""
    chunk = min(frames, CHUNK_FRAMES)
    return chunk, -(-frames // chunk)
