"""What a run compiles: its state's form and its step on a mesh, all from the configuration alone.

`loop` runs it and `kame_jax.plan` compiles it for hardware that is not present; neither adds anything to the step.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kame_jax.config import ModelConfig, RunConfig
from kame_jax.errors import InputError
from kame_jax.sharding import BATCH, jit_on, make_mesh
from kame_jax.train.loss import Batch
from kame_jax.train.optimizer import group_of
from kame_jax.train.state import TrainState, abstract_state, places_of
from kame_jax.train.step import ARRAYS, PACKED, StepMetrics, batch_multiple, run_conditions, train_step


class Step(Protocol):
    """A jitted `train_step` of one run; its first argument is donated."""

    def __call__(self, state: TrainState, batch: Batch, /) -> tuple[TrainState, StepMetrics]:
        """The next state, and what the step leaves to be logged."""

    def lower(self, state: TrainState, batch: Batch, /) -> Any:
        """The program for arguments of these shapes and shardings."""


class Program(NamedTuple):
    """Everything about a run's step except the weights and the data."""

    config: RunConfig
    """The run's, with the attention kernel chosen."""
    state: TrainState
    """Shapes, dtypes and shardings."""
    step: Step


def make_program(config: RunConfig, mesh: Mesh) -> Program:
    """The step that a run's settings describe.

    Raises:
        InputError: no weights are left to train, a condition of the model is missing, or the attention kernel does not
            exist on the mesh's platform.
    """
    run_conditions(config.model, config.data.conditions)
    attention = choose_attention(config, mesh)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, attention=attention))
    state = abstract_state(config, mesh)
    if not jax.tree.leaves(state.params):
        raise InputError("optimizer: every group that the model has is frozen, nothing is left to train")
    places, everywhere = places_of(state), NamedSharding(mesh, PartitionSpec())

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        return train_step(config, state, batch)

    jitted = jit_on(
        mesh,
        step,
        donate_argnums=0,
        in_shardings=(places, NamedSharding(mesh, BATCH)),
        out_shardings=(places, everywhere),
    )
    return Program(config, state, jitted)


def choose_attention(config: RunConfig, mesh: Mesh) -> str:
    """The kernel of the temporal attention: the requested one, or the best that fits model and platform.

    Raises:
        InputError: the requested one does not run there.
    """
    platform = mesh.devices.flat[0].platform
    head_dim = config.model.temporal.head_dim
    homes = {"splash": "tpu", "cudnn": "gpu"}
    fits = {
        # The kernels' own limits: whole lanes of a TPU; cuDNN's widest head, and its 16-bit types.
        "splash": head_dim % 128 == 0,
        "cudnn": head_dim <= 128 and head_dim % 8 == 0 and config.train.dtype == "bfloat16",
    }
    if config.data.pack:
        fits["cudnn"] = False  # it cannot keep segments apart
    wanted = config.train.attention
    if wanted == "auto":
        return next((kind for kind, home in homes.items() if home == platform and fits[kind]), "xla")
    if wanted in homes and (homes[wanted] != platform or not fits[wanted]):
        limits = {
            "splash": "heads of a multiple of 128",
            "cudnn": "heads of up to 128 and bfloat16, and keeps no packed dialogues apart",
        }
        packed = " and data.pack" if config.data.pack else ""
        raise InputError(
            f"train.attention: {wanted} runs on {homes[wanted]} with {limits[wanted]}; this is {platform} "
            f"with heads of {head_dim} in {config.train.dtype}{packed}: use auto or xla"
        )
    return wanted


def configured_mesh(config: RunConfig, devices: list[jax.Device]) -> Mesh:
    """The mesh of a run's settings over some devices.

    Raises:
        InputError: it does not fit them.
    """
    try:
        return make_mesh(config.mesh.replica, config.mesh.fsdp, config.mesh.tensor, devices)
    except ValueError as error:
        raise InputError(f"mesh: {error}") from error


def run_mesh(config: RunConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh of a run.

    Args:
        config: the run.
        devices: the available ones; None takes all.

    Raises:
        InputError: it does not fit the devices, or the batch does not fit it.
    """
    mesh = configured_mesh(config, jax.devices() if devices is None else devices)
    rows, cut = config.train.batch_size // config.train.micro_batches, batch_multiple(mesh)
    if rows % cut:
        raise InputError(
            f"train.batch_size: {config.train.batch_size} in {config.train.micro_batches} micro-batches "
            f"gives {rows} rows, expected a multiple of the {cut} devices of mesh.replica x mesh.fsdp"
        )
    return mesh


def abstract_batch(model: ModelConfig, rows: int, length: int, mesh: Mesh, packed: bool = False) -> Batch:
    """Shapes of a batch as `step.put_batch` puts it on the devices."""
    place = NamedSharding(mesh, BATCH)
    shapes = {
        name: (rows, model.num_rows, length) if name in ("inputs", "labels") else (rows, length)
        for name in (PACKED if packed else ARRAYS)
    }
    return {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place) for name, shape in shapes.items()}


def learning_groups(program: Program) -> list[str]:
    """The groups that learn and have weights, in a fixed order."""
    return sorted({group_of(path) for path, _ in nnx.to_flat_state(program.state.params)})
