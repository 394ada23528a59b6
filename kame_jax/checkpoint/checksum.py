"""Checksums over the bits of arrays: the same on every mesh, different when a bit has changed."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FACTOR = 2654435761
"""An odd number; its halves, one for each axis, spread the weights of places."""
BLOCK = 1 << 20
"""Elements of an array on the host that are summed at once."""


def checksum(arrays: Any) -> int:
    """One number for all arrays of a tree."""
    return combined(sums(arrays))


def sums(arrays: Any) -> list[int]:
    """For each array of a tree that is not empty, the sum over its bits, each element weighed by its place.

    Sums are modulo 2^32, in which order does not matter, so that every sharding gives the same.
    """
    found = jax.device_get(_sums([leaf for leaf in jax.tree.leaves(arrays) if leaf.size]))
    return [int(value) for value in found]


def named_sums(arrays: Any) -> dict[str, int]:
    """`sums` by the dotted path of each array, in the order of `jax.tree.leaves`."""
    found = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(arrays) if leaf.size]
    names = [".".join(str(part.key) for part in path) for path, _ in found]
    return dict(zip(names, sums([leaf for _, leaf in found]), strict=True))


def combined(values: Iterable[int]) -> int:
    """One number for many."""
    return reduce(lambda total, value: (total * 31 + value) % (1 << 32), values, 0)


def host_sum(array: np.ndarray) -> int:
    """`sums` of one array that is in the host's memory."""
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    rows = bits.reshape(-1, array.shape[-1] if array.ndim else 1)
    # Weights are sums over the axes, so that totals along each axis are enough.
    along_last = np.zeros(rows.shape[1], np.uint32)
    others: np.ndarray = np.zeros(len(rows), np.uint32)
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.uint32)
        along_last += block.sum(0, dtype=np.uint32)
        others[start : start + step] = block.sum(1, dtype=np.uint32)
    total = int(others.sum(dtype=np.uint64))
    others = others.reshape(array.shape[:-1])
    for axis in range(array.ndim):
        away = tuple(other for other in range(array.ndim - 1) if other != axis)
        along = along_last if axis == array.ndim - 1 else others.sum(away, dtype=np.uint32)
        places = np.arange(len(along), dtype=np.uint64)
        total += 2 * (FACTOR >> axis) * int((along * places).sum(dtype=np.uint64))
    return total % (1 << 32)


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_sum(leaf) for leaf in leaves]


def _sum(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    # Odd factors: any change of one element changes the sum.
    places = (
        jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(FACTOR >> axis)
        for axis in range(x.ndim)
    )
    weights = 2 * reduce(operator.add, places, jnp.zeros(x.shape, jnp.uint32)) + 1
    return jnp.sum(bits * weights, dtype=jnp.uint32)
