"""The small layers that every transformer of the project is made of: linear maps with optional LoRA, norms, embeddings.

Each weight is declared once, by `param`, with its shape, its logical axes and its initialiser. Weights keep
PyTorch's `[out, in]` order, so that importing one is a reshape. A leading `stack` (layers, weight sets, codebooks)
lets one declaration hold many copies; calls work on one copy, taken by `jax.lax.scan` or by indexing the pytree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from kame_jax.config import LoRAConfig
from kame_jax.sharding import constrain, gathers_weights, traced_mesh

Initializer = Callable[[jax.Array, Sequence[int], jnp.dtype], jax.Array]
Axes = tuple[str, ...]

PAGE = 4096
"""Most rows of an embedding table gathered at a time by devices that each hold part of its columns."""


def truncated_normal(fan_in: int) -> Initializer:
    """Normal of standard deviation `1 / sqrt(fan_in)`, cut at three of them (Moshi `lm_utils.py`, `_get_init_fn`)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
        return (jax.random.truncated_normal(key, -3.0, 3.0, shape) / math.sqrt(fan_in)).astype(dtype)

    return init


def uniform(fan_in: int) -> Initializer:
    """Uniform in `+-1 / sqrt(fan_in)`, the initialisation of PyTorch's `nn.Linear` and convolutions."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound).astype(dtype)

    return init


def normal(std: float) -> Initializer:
    """Normal of the given standard deviation."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
        return (jax.random.normal(key, shape) * std).astype(dtype)

    return init


def constant(value: float) -> Initializer:
    """The same value everywhere; the key is not used."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
        return jnp.full(shape, value, dtype)

    return init


def param(
    rngs: nnx.Rngs, shape: Sequence[int], axes: Axes, init: Initializer, dtype: jnp.dtype = jnp.float32
) -> nnx.Param:
    """Declares one weight. `axes` names each dimension for the sharding rules (`kame_jax.sharding`).

    Raises:
        ValueError: `axes` and `shape` differ in length.
    """
    if len(axes) != len(shape):
        raise ValueError(f"a weight of shape {tuple(shape)} needs {len(shape)} logical axes, got {axes}")
    return nnx.Param(init(rngs.params(), tuple(shape), dtype), axes=axes)


def take(module: nnx.Module | nnx.List, index: int) -> Any:
    """One copy out of a module with stacked weights, or the list's own after `unstacked`."""
    return module[index] if isinstance(module, nnx.List) else jax.tree.map(lambda a: a[index], module)


def unstacked(module: nnx.Module | nnx.List) -> nnx.List:
    """The copies of a module with stacked weights, each with its own arrays (a list is returned as it is).

    For inference: a slice of a stacked weight is copied at every step, which doubles the bytes a step moves.
    """
    if isinstance(module, nnx.List):
        return module
    # One array at a time, so that only one of them is held twice; one compilation per shape.
    arrays, structure = jax.tree.flatten(module)
    split = [_split(array) for array in arrays]
    copies = nnx.List([jax.tree.unflatten(structure, parts) for parts in zip(*split, strict=True)])
    for _, weight in nnx.to_flat_state(nnx.state(copies)):
        weight.set_metadata("axes", weight.get_metadata()["axes"][1:])
    return copies


def _split(array: jax.Array) -> tuple[jax.Array, ...]:
    traced = isinstance(array, jax.core.Tracer)
    if not traced and isinstance(array.sharding, SingleDeviceSharding) and array.device.platform == "cpu":
        host = np.asarray(array)  # no copy, and nothing to compile
        return tuple(jnp.array(host[index]) for index in range(len(host)))
    return jax.jit(lambda a: tuple(a[index] for index in range(len(a))))(array)


