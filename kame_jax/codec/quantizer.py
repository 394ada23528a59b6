"""Split residual vector quantizer: one semantic codebook in parallel with a residual chain of acoustic ones.

Semantics: kyutai-labs/moshi `quantization/{vq,core_vq}.py`. Both branches quantize the same latent, each through its
own projections; the acoustic branch does not see the semantic one's residual. Decoding sums the centroids of a
branch, projects, and adds the branches.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from kame_jax.config import QuantizerConfig
from kame_jax.model.layers import Linear, normal

EPSILON = 1e-5
"""Smallest cluster usage a sum is divided by."""


class CodebookVariable(nnx.Variable):
    """A codebook's array: moving averages or centroids, which no gradient trains."""


class CodebookSums(nnx.Module):
    """`count` codebooks as a file holds them: moving sums and counts, whose ratio is the centroid.

    `embedding_sum [count, bins, dim]`, `cluster_usage [count, bins]`, `initialized [count, 1]` (1 once the codebook
    holds something). Kept undivided so that a file can be written again byte for byte.
    """

    def __init__(self, rngs: nnx.Rngs, count: int, bins: int, dim: int):
        sums = normal(dim**-0.5)(rngs.params(), (count, bins, dim), jnp.float32)
        self.embedding_sum = CodebookVariable(sums)
        self.cluster_usage = CodebookVariable(jnp.ones((count, bins)))
        self.initialized = CodebookVariable(jnp.ones((count, 1)))

    def tables(self, count: int) -> tuple[jax.Array, jax.Array]:
        """The first `count` codebooks: centroids float32 `[count, bins, dim]` and half their squared norms."""
        sums = self.embedding_sum[:count].astype(jnp.float32)
        usage = self.cluster_usage[:count].astype(jnp.float32)
        centroids = sums / jnp.maximum(usage, EPSILON)[..., None]
        return centroids, 0.5 * jnp.sum(jnp.square(centroids), axis=-1)


class Centroids(nnx.Module):
    """Codebooks ready for use: divided, without the sums."""

    def __init__(self, centroids: jax.Array, half_norms: jax.Array):
        self.centroids = CodebookVariable(centroids)
        self.half_norms = CodebookVariable(half_norms)

    def tables(self, count: int) -> tuple[jax.Array, jax.Array]:
        """As `CodebookSums.tables`, without arithmetic."""
        return self.centroids[:count], self.half_norms[:count]


class ResidualQuantizer(nnx.Module):
    """A chain of codebooks, each quantizing the residual of the ones before."""

    def __init__(self, rngs: nnx.Rngs, latent_dim: int, count: int, config: QuantizerConfig):
        self.count = count
        self.input_proj = Linear(rngs, (config.dim,), (latent_dim,), axes=("code", "embed"))
        self.output_proj = Linear(rngs, (latent_dim,), (config.dim,), axes=("embed", "code"))
        self.codebooks: CodebookSums | Centroids = CodebookSums(rngs, count, config.bins, config.dim)

    def encode(self, latent: jax.Array, count: int) -> jax.Array:
        """Codes of `latent [..., latent_dim]` in the first `count` codebooks: int32 `[..., count]`.

        The nearest centroid in L2; of equally near ones the lowest index.
        """

        def level(residual: jax.Array, table: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            centroids, half_norms = table
            # |x - c|^2 / 2 without the |x|^2 / 2 that all centroids share.
            distances = half_norms - residual @ centroids.T
            index = jnp.argmin(distances, axis=-1).astype(jnp.int32)
            return residual - centroids[index], index

        _, codes = jax.lax.scan(level, self.input_proj(latent), self.codebooks.tables(count))
        return jnp.moveaxis(codes, 0, -1)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Latents `[..., latent_dim]` of `codes int32 [..., count]`; with fewer codes, coarser."""
        count = codes.shape[-1]
        centroids, _ = self.codebooks.tables(count)
        picked = centroids[jnp.arange(count), codes]
        return self.output_proj(picked.sum(axis=-2))

    def prepare(self, count: int) -> None:
        """Divides the sums once, and keeps only the first `count` codebooks."""
        self.codebooks = Centroids(*self.codebooks.tables(count))
        self.count = count


class SplitQuantizer(nnx.Module):
    """Codebook 0 semantic, the others acoustic."""

    def __init__(self, rngs: nnx.Rngs, latent_dim: int, config: QuantizerConfig):
        self.semantic = ResidualQuantizer(rngs, latent_dim, 1, config)
        self.acoustic = ResidualQuantizer(rngs, latent_dim, config.n_q - 1, config)

    @property
    def count(self) -> int:
        """Codebooks held."""
        return self.semantic.count + self.acoustic.count

    def encode(self, latent: jax.Array, count: int) -> jax.Array:
        """Codes int32 `[batch, count, frames]` of `latent [batch, frames, latent_dim]`."""
        codes = self.semantic.encode(latent, 1)
        if count > 1:
            codes = jnp.concatenate([codes, self.acoustic.encode(latent, count - 1)], axis=-1)
        return codes.swapaxes(1, 2)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Latents `[batch, frames, latent_dim]` of `codes int32 [batch, count, frames]`."""
        codes = codes.swapaxes(1, 2)
        latent = self.semantic.decode(codes[..., :1])
        if codes.shape[-1] > 1:
            latent = latent + self.acoustic.decode(codes[..., 1:])
        return latent
