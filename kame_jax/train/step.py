"""The training step: a pure function of the run's settings, a state and a batch. And the forward for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kame_jax.config import DropoutConfig, ModelConfig, RunConfig
from kame_jax.errors import InputError
from kame_jax.model import LM, Execution
from kame_jax.model.conditioner import condition_values
from kame_jax.sharding import BATCH, constrain_weights, jit_on, traced_mesh
from kame_jax.train.dropout import drop_inputs
from kame_jax.train.loss import Batch, Conditions, Parts, label_counts, loss_parts, total_loss
from kame_jax.train.optimizer import group_of, make_optimizer
from kame_jax.train.state import TrainState, merged

ARRAYS = ("inputs", "labels", "oracle")
"""The parts of a batch that go to the devices."""
PACKED = (*ARRAYS, "segments")
"""The same for a batch with several samples in a row."""


class StepMetrics(NamedTuple):
    """What a step leaves to be logged, on the device until it is read."""

    parts: Parts
    """Sums over the whole batch; where each micro-batch is normalised by itself, those of each: `[micro_batches]`."""
    grad_norm: jax.Array
    """float32: global norm before clipping."""
    group_norms: dict[str, jax.Array]
    """The same of each group that learns."""


def train_step(config: RunConfig, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    """The next state, and what the step leaves to be logged. Pure; `program.make_program` compiles it.

    Means are taken over the tokens of the whole batch, however it is cut into micro-batches and over devices; with
    `loss.normalise` of "micro_batch", over those of each micro-batch, and then over micro-batches.
    """
    if config.dropout != DropoutConfig():
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        batch = batch | {"heard": drop_inputs(batch["inputs"], key, config.dropout, config.model)}
    execution = Execution(config.train.remat, config.train.attention)
    conditions = run_conditions(config.model, config.data.conditions)
    by_batch = config.loss.normalise == "global"
    counts = label_counts(batch["labels"], config.model) if by_batch else None

    def loss(params: nnx.State, batch: Batch) -> tuple[jax.Array, Parts]:
        model = merged(config, constrain_weights(params), state.frozen)
        parts = loss_parts(
            model,
            batch,
            use_oracle=config.oracle.use,
            conditions=conditions,
            execution=execution,
            chunks=config.train.loss_chunks,
        )
        share = 1 if by_batch else config.train.micro_batches
        return total_loss(parts, config.loss, counts) / share, parts

    grads, parts = summed_gradients(loss, state.params, batch, config.train.micro_batches)
    if by_batch:
        parts = jax.tree.map(lambda sums: sums.sum(axis=0), parts)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if config.train.ema is not None:
        ema = optax.incremental_update(params, ema, 1 - config.train.ema)
    metrics = StepMetrics(parts, optax.global_norm(grads), group_norms(grads))
    return TrainState(state.step + 1, params, state.frozen, opt_state, ema), metrics


def summed_gradients(
    loss: Callable[[nnx.State, Batch], tuple[jax.Array, Parts]], params: nnx.State, batch: Batch, count: int
) -> tuple[nnx.State, Parts]:
    """The gradients of a loss summed over `count` micro-batches, and its parts of each: `[count]`."""
    gradient = jax.grad(loss, has_aux=True)
    if count == 1:
        grads, parts = gradient(params, batch)
        return grads, jax.tree.map(lambda part: part[None], parts)

    def body(total: nnx.State, part: Batch) -> tuple[nnx.State, Parts]:
        grads, parts = gradient(params, part)
        return jax.tree.map(jnp.add, total, grads), parts

    zeros = constrain_weights(jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(body, zeros, cut_batch(batch, count))


def cut_batch(batch: Batch, count: int) -> Batch:
    """Micro-batches `[count, batch / count, ...]`; rows go by turns, so that each stays on its device."""

    def cut(x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
        place = PartitionSpec(None, *BATCH)
        return x if traced_mesh() is None else jax.lax.with_sharding_constraint(x, place)

    return {name: cut(x) for name, x in batch.items()}


def group_norms(grads: nnx.State) -> dict[str, jax.Array]:
    """The norm of each group's gradients, float32."""
    groups: dict[str, list[jax.Array]] = {}
    for path, grad in nnx.to_flat_state(grads):
        groups.setdefault(group_of(path), []).append(grad.get_value())
    return {name: optax.global_norm(part) for name, part in groups.items()}


def run_conditions(model: ModelConfig, given: Sequence[str]) -> Conditions:
    """The conditions of every sample, from `data.conditions`.

    Raises:
        InputError: one is missing or unknown, or has an unknown value.
    """
    pairs = (text.partition("=")[::2] for text in given)
    try:
        return condition_values(model.conditioners, [{name: value or None for name, value in pairs}])
    except InputError as error:
        raise InputError(f"data.conditions: {error}; each is name=value, or name= for not given") from None


def make_eval_step(
    mesh: Mesh, *, use_oracle: bool = True, conditions: Conditions | None = None, chunks: int = 1
) -> Callable[[LM, Batch], Parts]:
    """The jitted forward: the loss parts of a batch, summed over its tokens. Arguments as `loss_parts` takes them."""

    def step(model: LM, batch: Batch) -> Parts:
        return loss_parts(model, batch, use_oracle=use_oracle, conditions=conditions, chunks=chunks)

    return jit_on(mesh, step, out_shardings=NamedSharding(mesh, PartitionSpec()))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, size: int | None = None) -> Batch:
    """A batch on the devices, its rows cut over them.

    Args:
        batch: as `data.pipeline` gives them: all rows, or those of `local_rows`.
        mesh: the devices.
        size: rows of the whole batch; None means that they are all here.
    """
    place = NamedSharding(mesh, BATCH)

    def put(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(place, x, (size or len(x), *x.shape[1:]))

    return {name: put(batch[name]) for name in (PACKED if "segments" in batch else ARRAYS)}


def local_rows(mesh: Mesh, size: int) -> list[int]:
    """The rows of a batch that this process puts on its devices, ascending."""
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((size,)).values()
    return sorted({row for index in indices if index for row in range(size)[index[0]]})


def batch_multiple(mesh: Mesh) -> int:
    """Devices over which a batch's rows are cut."""
    return mesh.shape["replica"] * mesh.shape["fsdp"]