class Linear(nnx.Module):
    """A linear map without bias over the trailing dimensions, `y = W x (+ scaling * B A x)`.

    `weight` is `[*stack, *out_shape, *in_shape]`; with LoRA of rank r, `lora_a` is `[*stack, r, *in_shape]` and
    `lora_b` `[*stack, *out_shape, r]`. LoRA starts at zero: A is uniform, B is zeros (moshi-finetune, `LoRALinear`).
    For inference `quantize` makes the weight int8, with a float32 `scale` for each output channel.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        out_shape: Sequence[int],
        in_shape: Sequence[int],
        *,
        stack: Sequence[int] = (),
        axes: Axes,
        init: Callable[[int], Initializer] = uniform,
        dtype: jnp.dtype = jnp.float32,
        lora: LoRAConfig | None = None,
    ):
        stack, out_shape, in_shape = tuple(stack), tuple(out_shape), tuple(in_shape)
        fan_in = math.prod(in_shape)
        self.num_in = len(in_shape)
        self.num_out = len(out_shape)
        self.flat: tuple[int, ...] | None = None
        self.weight = param(rngs, stack + out_shape + in_shape, axes, init(fan_in), dtype)
        self.scale: nnx.Param | None = None
        self.lora_scaling = lora.scaling if lora else 0.0
        rank = lora.rank if lora else 0
        lead = axes[: len(stack)]
        a_axes = (*lead, "lora", *axes[len(stack) + len(out_shape) :])
        b_axes = (*axes[: len(stack) + len(out_shape)], "lora")
        self.lora_a = param(rngs, (*stack, rank, *in_shape), a_axes, uniform(fan_in), dtype) if lora else None
        self.lora_b = param(rngs, (*stack, *out_shape, rank), b_axes, constant(0.0), dtype) if lora else None

    def __call__(self, x: jax.Array, out_dtype: jnp.dtype | None = None) -> jax.Array:
        """Maps `x [..., *in_shape]` to `[..., *out_shape]`, computed in the dtype of `x`.

        `out_dtype` keeps the accumulator's precision in the result (float32 logits of a bfloat16 model).
        """
        if self.flat is None:
            y = _contract(x, self.weight[...], self.num_in, out_dtype)
        else:
            y = _flat_product(x, self.weight[...], self.num_in, out_dtype).reshape(
                *x.shape[: x.ndim - self.num_in], *self.flat
            )
        if self.scale is not None:
            y = (y * self.scale[...]).astype(y.dtype)
        if self.lora_a is not None and self.lora_b is not None:
            low = _contract(x, self.lora_a[...], self.num_in, None)
            y = y + self.lora_scaling * _contract(low, self.lora_b[...], 1, out_dtype)
        return y

    def flatten(self) -> None:
        """Makes an unstacked weight a matrix `[out, in]`, for inference on one device.

        XLA on CPU transposes a weight of more dimensions at every step, which costs ten times its product.
        """
        if self.flat is None and self.weight.ndim == self.num_in + self.num_out:
            shape = self.weight.shape
            self.flat = shape[: self.num_out]
            matrix = self.weight[...].reshape(math.prod(self.flat), -1)
            self.weight = nnx.Param(matrix, axes=("", ""))

    def quantize(self) -> None:
        """Rounds an unstacked weight to int8, symmetric per output channel, with one factor per channel."""
        if self.flat is None and self.weight.ndim != self.num_in + self.num_out:
            raise ValueError(f"only an unstacked weight can be quantized, got shape {self.weight.shape}")
        if self.flat is not None:
            matrix = self.weight[...].astype(jnp.float32)
            scale = jnp.maximum(jnp.max(jnp.abs(matrix), axis=1), 1e-30) / 127.0
            self.weight = nnx.Param(jnp.round(matrix / scale[:, None]).astype(jnp.int8), axes=("", ""))
            self.scale = nnx.data(nnx.Param(scale.reshape(self.flat), axes=("",) * self.num_out))
            return
        weight = self.weight[...].astype(jnp.float32)
        dims = tuple(range(self.num_out, weight.ndim))
        scale = jnp.maximum(jnp.max(jnp.abs(weight), axis=dims), 1e-30) / 127.0
        axes = self.weight.get_metadata().get("axes")
        rounded = jnp.round(weight / jnp.expand_dims(scale, dims)).astype(jnp.int8)
        self.weight = nnx.Param(rounded, axes=axes)
        self.scale = nnx.data(nnx.Param(scale, axes=axes and axes[: self.num_out]))

    def per_step(
        self, x: jax.Array, schedule: tuple[int, ...], out_dtype: jnp.dtype | None = None
    ) -> jax.Array:
        """Applies weight set `schedule[k]` to step k of `x [K, ..., *in_shape]`; the stack is the weight sets.

        Returns `[K, ..., *out_shape]`.
        """
        return jax.vmap(lambda one, x: one(x, out_dtype))(self._sets(schedule), x)

    def each_step(self, x: jax.Array, schedule: tuple[int, ...]) -> jax.Array:
        """Applies weight set `schedule[k]`, for every k, to the same `x [..., *in_shape]`, as one product.

        Returns `[K, ..., *out_shape]`.
        """
        return jax.vmap(lambda one: one(x))(self._sets(schedule))

    def _sets(self, schedule: tuple[int, ...]) -> Linear:
        """The weights, one set per step of `schedule`."""
        if schedule == tuple(range(self.weight.shape[0])):
            return self
        return jax.tree.map(lambda weight: weight[jnp.array(schedule)], self)


def _contract(x: jax.Array, weight: jax.Array, num_in: int, out_dtype: jnp.dtype | None) -> jax.Array:
    """Contracts the last `num_in` dimensions of `x` with those of `weight`."""
    weight, kind = weight.astype(x.dtype), out_dtype or x.dtype
    if traced_mesh() is None:
        # As a product of matrices: XLA on CPU would copy a weight of more dimensions into the other order.
        lead, out = x.shape[: x.ndim - num_in], weight.shape[: weight.ndim - num_in]
        rows, matrix = x.reshape(math.prod(lead), -1), weight.reshape(math.prod(out), -1)
        y = jax.lax.dot_general(rows, matrix, (((1,), (1,)), ((), ())), preferred_element_type=kind)
        return y.reshape(*lead, *out)
    x_dims = tuple(range(x.ndim - num_in, x.ndim))
    w_dims = tuple(range(weight.ndim - num_in, weight.ndim))
    return jax.lax.dot_general(x, weight, ((x_dims, w_dims), ((), ())), preferred_element_type=kind)


def _flat_product(x: jax.Array, matrix: jax.Array, num_in: int, out_dtype: jnp.dtype | None) -> jax.Array:
    """`matrix [out, in]` with the last `num_in` dimensions of `x`: `[rows, out]`, the matrix on the left."""
    matrix, kind = matrix.astype(x.dtype), out_dtype or x.dtype
    rows = x.reshape(math.prod(x.shape[: x.ndim - num_in]), matrix.shape[1])
    if len(rows) == 1:
        return jax.lax.dot_general(matrix, rows[0], (((1,), (0,)), ((), ())), preferred_element_type=kind)[
            None
        ]
    return jax.lax.dot_general(matrix, rows, (((1,), (1,)), ((), ())), preferred_element_type=kind).T


class Norm(nnx.Module):
    """RMSNorm or LayerNorm over the last dimension, as Moshi names them (`modules/transformer.py`, `create_norm_fn`).

    `rms_norm_f32` and `layer_norm_f32` compute in float32 with eps 1e-8, the others in the dtype of `x` with 1e-5.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        kind: str,
        dim: int,
        *,
        stack: Sequence[int] = (),
        stack_axes: Axes = (),
        dtype: jnp.dtype = jnp.float32,
    ):
        self.kind = kind
        shape, axes = (*stack, dim), (*stack_axes, "norm")
        self.scale = param(rngs, shape, axes, constant(1.0), dtype)
        self.bias = param(rngs, shape, axes, constant(0.0), dtype) if kind.startswith("layer_norm") else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `x [..., dim]`; the result has the dtype of `x`."""
        eps = 1e-8 if self.kind.endswith("f32") else 1e-5
        y = x if self.kind == "rms_norm" else x.astype(jnp.float32)
        scale = self.scale[...].astype(y.dtype)
        if self.bias is None:
            variance = jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps
            return (y * (scale * jax.lax.rsqrt(variance))).astype(x.dtype)
        mean = jnp.mean(y, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(y - mean), axis=-1, keepdims=True)
        normed = (y - mean) * jax.lax.rsqrt(variance + eps)
        return (normed * scale + self.bias[...].astype(y.dtype)).astype(x.dtype)


class LayerScale(nnx.Module):
    """A learnt per-channel factor on a residual branch."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        dim: int,
        value: float,
        stack: Sequence[int] = (),
        stack_axes: Axes = (),
        dtype: jnp.dtype = jnp.float32,
    ):
        self.scale = param(rngs, (*stack, dim), (*stack_axes, "norm"), constant(value), dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales `x [..., dim]`."""
        return self.scale[...].astype(x.dtype) * x


class Embedding(nnx.Module):
    """A token table whose id -1 gives exactly zero (Moshi `lm_utils.py`, `ScaledEmbedding`).

    Options: `low_rank` looks up r-dimensional rows and projects them; `demux` reads two tokens from one id,
    `left + entries * (right + 1)`, each through its own projection; `norm` adds a LayerNorm after the lookup.
    With `stack=(K,)` it is K tables, one per codebook (not together with `demux`).
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        entries: int,
        dim: int,
        *,
        stack: Sequence[int] = (),
        low_rank: int | None = None,
        demux: bool = False,
        norm: bool = False,
        dtype: jnp.dtype = jnp.float32,
        lora: LoRAConfig | None = None,
    ):
        stack = tuple(stack)
        stack_axes: Axes = ("codebooks",) * len(stack)
        inner = low_rank or dim
        self.entries, self.dim = entries, dim
        self.weight = param(
            rngs, (*stack, entries, inner), (*stack_axes, "vocab", "embed"), truncated_normal(inner), dtype
        )
        self.norm = (
            Norm(rngs, "layer_norm", inner, stack=stack, stack_axes=stack_axes, dtype=dtype) if norm else None
        )

        def projection() -> Linear:
            axes = (*stack_axes, "embed_out", "embed")
            return Linear(rngs, (dim,), (inner,), stack=stack, axes=axes, dtype=dtype, lora=lora)

        # With `demux` the reference keeps this projection in its files and never reads it.
        self.low_rank = projection() if low_rank else None
        self.out1 = projection() if demux else None
        self.out2 = projection() if demux else None

    def __call__(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Looks up `ids int32 [...]` in one table: `[..., dim]` of `dtype`."""
        if self.out1 is not None and self.out2 is not None:
            safe = jnp.maximum(ids, 0)
            left, right = safe % self.entries, safe // self.entries - 1
            y = self.out1(self._rows(left, dtype)) + _zero_where(
                right < 0, self.out2(self._rows(jnp.maximum(right, 0), dtype))
            )
            return _zero_where(ids < 0, y)
        y = self._rows(jnp.maximum(ids, 0), dtype)
        if self.norm is not None:
            y = self.norm(y)
        y = _zero_where(ids < 0, y)
        return y if self.low_rank is None else self.low_rank(y)

    def _rows(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        table = self.weight[...]
        return paged_rows(table, ids, dtype) if gathers_weights() else table[ids].astype(dtype)

    def summed(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """The sum over codebooks of `per_codebook`, `[..., dim]` of `dtype`, added one by one."""
        # As the reference adds them; XLA on CPU is slow to reduce over a leading axis.
        if not gathers_weights():
            return functools.reduce(jnp.add, self.per_codebook(ids, dtype))

        def body(total: jax.Array, one: tuple[Embedding, jax.Array]) -> tuple[jax.Array, None]:
            return total + one[0](one[1], dtype), None

        return jax.lax.scan(body, jnp.zeros((*ids.shape[1:], self.dim), dtype), (self, ids))[0]

    def per_codebook(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Looks up codebook k of `ids int32 [K, ...]` in table k: `[K, ..., dim]` of `dtype`."""

        def one(table: tuple[Embedding, jax.Array]) -> jax.Array:
            return table[0](table[1], dtype)

        return jax.lax.map(one, (self, ids)) if gathers_weights() else jax.vmap(one)((self, ids))


def paged_rows(table: jax.Array, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows `ids int32 [batch, ...]` of a table `[entries, dim]` cut along `dim`: `[batch, ..., dim]` of `dtype`.

    Devices that hold some columns of the table each gather a page of its rows at a time, and read their own ids from
    it. The alternative, in which each device looks up all ids in its own columns, costs work in proportion to the whole
    batch: on a pod its sorts, gathers and scatters of millions of short rows outlast many layers.
    """
    entries, dim = table.shape
    size = -(-entries // -(-entries // PAGE))

    def add_page(total: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
        start = jnp.minimum(first, entries - size)
        # Constrained twice, or XLA gathers the whole table for every page.
        page = constrain(jax.lax.dynamic_slice_in_dim(table, start, size), None, "columns")
        page = constrain(page, None, None)
        here = (ids >= first) & (ids < first + size)
        # Summed in the table's own dtype in the backward pass: a common token's row sums thousands of gradients.
        found = page[jnp.where(here, ids - start, 0)].astype(dtype)
        total = total + jnp.where(here[..., None], found, jnp.zeros((), dtype))
        return constrain(total, "batch", *(None,) * ids.ndim), None

    empty = constrain(jnp.zeros((*ids.shape, dim), dtype), "batch", *(None,) * ids.ndim)
    return jax.lax.scan(add_page, empty, jnp.arange(0, entries, size))[0]


def _zero_where(mask: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.where(mask[..., None], jnp.zeros((), y.dtype), y)
