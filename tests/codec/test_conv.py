"""Streaming convolutions against XLA's own, whole and in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kame_jax.codec.conv import Conv1d, ConvTranspose1d, ReplicateConv1d

# Sums of at most 50 products of numbers near 1, in another order.
ATOL = 1e-5


def in_pieces(layer, x, step):
    """The layer over `x [batch, time, channels]`, `step` time steps a call."""

    def run(state, piece):
        y, state = layer(piece, state)
        return state, y

    pieces = x.reshape(x.shape[0], -1, step, x.shape[2]).swapaxes(0, 1)
    out = jax.jit(lambda state, pieces: jax.lax.scan(run, state, pieces)[1])(
        layer.init_state(x.shape[0]), pieces
    )
    return out.swapaxes(0, 1).reshape(x.shape[0], -1, out.shape[-1])


def inputs(channels, time=24):
    return jax.random.normal(jax.random.key(1), (2, time, channels))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 2), (1, 1, 1), (8, 4, 1), (12, 6, 1)]
)
def test_convolution_is_causal_and_the_same_in_pieces(kernel, stride, dilation):
    layer = Conv1d(nnx.Rngs(0), 3, 5, kernel, stride=stride, dilation=dilation)
    x = inputs(3)
    expected = jax.lax.conv_general_dilated(
        x,
        layer.weight[...],
        (stride,),
        [(layer.past, 0)],
        rhs_dilation=(dilation,),
        dimension_numbers=("NHC", "OIH", "NHC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    expected = expected + layer.bias[...]
    for step in (24, 12, stride):
        np.testing.assert_allclose(in_pieces(layer, x, step), expected, rtol=0, atol=ATOL)


def test_a_replicating_convolution_starts_from_its_first_input():
    layer = ReplicateConv1d(nnx.Rngs(0), 3, 5, 4, stride=2, bias=False)
    plain = Conv1d(nnx.Rngs(0), 3, 5, 4, stride=2, bias=False)
    x = inputs(3)
    expected, _ = plain(x, jnp.repeat(x[:, :1], 2, axis=1))
    for step in (24, 2):
        np.testing.assert_allclose(in_pieces(layer, x, step), expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize(("stride", "depthwise"), [(4, False), (5, False), (2, True)])
def test_transposed_convolution_is_the_same_in_pieces(stride, depthwise):
    layer = ConvTranspose1d(nnx.Rngs(0), 4, 4, stride, depthwise=depthwise)
    x = inputs(4, 6)
    weight = np.asarray(layer.weight[...])
    if depthwise:
        weight = np.einsum("iok,ij->ijk", weight, np.eye(4))
    expected = np.zeros((2, 7 * stride, 4)) + np.asarray(layer.bias[...])
    for t in range(6):
        expected[:, t * stride : (t + 2) * stride] += np.einsum("bi,iok->bko", x[:, t], weight)
    for step in (6, 2, 1):
        np.testing.assert_allclose(in_pieces(layer, x, step), expected[:, : 6 * stride], rtol=0, atol=ATOL)


def test_shapes_that_cannot_stream_are_refused():
    with pytest.raises(ValueError, match="multiple of the stride"):
        Conv1d(nnx.Rngs(0), 3, 5, 7, stride=2)
    with pytest.raises(ValueError, match="4 in and 5 out"):
        ConvTranspose1d(nnx.Rngs(0), 4, 5, 2, depthwise=True)
