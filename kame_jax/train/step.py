"""The training step: one jitted pure function of the state and a batch; and the same forward for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kame_jax.config import DropoutConfig, LossConfig
from kame_jax.model import LM
from kame_jax.sharding import BATCH
from kame_jax.train.dropout import drop_inputs
from kame_jax.train.loss import Batch, Parts, add_parts, label_counts, loss_parts, total_loss
from kame_jax.train.state import Params, TrainState, bind, param_shardings, state_shardings

ARRAYS = ("inputs", "labels", "oracle")
"""What of a batch goes to the devices."""


class StepMetrics(NamedTuple):
    """What a step leaves to be logged, on the device until it is asked for."""

    parts: Parts
    """Sums over the whole batch."""
    grad_norm: jax.Array
    """float32: global norm before clipping."""


Step = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def make_train_step(
    model: LM,
    optimizer: optax.GradientTransformation,
    weights: LossConfig,
    mesh: Mesh,
    *,
    micro_batches: int = 1,
    use_oracle: bool = True,
    remat: bool = False,
    dropout: DropoutConfig = DropoutConfig(),
    seed: int = 0,
) -> Step:
    """The jitted step; its first argument is donated.

    Means are taken over the tokens of the whole batch, however it is cut into micro-batches and over devices.

    Args:
        model: abstract (see `state.abstract_model`).
        optimizer: see `make_optimizer`.
        weights: of the loss parts.
        mesh: state and batch are sharded on it, as `state_shardings` and `put_batch` do.
        micro_batches: parts that are worked on one after the other; must divide the batch.
        use_oracle: False leaves the oracle embedding out.
        remat: recompute each layer in the backward pass.
        dropout: of the temporal transformer's inputs; drawn from (seed, step), the same on every mesh.
        seed: of the dropout.
    """
    places = state_shardings(model, optimizer, mesh)

    def loss(params: Params, batch: Batch, counts: Mapping[str, jax.Array]) -> tuple[jax.Array, Parts]:
        parts = loss_parts(bind(model, params), batch, use_oracle=use_oracle, remat=remat)
        return total_loss(parts, weights, dict(counts)), parts

    def gradients(params: Params, batch: Batch) -> tuple[Params, Parts]:
        counts = label_counts(batch["labels"], model.config)
        grad = jax.grad(loss, has_aux=True)
        if micro_batches == 1:
            return grad(params, batch, counts)

        def body(total: Any, part: Batch) -> tuple[Any, None]:
            grads, parts = grad(params, part, counts)
            return (jax.tree.map(jax.numpy.add, total[0], grads), add_parts(total[1], parts)), None

        cut = _cut(batch, micro_batches, mesh)
        shapes = jax.eval_shape(grad, params, jax.tree.map(lambda x: x[0], cut), counts)
        zeros = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes)
        zeros = (jax.lax.with_sharding_constraint(zeros[0], places.params), zeros[1])
        return jax.lax.scan(body, zeros, cut)[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        if dropout != DropoutConfig():
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            batch = batch | {"heard": drop_inputs(batch["inputs"], key, dropout, model.config)}
        grads, parts = gradients(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1), StepMetrics(parts, optax.global_norm(grads))

    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(places, NamedSharding(mesh, BATCH)),
        out_shardings=(places, everywhere),
    )


def _cut(batch: Batch, count: int, mesh: Mesh) -> Batch:
    """Micro-batches `[count, batch / count, ...]`; rows go by turns, so that each stays on its device."""
    place = NamedSharding(mesh, PartitionSpec(None, *BATCH))
    return {
        name: jax.lax.with_sharding_constraint(
            x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), place
        )
        for name, x in batch.items()
    }


def make_eval_step(model: LM, mesh: Mesh, *, use_oracle: bool = True) -> Callable[[Params, Batch], Parts]:
    """The jitted forward: the loss parts of a batch, summed over its tokens. Arguments as in `make_train_step`."""

    def step(params: Params, batch: Batch) -> Parts:
        return loss_parts(bind(model, params), batch, use_oracle=use_oracle)

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

    return {name: put(batch[name]) for name in ARRAYS}


def local_rows(mesh: Mesh, size: int) -> list[int]:
    """The rows of a batch that this process puts on its devices, ascending."""
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((size,)).values()
    return sorted({row for index in indices if index for row in range(size)[index[0]]})


def batch_multiple(mesh: Mesh) -> int:
    """Devices over which a batch's rows are cut."""
    return mesh.shape["replica"] * mesh.shape["fsdp"]
