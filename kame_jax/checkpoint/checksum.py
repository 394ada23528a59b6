"""A number for the bits of arrays: the same on every mesh, another one when a bit has changed."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp


def checksum(arrays: Any) -> int:
    """The sum over the bits of all arrays of a tree, each element weighed by its place.

    Sums are modulo 2^32, whose order does not matter, so that every cut over devices gives the same.
    """
    sums = jax.device_get(_sums([leaf for leaf in jax.tree.leaves(arrays) if leaf.size]))
    return reduce(lambda total, value: (total * 31 + int(value)) % (1 << 32), sums, 0)


@jax.jit
def _sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_sum(leaf) for leaf in leaves]


def _sum(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    # Odd factors: a change of any one element, by whatever, changes the sum.
    places = (
        jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(2654435761 >> axis)
        for axis in range(x.ndim)
    )
    weights = 2 * reduce(operator.add, places, jnp.zeros(x.shape, jnp.uint32)) + 1
    return jnp.sum(bits * weights, dtype=jnp.uint32)
