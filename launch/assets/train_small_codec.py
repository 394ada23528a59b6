"""Trains the small Mimi that the demo bundles, on the bundled dialogues; about six minutes on two cores.

    python launch/assets/train_small_codec.py OUT [--steps 700]
    python launch/assets/train_small_codec.py OUT --decoder-of CODEC     # its codes stay the same

It has the structure of the released codec at a fraction of its size: the same frames, a split residual quantizer,
causal convolutions and transformers. It knows two synthetic speakers, and is there to make the demo's codes mean
something; for listening, take the released weights. Loss: spectra at four resolutions, and commitment;
codebooks start from k-means and follow moving averages, which are what a Mimi file stores.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from kame_jax.checkpoint.weights import ArrayWeights
from kame_jax.codec import mimi as codec
from kame_jax.codec.mimi import Mimi
from kame_jax.config import load_codec
from kame_jax.data.dialogue import read_dialogues, read_stereo
from kame_jax.demo.dialogues import ROOT
from kame_jax.interop import Checkpoint, load_mimi
from kame_jax.interop.export import export
from kame_jax.interop.layouts import Layout
from kame_jax.model import tree

FRAMES = 12
"""Frames of a training clip."""
BATCH = 8
QUANTIZE_FROM = 150
"""Steps without quantization, after which k-means sets the codebooks."""
DECAY = 0.98
DEAD = 0.03
"""Chosen this often a step on average, a centroid counts as unused."""
WINDOWS = (256, 512, 1024, 2048)
BEGIN = 32
"""Samples at the start of a clip that count for themselves: the decoder's convolutions see zeros before them, which is
not what silence looks like inside, and a window of a spectrum is too wide to notice the click."""

Codebooks = dict[str, dict[str, jax.Array]]
"""Branch -> `sum [count, bins, dim]` and `usage [count, bins]`."""


def clips() -> np.ndarray:
    """Every channel of every dialogue, end to end: float32 `[samples]`."""
    return np.concatenate([side for dialogue in read_dialogues(ROOT) for side in read_stereo(dialogue)])


def overlapping(x: jax.Array, hop: int) -> jax.Array:
    """Windows of `4 * hop` samples, one every `hop`, of `x [batch, samples]`: `[batch, windows, 4 * hop]`.

    Silence precedes `x`, so that its first samples are in the middle of windows too.
    """
    x = jnp.pad(x[:, : x.shape[1] // hop * hop], ((0, 0), (3 * hop, 0)))
    blocks = x.reshape(x.shape[0], -1, hop)
    windows = blocks.shape[1] - 3
    return jnp.concatenate([blocks[:, i : i + windows] for i in range(4)], axis=-1)


def spectra_loss(target: jax.Array, made: jax.Array) -> jax.Array:
    """Mean distance of log magnitudes and of magnitudes over four window sizes, and of the first samples.

    Both are `[batch, samples]`.
    """
    total = jnp.zeros(())
    for size in WINDOWS:
        window, hop = jnp.hanning(size), size // 4
        a, b = (jnp.abs(jnp.fft.rfft(overlapping(x, hop) * window) + 1e-7) for x in (target, made))
        total += jnp.mean(jnp.abs(jnp.log(a + 1e-2) - jnp.log(b + 1e-2))) + 0.5 * jnp.mean(jnp.abs(a - b))
    click = jnp.mean(jnp.abs(target - made)[:, :BEGIN])
    return total / len(WINDOWS) + 20.0 * click


def latents(mimi: Mimi, audio: jax.Array) -> jax.Array:
    """What the quantizer sees of `audio [batch, samples]`: `[batch, frames, dim]`."""
    batch = audio.shape[0]
    x, _ = mimi.encoder(audio[..., None], mimi.encoder.init_state(batch))
    return mimi.downsample(mimi.encoder_transformer(x), mimi.downsample.init_state(batch))[0]


def audio_of(mimi: Mimi, latent: jax.Array) -> jax.Array:
    """The sound of a quantized latent `[batch, frames, dim]`: `[batch, samples]`."""
    batch = latent.shape[0]
    x, _ = mimi.upsample(latent, mimi.upsample.init_state(batch))
    x, _ = mimi.decoder(mimi.decoder_transformer(x), mimi.decoder.init_state(batch))
    return x[..., 0]


def train_decoder(mimi: Mimi, draw: Callable[[], jax.Array], steps: int) -> float:
    """Trains the decoder's convolutions alone, in place, on the codes that the codec gives; returns the last loss."""
    encode = jax.jit(lambda mimi, clip: mimi.quantizer.decode(codec.encode(mimi, clip)))
    graphdef, params, rest = nnx.split(mimi, nnx.PathContains("decoder"), ...)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps), b1=0.8, b2=0.99)
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: nnx.State, state: optax.OptState, clip: jax.Array, latent: jax.Array) -> tuple:
        def loss(params: nnx.State) -> jax.Array:
            return spectra_loss(clip, audio_of(nnx.merge(graphdef, params, rest), latent))

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    started, value = time.perf_counter(), jnp.zeros(())
    for number in range(steps):
        # Replies begin in silence, and so do these clips.
        clip = draw().at[:, : mimi.config.frame_size].set(0.0)
        params, state, value = step(params, state, clip, encode(mimi, clip))
        if number % 50 == 49:
            print(
                f"step {number + 1} loss {float(value):.4f} {time.perf_counter() - started:.0f} s", flush=True
            )
    nnx.update(mimi, params)
    return float(value)


