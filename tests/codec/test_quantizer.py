"""The split residual vector quantizer, against its definition in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kame_jax.codec.quantizer import SplitQuantizer
from kame_jax.config import QuantizerConfig


def quantizer() -> SplitQuantizer:
    return SplitQuantizer(nnx.Rngs(0), 8, QuantizerConfig(dim=6, n_q=4, bins=16))


def test_each_codebook_takes_the_nearest_centroid_of_what_is_left():
    q = quantizer()
    latent = jax.random.normal(jax.random.key(1), (2, 5, 8))
    codes = np.asarray(jax.jit(lambda q, x: q.encode(x, 4))(q, latent))
    for branch, rows in ((q.semantic, [0]), (q.acoustic, [1, 2, 3])):
        left = np.asarray(branch.input_proj(latent), np.float64)
        for level, row in enumerate(rows):
            table = np.asarray(branch.codebooks.tables(level + 1)[0][level], np.float64)
            nearest = np.square(left[:, :, None] - table).sum(-1).argmin(-1)
            np.testing.assert_array_equal(codes[:, row], nearest)
            left = left - table[nearest]


def test_decoding_adds_the_projected_branches():
    q = quantizer()
    codes = np.random.default_rng(1).integers(0, 16, (2, 4, 5), np.int32)
    first, rest = (np.asarray(b.codebooks.tables(b.count)[0]) for b in (q.semantic, q.acoustic))
    semantic = first[0, codes[:, 0]] @ np.asarray(q.semantic.output_proj.weight[...]).T
    acoustic = (
        sum(rest[k, codes[:, 1 + k]] for k in range(3)) @ np.asarray(q.acoustic.output_proj.weight[...]).T
    )
    decode = jax.jit(lambda q, codes: q.decode(codes))
    np.testing.assert_allclose(decode(q, codes), semantic + acoustic, rtol=0, atol=1e-6)  # float32 rounding
    np.testing.assert_allclose(decode(q, codes[:, :1]), semantic, rtol=0, atol=1e-6)


def test_equally_near_centroids_give_the_lowest_index():
    q = quantizer()
    sums = q.semantic.codebooks.embedding_sum
    sums[...] = jnp.broadcast_to(sums[:, :1], sums.shape)
    assert not np.asarray(jax.jit(lambda q, x: q.encode(x, 1))(q, jnp.ones((1, 3, 8)))).any()


def test_an_unused_centroid_is_divided_by_epsilon_not_by_zero():
    q = quantizer()
    q.semantic.codebooks.cluster_usage[...] = jnp.zeros((1, 16))
    centroids, half_norms = q.semantic.codebooks.tables(1)
    np.testing.assert_allclose(centroids, q.semantic.codebooks.embedding_sum[...] / 1e-5, rtol=1e-6)
    assert np.isfinite(half_norms).all()
