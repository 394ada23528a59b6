"""Our side of a conversion: the parameter trees of the models, by dotted path, without allocating them.

The models declare their weights once (`kame_jax.model.layers.param`); here the declarations are read, and arrays are
substituted for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kame_jax.codec.mimi import Mimi
from kame_jax.config import MimiConfig, ModelConfig
from kame_jax.model.lm import LM
from kame_jax.sharding import Path, dotted, is_weight, map_weights

T = TypeVar("T")


class _OneKey:
    """Stands for `nnx.Rngs` where only shapes matter: counting draws would take most of the time."""

    def params(self) -> jax.Array:
        """The key of every draw."""
        return jax.random.key(0)


def abstract_lm(config: ModelConfig, param_dtype: Any = jnp.float32, dtype: Any = None) -> LM:
    """The language model with `jax.ShapeDtypeStruct` in place of its weights."""
    model: LM = nnx.eval_shape(lambda: LM(config, rngs=_OneKey(), param_dtype=param_dtype, dtype=dtype))
    return model


def abstract_mimi(config: MimiConfig) -> Mimi:
    """The codec with `jax.ShapeDtypeStruct` in place of its weights."""
    mimi: Mimi = nnx.eval_shape(lambda: Mimi(_OneKey(), config))
    return mimi


def abstract(config: ModelConfig | MimiConfig) -> LM | Mimi:
    """The model that the configuration describes."""
    return abstract_mimi(config) if isinstance(config, MimiConfig) else abstract_lm(config)


def leaves(tree: Any) -> dict[str, Any]:
    """Path -> array (or its abstract stand-in) of a module, of a state of weights, or of a tree that holds such."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_weight)
    return {dotted(path): leaf.get_value() if is_weight(leaf) else leaf for path, leaf in found}


def shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Path -> shape."""
    return {path: tuple(leaf.shape) for path, leaf in leaves(module).items()}


def axes(module: nnx.Module) -> dict[str, tuple[str, ...]]:
    """Path -> logical name of each dimension, empty where a weight declares none."""
    found, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=is_weight)
    return {dotted(path): tuple(leaf.get_metadata().get("axes") or ()) for path, leaf in found}


def fill(tree: T, arrays: Mapping[str, Any]) -> T:
    """The tree with `arrays` (by path, all of them) in place of its leaves; the inverse of `leaves`."""

    def filled(path: Path, leaf: Any) -> Any:
        array = arrays[dotted(path)]
        return leaf.replace(array) if is_weight(leaf) else array

    return map_weights(filled, tree)


def count(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> int:
    """Parameters in the arrays whose path starts with `prefix`."""
    return sum(
        int(np.prod(shape, dtype=np.int64)) for path, shape in shapes.items() if path.startswith(prefix)
    )
