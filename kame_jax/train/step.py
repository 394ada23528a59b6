"""The training step: one jitted pure function of the state and a batch; and the same forward for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kame_jax.config import DropoutConfig, LossConfig
from kame_jax.model import LM, Execution, tree
from kame_jax.sharding import BATCH
from kame_jax.train.dropout import drop_inputs
from kame_jax.train.loss import Batch, Parts, label_counts, loss_parts, total_loss
from kame_jax.train.optimizer import group_of
from kame_jax.train.state import (
    Frozen,
    Params,
    TrainState,
    bind,
    joined,
    param_shardings,
    state_shardings,
)

ARRAYS = ("inputs", "labels", "oracle")
"""What of a batch goes to the devices."""
PACKED = (*ARRAYS, "segments")
"""The same of a batch whose rows hold several samples each."""


class StepMetrics(NamedTuple):
    """What a step leaves to be logged, on the device until it is asked for."""

    parts: Parts
    """Sums over the whole batch; where each micro-batch is normalised by itself, those of each: `[micro_batches]`."""
    grad_norm: jax.Array
    """float32: global norm before clipping."""
    group_norms: dict[str, jax.Array]
    """The same of each group that learns."""


class Step(Protocol):
    """A jitted step; its first argument is donated."""

    def __call__(self, state: TrainState, batch: Batch, /) -> tuple[TrainState, StepMetrics]:
        """The next state, and what the step leaves to be logged."""

    def lower(self, state: TrainState, batch: Batch, /) -> Any:
        """The program for arguments of these shapes and shardings."""


def make_train_step(
    model: LM,
    optimizer: optax.GradientTransformation,
    weights: LossConfig,
    mesh: Mesh,
    *,
    micro_batches: int = 1,
    use_oracle: bool = True,
    execution: Execution = Execution(),
    chunks: int = 1,
    frozen: Frozen = Frozen(),
    ema: float | None = None,
    dropout: DropoutConfig = DropoutConfig(),
    seed: int = 0,
) -> Step:
    """The jitted step; its first argument is donated.

    Means are taken over the tokens of the whole batch, however it is cut into micro-batches and over devices; with
    `weights.normalise` of "micro_batch", over those of each micro-batch, and then over micro-batches.

    Args:
        model: abstract (see `state.abstract_model`).
        optimizer: see `make_optimizer`.
        weights: of the loss parts.
        mesh: state and batch are sharded on it, as `state_shardings` and `put_batch` do.
        micro_batches: parts that are worked on one after the other; must divide the batch.
        use_oracle: False leaves the oracle embedding out.
        execution: how the forward runs.
        chunks: of the logits; see `loss_parts`.
        frozen: the weights that do not learn.
        ema: decay of the moving average of the weights; None keeps none.
        dropout: of the temporal transformer's inputs; drawn from (seed, step), the same on every mesh.
        seed: of the dropout.
    """
    places = state_shardings(model, optimizer, mesh, frozen, ema=ema is not None)

    def gradients(params: Params, batch: Batch) -> tuple[Params, Parts]:
        counts = label_counts(batch["labels"], model.config)
        learning, rest = frozen.split(params)

        def loss(learning: Params, batch: Batch) -> tuple[jax.Array, Parts]:
            # Also of the gradients: each device sums up its own part of them alone.
            learning = jax.lax.with_sharding_constraint(learning, frozen.split(places.params)[0])
            whole = bind(model, joined(learning, rest))
            parts = loss_parts(whole, batch, use_oracle=use_oracle, execution=execution, chunks=chunks)
            if weights.normalise == "micro_batch":
                return total_loss(parts, weights) / micro_batches, parts
            return total_loss(parts, weights, counts), parts

        grad = jax.grad(loss, has_aux=True)
        if micro_batches == 1:
            return grad(learning, batch)

        def body(total: Params, part: Batch) -> tuple[Params, Parts]:
            grads, parts = grad(learning, part)
            return jax.tree.map(jax.numpy.add, total, grads), parts

        zeros = jax.tree.map(jax.numpy.zeros_like, learning)
        zeros = jax.lax.with_sharding_constraint(zeros, frozen.split(places.params)[0])
        grads, parts = jax.lax.scan(body, zeros, _cut(batch, micro_batches, mesh))
        if weights.normalise == "global":
            parts = jax.tree.map(lambda x: x.sum(axis=0), parts)
        return grads, parts

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        if dropout != DropoutConfig():
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            batch = batch | {"heard": drop_inputs(batch["inputs"], key, dropout, model.config)}
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            grads, parts = gradients(state.params, batch)
        learning, rest = frozen.split(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, learning)
        learning = optax.apply_updates(learning, updates)
        average = state.ema
        if ema is not None:
            average = jax.tree.map(lambda old, new: old + (1 - ema) * (new - old), average, learning)
        metrics = StepMetrics(parts, optax.global_norm(grads), group_norms(grads))
        return TrainState(joined(learning, rest), opt_state, state.step + 1, average), metrics

    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(places, NamedSharding(mesh, BATCH)),
        out_shardings=(places, everywhere),
    )


def group_norms(grads: Params) -> dict[str, jax.Array]:
    """The norm of each group's gradients, float32."""
    groups: dict[str, list[jax.Array]] = {}
    for path, grad in tree.flatten(grads).items():
        groups.setdefault(group_of(path), []).append(grad)
    return {name: optax.global_norm(part) for name, part in groups.items()}


def _cut(batch: Batch, count: int, mesh: Mesh) -> Batch:
    """Micro-batches `[count, batch / count, ...]`; rows go by turns, so that each stays on its device."""
    place = NamedSharding(mesh, PartitionSpec(None, *BATCH))
    return {
        name: jax.lax.with_sharding_constraint(
            x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), place
        )
        for name, x in batch.items()
    }


def make_eval_step(
    model: LM, mesh: Mesh, *, use_oracle: bool = True, chunks: int = 1
) -> Callable[[Params, Batch], Parts]:
    """The jitted forward: the loss parts of a batch, summed over its tokens. Arguments as in `make_train_step`."""

    def step(params: Params, batch: Batch) -> Parts:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return loss_parts(bind(model, params), batch, use_oracle=use_oracle, chunks=chunks)

    return jax.jit(
        step,
        in_shardings=(param_shardings(model, mesh), NamedSharding(mesh, BATCH)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, size: int | None = None) -> Batch:
    """A batch on the devices, its rows cut over them.

    Args:
        batch: as `data.pipeline` gives them: all rows, or those of `local_rows`.
        mesh: the devices.
        size: rows of the whole batch; None says that they are all here.
    """
    place = NamedSharding(mesh, BATCH)
    count = len(batch[ARRAYS[0]]) if size is None else size
    at = {row: i for i, row in enumerate(range(count) if size is None else local_rows(mesh, count))}

    def put(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            rows = [at[row] for row in range(count)[index[0]]]
            return x[rows[0] : rows[-1] + 1] if rows else x[:0]

        return jax.make_array_from_callback((count, *x.shape[1:]), place, part)

    return {name: put(batch[name]) for name in (PACKED if "segments" in batch else ARRAYS)}


def local_rows(mesh: Mesh, size: int) -> list[int]:
    """The rows of a batch that this process puts on its devices, ascending."""
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((size,)).values()
    return sorted({row for index in indices if index for row in range(size)[index[0]]})


def batch_multiple(mesh: Mesh) -> int:
    """Devices over which a batch's rows are cut."""
    return mesh.shape["replica"] * mesh.shape["fsdp"]
