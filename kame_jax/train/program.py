"""What a run compiles: its model, optimizer and step on a mesh, all from the configuration alone.

`loop` runs it and `kame_jax.plan` compiles it for hardware that is not there; neither adds anything to the step.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from kame_jax.config import ModelConfig, RunConfig
from kame_jax.errors import InputError
from kame_jax.model import LM, Execution
from kame_jax.sharding import BATCH, make_mesh
from kame_jax.train.loss import Batch
from kame_jax.train.optimizer import frozen_groups, group_of, make_optimizer
from kame_jax.train.state import Frozen, TrainState, abstract_model, abstract_state, state_shardings
from kame_jax.train.step import ARRAYS, PACKED, Step, batch_multiple, make_train_step


class Program(NamedTuple):
    """Everything about a run's step but the weights and the data."""

    model: LM
    """Abstract."""
    optimizer: optax.GradientTransformation
    frozen: Frozen
    execution: Execution
    places: TrainState
    """Where each array of the state lives."""
    step: Step

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        shapes = abstract_state(self.model, self.optimizer, self.frozen, ema=self.places.ema is not None)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            self.places,
        )


def make_program(config: RunConfig, mesh: Mesh) -> Program:
    """The step that a run's settings describe.

    Raises:
        InputError: no weight is left to learn, or the attention kernel does not exist on the mesh's platform.
    """
    model = abstract_model(config.model.architecture, config.train.dtype)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    frozen = Frozen(frozen_groups(config.optimizer), config.train.frozen_dtype)
    execution = Execution(config.train.remat, choose_attention(config, mesh))
    places = state_shardings(model, optimizer, mesh, frozen, ema=config.train.ema is not None)
    if not jax.tree.leaves(frozen.split(places.params)[0]):
        raise InputError("optimizer: every group that the model has is frozen, nothing is left to learn")
    step = make_train_step(
        model,
        optimizer,
        config.loss,
        mesh,
        micro_batches=config.train.micro_batches,
        use_oracle=config.oracle.use,
        execution=execution,
        chunks=config.train.loss_chunks,
        frozen=frozen,
        ema=config.train.ema,
        dropout=config.dropout,
        seed=config.seed,
    )
    return Program(model, optimizer, frozen, execution, places, step)


def choose_attention(config: RunConfig, mesh: Mesh) -> str:
    """The kernel of the temporal attention: the one asked for, or the best that fits model and platform.

    Raises:
        InputError: the one asked for does not run there.
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
        fits["cudnn"] = False  # it keeps no segments apart
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


def run_mesh(config: RunConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh of a run.

    Args:
        config: the run.
        devices: what there is; None takes all.

    Raises:
        InputError: it does not fit the devices, or the batch does not fit it.
    """
    try:
        mesh = make_mesh(config.mesh.replica, config.mesh.fsdp, config.mesh.tensor, devices)
    except ValueError as error:
        raise InputError(f"mesh: {error}") from error
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
    leaves = jax.tree_util.tree_leaves_with_path(program.frozen.split(program.places.params)[0])
    return sorted({group_of(jax.tree_util.keystr(path, simple=True, separator=".")) for path, _ in leaves})
