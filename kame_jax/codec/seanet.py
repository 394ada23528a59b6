"""SEANet: the convolutional encoder and decoder of Mimi, between audio samples and latent steps.

Semantics: kyutai-labs/moshi `modules/seanet.py`. Every block takes and returns its streaming state, a tuple of its
convolutions' states in the order they run.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from kame_jax.codec.conv import Conv1d, ConvTranspose1d
from kame_jax.config import SeanetConfig

State = Any
"""A tree of arrays with a leading batch axis."""


class ResidualBlock(nnx.Module):
    """`x + conv2(elu(conv1(elu(x))))`, `conv1` dilated and narrower, `conv2` pointwise."""

    def __init__(self, rngs: nnx.Rngs, dim: int, config: SeanetConfig, index: int):
        hidden = dim // config.compress
        dilation = config.dilation_base**index
        self.conv1 = Conv1d(rngs, dim, hidden, config.residual_kernel, dilation=dilation)
        self.conv2 = Conv1d(rngs, hidden, dim, 1)

    def init_state(self, batch: int) -> State:
        """State at the start of a stream."""
        return self.conv1.init_state(batch), self.conv2.init_state(batch)

    def __call__(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """`x [batch, time, dim]` to the same shape, and the next state."""
        y, first = self.conv1(jax.nn.elu(x), state[0])
        y, second = self.conv2(jax.nn.elu(y), state[1])
        return x + y, (first, second)


class EncoderStage(nnx.Module):
    """Residual blocks, then a strided convolution to twice the channels."""

    def __init__(self, rngs: nnx.Rngs, dim: int, ratio: int, config: SeanetConfig):
        self.blocks = nnx.List([ResidualBlock(rngs, dim, config, i) for i in range(config.residual_layers)])
        self.down = Conv1d(rngs, dim, 2 * dim, 2 * ratio, stride=ratio)

    def init_state(self, batch: int) -> State:
        """State at the start of a stream."""
        return (*(block.init_state(batch) for block in self.blocks), self.down.init_state(batch))

    def __call__(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """`x [batch, time, dim]` to `[batch, time / ratio, 2 * dim]`, and the next state."""
        x, states = _chain(x, self.blocks, state[:-1])
        x, last = self.down(jax.nn.elu(x), state[-1])
        return x, (*states, last)


class DecoderStage(nnx.Module):
    """A transposed convolution to half the channels, then residual blocks."""

    def __init__(self, rngs: nnx.Rngs, dim: int, ratio: int, config: SeanetConfig):
        self.up = ConvTranspose1d(rngs, dim, dim // 2, ratio)
        self.blocks = nnx.List(
            [ResidualBlock(rngs, dim // 2, config, i) for i in range(config.residual_layers)]
        )

    def init_state(self, batch: int) -> State:
        """State at the start of a stream."""
        return (self.up.init_state(batch), *(block.init_state(batch) for block in self.blocks))

    def __call__(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """`x [batch, time, dim]` to `[batch, time * ratio, dim / 2]`, and the next state."""
        x, first = self.up(jax.nn.elu(x), state[0])
        x, states = _chain(x, self.blocks, state[1:])
        return x, (first, *states)


class Encoder(nnx.Module):
    """Audio `[batch, samples, 1]` to latents `[batch, samples / prod(ratios), dim]`."""

    def __init__(self, rngs: nnx.Rngs, config: SeanetConfig):
        dims = [config.filters * 2**i for i in range(len(config.ratios) + 1)]
        self.first = Conv1d(rngs, 1, dims[0], config.kernel)
        ratios = reversed(config.ratios)
        self.stages = nnx.List([EncoderStage(rngs, dim, ratio, config) for dim, ratio in zip(dims, ratios)])
        self.last = Conv1d(rngs, dims[-1], config.dim, config.last_kernel)

    def init_state(self, batch: int) -> State:
        """State at the start of a stream."""
        return _init_ends(self, batch)

    def __call__(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """The latents of `x`, and the next state; `samples` is a multiple of the product of the ratios."""
        return _run_ends(self, x, state)


class Decoder(nnx.Module):
    """Latents `[batch, steps, dim]` to audio `[batch, steps * prod(ratios), 1]`."""

    def __init__(self, rngs: nnx.Rngs, config: SeanetConfig):
        dims = [config.filters * 2 ** (len(config.ratios) - i) for i in range(len(config.ratios) + 1)]
        self.first = Conv1d(rngs, config.dim, dims[0], config.kernel)
        self.stages = nnx.List(
            [DecoderStage(rngs, dim, ratio, config) for dim, ratio in zip(dims, config.ratios)]
        )
        self.last = Conv1d(rngs, dims[-1], 1, config.last_kernel)

    def init_state(self, batch: int) -> State:
        """State at the start of a stream."""
        return _init_ends(self, batch)

    def __call__(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        """The audio of `x`, and the next state."""
        return _run_ends(self, x, state)


def _chain(x: jax.Array, blocks: Any, states: State) -> tuple[jax.Array, State]:
    """Runs `blocks` one after the other, each with its state."""
    new = []
    for block, state in zip(blocks, states):
        x, state = block(x, state)
        new.append(state)
    return x, tuple(new)


def _init_ends(model: Encoder | Decoder, batch: int) -> State:
    """State of first convolution, stages and last convolution at the start of a stream."""
    return (
        model.first.init_state(batch),
        tuple(stage.init_state(batch) for stage in model.stages),
        model.last.init_state(batch),
    )


def _run_ends(model: Encoder | Decoder, x: jax.Array, state: State) -> tuple[jax.Array, State]:
    """First convolution, stages, ELU, last convolution."""
    x, first = model.first(x, state[0])
    x, stages = _chain(x, model.stages, state[1])
    x, last = model.last(jax.nn.elu(x), state[2])
    return x, (first, stages, last)
