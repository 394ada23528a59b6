"""What a training step reads and writes: weights, optimizer state and step count, and where they live on the mesh.

Weights are nested dictionaries by our names, the form that checkpoints are saved in; `bind` puts them into the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kame_jax.config import ModelConfig
from kame_jax.model import LM, tree
from kame_jax.sharding import shardings
from kame_jax.train.optimizer import group_of

T = TypeVar("T")

Params = dict[str, Any]
"""Nested dictionaries of arrays: `params["temporal"]["layers"]["attn_in"]["weight"]`."""


class TrainState(NamedTuple):
    """A point of a run. A pytree; the step donates it."""

    params: Params
    opt_state: Any
    step: jax.Array
    """int32: updates done."""
    ema: Params | None = None
    """Moving average of the weights that learn, where the run keeps one."""


@dataclass(frozen=True)
class Frozen:
    """Weights that do not learn: by group, and the type they are kept in."""

    groups: frozenset[str] = frozenset()
    """Of `optimizer.GROUPS`."""
    dtype: str = "float32"
    """Conditioners stay float32, as everywhere."""

    def __contains__(self, path: str) -> bool:
        """Whether the weight at `path` does not learn."""
        return group_of(path) in self.groups

    def split(self, params: Params) -> tuple[Params, Params]:
        """The weights that learn, and the others."""
        flat = tree.flatten(params)
        learning = {path: leaf for path, leaf in flat.items() if path not in self}
        return tree.nest(learning), tree.nest({path: flat[path] for path in flat if path not in learning})

    def stored(self, path: str) -> jnp.dtype:
        """The type in which the weight at `path` is kept."""
        kept = path in self and not path.startswith("conditioners.")
        return jnp.dtype(self.dtype if kept else "float32")


def joined(learning: Params, rest: Params) -> Params:
    """The inverse of `Frozen.split`."""
    return tree.nest(tree.flatten(learning) | tree.flatten(rest))


def abstract_model(config: ModelConfig, dtype: str = "float32") -> LM:
    """The model to train, without arrays: float32 weights, computing in `dtype`.

    Raises:
        ValueError: it has variables that are no parameters; there is no gradient for those.
    """
    model = tree.abstract_lm(config, param_dtype=jnp.float32, dtype=jnp.dtype(dtype))
    nnx.split(model, nnx.Param)
    return model


def params_of(model: LM) -> Params:
    """The weights of a model."""
    return tree.nest(tree.leaves(model))


def bind(model: LM, params: Params) -> LM:
    """The model (abstract or not) with these weights."""
    return tree.fill(model, tree.flatten(params))


def init_params(config: ModelConfig, seed: int, mesh: Mesh) -> Params:
    """Random weights from a seed, made where they live; the same on every mesh."""

    def init() -> Params:
        return params_of(LM(config, rngs=nnx.Rngs(seed)))

    return make_quickly(init, param_shardings(abstract_model(config), mesh))


def make_quickly(make: Callable[[], T], places: Any = None) -> T:
    """Runs a function that draws random weights, compiled whole.

    A random generator is much code for XLA to optimise, and it runs once: on a CPU its optimising takes six times as
    long as all the rest.

    Args:
        make: without arguments.
        places: shardings of the result; None leaves it on the default device.
    """
    platform = (
        jax.default_backend() if places is None else jax.tree.leaves(places)[0].mesh.devices.flat[0].platform
    )
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = quick if platform == "cpu" else None
    return jax.jit(make, out_shardings=places, compiler_options=options)()


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    places: TrainState,
    frozen: Frozen = Frozen(),
    *,
    ema: bool = False,
) -> TrainState:
    """The state before the first step. The weights are taken over, not copied."""
    flat = tree.flatten(params)
    for path in flat:
        flat[path] = flat[path].astype(frozen.stored(path))
    params = tree.nest(flat)
    learning = frozen.split(params)[0]
    opt_state = jax.jit(optimizer.init, out_shardings=places.opt_state)(learning)
    average = jax.tree.map(jnp.copy, learning) if ema else None
    return TrainState(params, opt_state, jax.device_put(jnp.zeros((), jnp.int32), places.step), average)


def abstract_state(
    model: LM, optimizer: optax.GradientTransformation, frozen: Frozen = Frozen(), *, ema: bool = False
) -> TrainState:
    """Shapes and dtypes of a state."""
    flat = tree.flatten(params_of(model))
    params = tree.nest(
        {path: jax.ShapeDtypeStruct(leaf.shape, frozen.stored(path)) for path, leaf in flat.items()}
    )
    learning = frozen.split(params)[0]
    opt_state = jax.eval_shape(optimizer.init, learning)
    return TrainState(params, opt_state, jax.ShapeDtypeStruct((), jnp.int32), learning if ema else None)


def param_shardings(model: LM, mesh: Mesh) -> Params:
    """Where each weight lives."""
    return tree.nest(shardings(model, mesh))


def state_shardings(
    model: LM,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    frozen: Frozen = Frozen(),
    *,
    ema: bool = False,
) -> TrainState:
    """Where each array of a state lives: a moment beside its weight, counters everywhere.

    Shapes alone cannot say it (two weights may share one); the path of a moment ends with that of its weight.
    """
    places = shardings(model, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple[Any, ...], _: Any) -> NamedSharding:
        name = dotted(path)
        while name and name not in places:
            name = name.partition(".")[2]
        return places.get(name, everywhere)

    return jax.tree_util.tree_map_with_path(place, abstract_state(model, optimizer, frozen, ema=ema))


def dotted(path: tuple[Any, ...]) -> str:
    """A pytree path as text: `opt_state.1.inner_states.depth.inner_state.0.mu.depth.input.weight`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def checkpoint_items(state: TrainState) -> tuple[Params, dict[str, Any]]:
    """The items `params` and `opt` of a checkpoint, the optimizer's state by its own field names."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state.opt_state)
    opt = {"opt_state": tree.nest({dotted(path): leaf for path, leaf in flat})}
    return state.params, opt if state.ema is None else opt | {"ema": state.ema}


def from_checkpoint_items(
    step: int, params: Params, opt: Mapping[str, Any], places: TrainState
) -> TrainState:
    """The inverse of `checkpoint_items`."""
    named = tree.flatten(opt["opt_state"])
    opt_state = jax.tree_util.tree_map_with_path(lambda path, _: named[dotted(path)], places.opt_state)
    count = jax.device_put(jnp.asarray(step, jnp.int32), places.step)
    return TrainState(params, opt_state, count, opt.get("ema"))


def count(params: Mapping[str, Any]) -> int:
    """Parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