def quantize(
    z: jax.Array, books: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """One branch over `z [n, dim]`: the sum of centroids, its books moved towards the data, and the codes `[count, n]`.

    A centroid that nothing has chosen for long starts again from a vector of the batch.
    """
    residual, picked, sums, usages, codes = z, jnp.zeros_like(z), [], [], []
    for total, usage in zip(books["sum"], books["usage"]):
        centroids = total / jnp.maximum(usage, 1e-5)[:, None]
        index = jnp.argmin(0.5 * jnp.sum(centroids**2, -1) - residual @ centroids.T, axis=-1)
        chosen = jax.nn.one_hot(index, len(centroids))
        new_usage = DECAY * usage + (1 - DECAY) * chosen.sum(0)
        new_total = DECAY * total + (1 - DECAY) * chosen.T @ residual
        dead, fresh = new_usage < DEAD, jax.random.choice(key, residual, (len(centroids),))
        usages.append(jnp.where(dead, 4 * DEAD, new_usage))
        sums.append(jnp.where(dead[:, None], 4 * DEAD * fresh, new_total))
        picked, residual = picked + centroids[index], residual - centroids[index]
        codes.append(index)
    return picked, {"sum": jnp.stack(sums), "usage": jnp.stack(usages)}, jnp.stack(codes)


def louder(params: nnx.State) -> nnx.State:
    """First weights at unit gain: PyTorch's own start lets the signal die over fourteen convolutions."""
    flat = [
        (path, leaf.replace(leaf[...] * (1.8 if leaf.ndim == 3 else 1.0)))
        for path, leaf in nnx.to_flat_state(params)
    ]
    return nnx.from_flat_state(flat)


def k_means(points: np.ndarray, bins: int, rng: np.random.Generator) -> np.ndarray:
    """Centroids `[bins, dim]` of `points [n, dim]`, a dozen rounds."""
    centres = points[rng.choice(len(points), bins, replace=len(points) < bins)]
    for _ in range(12):
        nearest = np.argmin((centres**2).sum(1) / 2 - points @ centres.T, axis=1)
        for i in range(bins):
            mine = points[nearest == i]
            centres[i] = mine.mean(0) if len(mine) else points[rng.integers(len(points))]
    return centres


def first_books(z: np.ndarray, count: int, bins: int, rng: np.random.Generator) -> dict[str, jax.Array]:
    """Books of a branch from the data it will quantize."""
    sums, residual = [], z
    for _ in range(count):
        centres = k_means(residual, bins, rng)
        residual = residual - centres[np.argmin((centres**2).sum(1) / 2 - residual @ centres.T, axis=1)]
        sums.append(centres)
    return {"sum": jnp.asarray(np.stack(sums)), "usage": jnp.ones((count, bins))}


def write(mimi: Mimi, out: Path, loss: float) -> None:
    """Writes the codec, with its configuration next to it."""
    arrays = {path: np.asarray(leaf) for path, leaf in tree.leaves(mimi).items()}
    export(Checkpoint(str(out), Layout.MIMI, mimi.config, ArrayWeights(arrays)), out, "mimi")
    print(json.dumps({"out": str(out), "loss": loss}))


def main() -> None:
    """Trains and writes the codec."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder to make, in the released codec's layout")
    parser.add_argument(
        "--config", default="tiny", help="configuration with the codec's sizes (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--decoder-of", metavar="CODEC", help="continue training only the decoder of this codec"
    )
    args = parser.parse_args()
    mimi = (
        load_mimi(args.decoder_of) if args.decoder_of else Mimi(nnx.Rngs(args.seed), load_codec(args.config))
    )
    config, bins = mimi.config, mimi.config.quantizer.bins
    rng = np.random.default_rng(args.seed)
    audio = clips()
    audio = audio / np.abs(audio).max()

    def draw() -> jax.Array:
        starts = rng.integers(0, len(audio) - FRAMES * config.frame_size, BATCH)
        clip = np.stack([audio[s : s + FRAMES * config.frame_size] for s in starts])
        return jnp.asarray(clip * rng.uniform(0.5, 1.2, (BATCH, 1)), jnp.float32)

    if args.decoder_of:
        write(mimi, args.out, train_decoder(mimi, draw, args.steps))
        return
    counts = {"semantic": 1, "acoustic": config.quantizer.n_q - 1}
    graphdef, params, rest = nnx.split(mimi, nnx.Param, ...)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 50, args.steps, 1e-4), b1=0.8, b2=0.99),
    )
    params = louder(params)
    state = optimizer.init(params)

    def loss(
        params: nnx.State, clip: jax.Array, books: Codebooks | None, key: jax.Array
    ) -> tuple[jax.Array, tuple]:
        model = nnx.merge(graphdef, params, rest)
        latent = latents(model, clip)
        commitment, quantized, moved, codes = jnp.zeros(()), jnp.zeros(()), {}, {}
        for name in counts:
            branch = getattr(model.quantizer, name)
            z = branch.input_proj(latent)
            picked = z
            if books is not None:
                flat, moved[name], codes[name] = quantize(z.reshape(-1, z.shape[-1]), books[name], key)
                flat = jax.lax.stop_gradient(flat.reshape(z.shape))
                commitment += jnp.mean((z - flat) ** 2)
                picked = z + flat - jax.lax.stop_gradient(z)
            quantized += branch.output_proj(picked)
        value = spectra_loss(clip, audio_of(model, quantized))
        return value + 0.25 * commitment, (value, jax.lax.stop_gradient(moved), codes)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        params: nnx.State, state: optax.OptState, clip: jax.Array, books: Codebooks | None, key: jax.Array
    ) -> tuple:
        grads, aux = jax.grad(loss, has_aux=True)(params, clip, books, key)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, aux

    books: Codebooks | None = None
    started = time.perf_counter()
    for number in range(args.steps):
        if number == QUANTIZE_FROM:
            model = nnx.merge(graphdef, params, rest)
            latent = np.concatenate([np.asarray(latents(model, draw())) for _ in range(12)]).reshape(
                -1, config.seanet.dim
            )
            books = {
                name: first_books(np.asarray(getattr(model.quantizer, name).input_proj(latent)), n, bins, rng)
                for name, n in counts.items()
            }
        params, state, (value, moved, codes) = step(params, state, draw(), books, jax.random.key(number))
        if books is not None:
            books = moved
        if number % 50 == 49:
            used = {name: [len(np.unique(level)) for level in codes[name]] for name in codes}
            print(
                f"step {number + 1} loss {float(value):.4f} codes in use {used} {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    assert books is not None
    model = nnx.merge(graphdef, params, rest)
    for name in counts:
        stored = getattr(model.quantizer, name).codebooks
        stored.embedding_sum.set_value(books[name]["sum"])
        stored.cluster_usage.set_value(books[name]["usage"])
    write(model, args.out, float(value))


if __name__ == "__main__":
    main()
