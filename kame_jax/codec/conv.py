"""Causal convolutions that carry their own past: the building blocks of Mimi's encoder and decoder.

Semantics: kyutai-labs/moshi `modules/conv.py`. Activations are `[batch, time, channels]`; weights keep PyTorch's
order, `[out, in, kernel]` and, transposed, `[in, out, kernel]`. A call takes the state of the previous one and
returns the next, so a whole recording and one frame of it use the same code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kame_jax.model.layers import param, uniform


class Conv1d(nnx.Module):
    """Convolution that sees `kernel - stride` steps of the past, zeros at the start of a stream."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        in_dim: int,
        out_dim: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ):
        if kernel % stride or (stride > 1 and dilation > 1):
            raise ValueError(
                f"the kernel must be a multiple of the stride, without dilation: {kernel}, {stride}, {dilation}"
            )
        self.in_dim, self.kernel, self.stride, self.dilation = in_dim, kernel, stride, dilation
        init = uniform(in_dim * kernel)
        self.weight = param(rngs, (out_dim, in_dim, kernel), ("conv_out", "conv_in", "kernel"), init)
        self.bias = param(rngs, (out_dim,), ("conv_out",), init) if bias else None

    @property
    def past(self) -> int:
        """Steps of input kept between calls."""
        return (self.kernel - 1) * self.dilation + 1 - self.stride

    def init_state(self, batch: int) -> jax.Array:
        """The last inputs at the start of a stream: zeros `[batch, past, in]`."""
        return jnp.zeros((batch, self.past, self.in_dim))

    def __call__(self, x: jax.Array, past: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Convolves `x [batch, time, in]`, `time` a multiple of the stride, after `past`.

        Returns `[batch, time / stride, out]` and the next `past`.
        """
        x = jnp.concatenate([past, x], axis=1)
        batch, total, _ = x.shape
        steps = (total - self.past) // self.stride
        # One matrix product over all taps, gathered as blocks of `stride` steps. Its operands have two dimensions and
        # the weight is on the left: XLA on CPU copies the weight for other forms, forty times slower for one frame.
        blocks = x.reshape(batch, total // self.stride, self.stride, self.in_dim)
        starts = range(0, self.kernel // self.stride * self.dilation, self.dilation)
        taps = jnp.stack([blocks[:, start : start + steps] for start in starts], axis=2)
        taps = taps.reshape(batch * steps, self.kernel, self.in_dim).swapaxes(1, 2)
        weight = self.weight[...].reshape(-1, self.in_dim * self.kernel)
        y = _product(weight, taps.reshape(batch * steps, self.in_dim * self.kernel))
        y = y.T.reshape(batch, steps, weight.shape[0])
        if self.bias is not None:
            y = y + self.bias[...]
        return y, x[:, total - self.past :]


class ReplicateState(NamedTuple):
    """Past of a convolution that repeats its first input: `past [batch, past, in]`, `first` bool `[batch]`."""

    past: jax.Array
    first: jax.Array


class ReplicateConv1d(Conv1d):
    """Convolution whose past, at the start of a stream, is its first input repeated."""

    def init_state(self, batch: int) -> ReplicateState:  # type: ignore[override]
        """A stream that has not started."""
        return ReplicateState(super().init_state(batch), jnp.ones(batch, bool))

    def __call__(  # type: ignore[override]
        self, x: jax.Array, state: ReplicateState
    ) -> tuple[jax.Array, ReplicateState]:
        """As `Conv1d`, where rows with `first` set take `x[:, :1]` as their past."""
        past = jnp.where(state.first[:, None, None], x[:, :1], state.past)
        y, past = super().__call__(x, past)
        return y, ReplicateState(past, jnp.zeros_like(state.first))


class ConvTranspose1d(nnx.Module):
    """Transposed convolution with `kernel = 2 * stride`: each input step adds to its own block and the next one.

    `depthwise` gives each channel its own filter, weight `[in, 1, kernel]`.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        in_dim: int,
        out_dim: int,
        stride: int,
        *,
        depthwise: bool = False,
        bias: bool = True,
    ):
        if depthwise and in_dim != out_dim:
            raise ValueError(f"a depthwise convolution keeps its channels, got {in_dim} in and {out_dim} out")
        self.in_dim, self.out_dim, self.stride, self.depthwise = in_dim, out_dim, stride, depthwise
        filters = 1 if depthwise else out_dim
        init = uniform(filters * 2 * stride)
        self.weight = param(rngs, (in_dim, filters, 2 * stride), ("conv_in", "conv_out", "kernel"), init)
        self.bias = param(rngs, (out_dim,), ("conv_out",), init) if bias else None

    def init_state(self, batch: int) -> jax.Array:
        """What the steps so far add to the next block, without bias: zeros `[batch, stride, out]`."""
        return jnp.zeros((batch, self.stride, self.out_dim))

    def __call__(self, x: jax.Array, overlap: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Spreads `x [batch, time, in]` to `[batch, time * stride, out]`, and returns the next `overlap`."""
        batch, steps, _ = x.shape
        weight = self.weight[...]
        if self.depthwise:
            spread = x[..., None] * weight[:, 0]
        else:
            flat = weight.reshape(self.in_dim, self.out_dim * 2 * self.stride)
            spread = _product(x.reshape(batch * steps, self.in_dim), flat, weight_axis=0)
        blocks = spread.reshape(batch, steps, self.out_dim, 2, self.stride).transpose(3, 0, 1, 4, 2)
        own, following = blocks[0], blocks[1]
        y = own + jnp.concatenate([overlap[:, None], following[:, :-1]], axis=1)
        y = y.reshape(batch, steps * self.stride, self.out_dim)
        if self.bias is not None:
            y = y + self.bias[...]
        return y, following[:, -1]


def _product(a: jax.Array, b: jax.Array, weight_axis: int = 1) -> jax.Array:
    """`a [M, K]` with `b [N, K]` (or `[K, N]` with `weight_axis` 0): `[M, N]`, always in full float32."""
    return jax.lax.dot_general(a, b, (((1,), (weight_axis,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
