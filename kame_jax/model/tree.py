"""Our side of a conversion: the parameter trees of the models, by dotted path, without allocating them.

The models declare their weights once (`kame_jax.model.layers.param`); here the declarations are read, and arrays are
put in their place.
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

M = TypeVar("M", bound=nnx.Module)


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
    """Whichever model the configuration describes."""
    return abstract_mimi(config) if isinstance(config, MimiConfig) else abstract_lm(config)


def leaves(module: nnx.Module) -> dict[str, jax.ShapeDtypeStruct | jax.Array]:
    """Path -> weight (or its abstract stand-in), in the order of the paths."""
    return {_dotted(path): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(module))}


def shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Path -> shape."""
    return {path: tuple(leaf.shape) for path, leaf in leaves(module).items()}


def axes(module: nnx.Module) -> dict[str, tuple[str, ...]]:
    """Path -> logical name of each dimension, empty where a weight declares none."""
    flat = nnx.to_flat_state(nnx.state(module))
    return {_dotted(path): tuple(leaf.get_metadata().get("axes") or ()) for path, leaf in flat}


def fill(module: M, arrays: Mapping[str, jax.Array]) -> M:
    """The module with `arrays` (by path, all of them) as its weights."""
    graphdef, state = nnx.split(module)
    filled = [(path, leaf.replace(arrays[_dotted(path)])) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths to nested dictionaries, the form checkpoints are saved in."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries to dotted paths; the inverse of `nest`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def count(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> int:
    """Parameters in the arrays whose path starts with `prefix`."""
    return sum(
        int(np.prod(shape, dtype=np.int64)) for path, shape in shapes.items() if path.startswith(prefix)
    )


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
