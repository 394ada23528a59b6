"""What a training step reads and writes: weights split once into those that learn and the others, and the optimizer's.

The halves are `nnx.State`s, whose weights carry the logical axes they were declared with; `merged` makes them a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from kame_jax.config import ModelConfig, RunConfig
from kame_jax.model import LM, tree
from kame_jax.sharding import Path, dotted, map_weights, tree_shardings
from kame_jax.train.optimizer import frozen_groups, group_of, make_optimizer

T = TypeVar("T")


class TrainState(NamedTuple):
    """A point of a run. A pytree; the step donates it."""

    step: jax.Array
    """int32: updates done."""
    params: nnx.State
    """Weights that learn, float32."""
    frozen: nnx.State
    """Those that do not, in `train.frozen_dtype` (conditioners in float32, as everywhere)."""
    opt_state: optax.OptState
    ema: nnx.State | None = None
    """Moving average of `params`, where the run keeps one."""


def abstract_model(config: ModelConfig, dtype: str = "float32") -> LM:
    """The model to train, without arrays: float32 weights, computing in `dtype`.

    Raises:
        ValueError: it has variables that are not parameters; those have no gradient.
    """
    model = tree.abstract_lm(config, param_dtype=jnp.float32, dtype=jnp.dtype(dtype))
    nnx.split(model, nnx.Param)
    return model


def merged(config: RunConfig, params: nnx.State, frozen: nnx.State) -> LM:
    """The model of a run with these weights."""
    graph = nnx.graphdef(abstract_model(config.model.architecture, config.train.dtype))
    return nnx.merge(graph, params, frozen)


def init_state(config: RunConfig, weights: nnx.State, places: TrainState | None = None) -> TrainState:
    """The state before the first step.

    Args:
        config: which weights learn, by which rule, in which types.
        weights: float32, of the whole model; taken over, not copied.
        places: each array's sharding; None leaves that to JAX.
    """
    still = frozen_groups(config.optimizer)
    params, frozen = nnx.split_state(weights, lambda path, _: group_of(path) not in still, ...)

    def kept(path: Path, leaf: nnx.Variable) -> nnx.Variable:
        dtype = "float32" if dotted(path).startswith("conditioners.") else config.train.frozen_dtype
        return leaf.replace(leaf.get_value().astype(dtype))

    init = make_optimizer(config.optimizer, config.train.steps).init
    opt_state = jax.jit(init, out_shardings=places and places.opt_state)(params)
    ema = None if config.train.ema is None else jax.tree.map(jnp.copy, params)
    state = TrainState(jnp.zeros((), jnp.int32), params, map_weights(kept, frozen), opt_state, ema)
    return state if places is None else jax.device_put(state, places)


def abstract_state(config: RunConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a run's state."""
    weights = nnx.state(abstract_model(config.model.architecture))
    shapes = jax.eval_shape(lambda weights: init_state(config, weights), weights)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        tree_shardings(shapes, mesh),
    )


def places_of(arrays: T) -> T:
    """The shardings of a tree's arrays, abstract or not."""
    return jax.tree.map(lambda leaf: leaf.sharding, arrays)


def init_weights(config: ModelConfig, seed: int, mesh: Mesh) -> nnx.State:
    """Random weights from a seed, made on their devices; the same on every mesh."""
    places = tree_shardings(nnx.state(abstract_model(config)), mesh)
    return make_quickly(lambda: nnx.state(LM(config, rngs=nnx.Rngs(seed))), places)


def make_quickly(make: Callable[[], T], places: Any = None) -> T:
    """Runs a function that draws random weights, compiled whole.

    A random generator is much code for XLA to optimise, and it runs once: on a CPU optimising it takes six times as
    long as everything else.

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


def checkpoint_items(state: TrainState) -> dict[str, dict[str, Any]]:
    """What a checkpoint holds of a state: the weights under `params`, what else a run continues from under `opt`."""
    weights = tree.leaves(state.params) | tree.leaves(state.frozen)
    rest = tree.leaves({"opt_state": state.opt_state}) | tree.leaves({"ema": state.ema})
    return {"params": dict(sorted(weights.items())), "opt": rest}


def from_checkpoint_items(step: int, items: Mapping[str, dict[str, Any]], abstract: TrainState) -> TrainState:
    """The inverse of `checkpoint_items`, in the form of `abstract`."""
    arrays = {
        f"{name}.{path}": value for path, value in items["params"].items() for name in ("params", "frozen")
    }
    arrays |= items["opt"] | {"step": jax.device_put(jnp.asarray(step, jnp.int32), abstract.step.sharding)}
    return tree.fill(abstract, arrays)


def count(weights: Any) -> int:
    """Parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(weights))
