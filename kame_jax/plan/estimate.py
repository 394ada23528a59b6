"""What a step needs, in closed form: bytes on each device, and the time that compute, memory and links take.

The state is exact (every array, as the mesh cuts it). Activations are a sum over what the remat policy keeps and what
one layer's backward pass works on; the compiler may do better or worse.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from kame_jax.config import RunConfig, TransformerConfig
from kame_jax.model import tree
from kame_jax.plan.target import Target
from kame_jax.sharding import MESH_AXES, shardings
from kame_jax.train.flops import frame_flops
from kame_jax.train.optimizer import frozen_groups, group_of
from kame_jax.train.state import abstract_model, abstract_state


class Memory(NamedTuple):
    """Bytes on one device."""

    arguments: int
    """Weights, optimizer state and batch."""
    temporaries: int
    """Gradients, activations, gathered weights, logits."""

    @property
    def peak(self) -> int:
        """Both."""
        return self.arguments + self.temporaries


class Times(NamedTuple):
    """Seconds that a step takes at least, by what limits it."""

    compute: float
    memory: float
    links: float
    """Inside a slice or box."""
    network: float
    """Between them."""

    @property
    def overlapped(self) -> float:
        """Everything at once, as the compiler tries to have it."""
        return max(self)

    @property
    def serial(self) -> float:
        """Nothing overlaps."""
        return sum(self)


def abstract_mesh(config: RunConfig, devices: int) -> AbstractMesh:
    """The run's mesh over devices that are not present; sizes as `sharding.make_mesh` resolves them."""
    sizes = [config.mesh.replica, config.mesh.fsdp, config.mesh.tensor]
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, devices // -math.prod(sizes))
    if math.prod(sizes) != devices:
        raise ValueError(f"a mesh of {dict(zip(MESH_AXES, sizes))} does not fit {devices} devices")
    return AbstractMesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def estimate_memory(config: RunConfig, mesh: Mesh | AbstractMesh, length: int) -> Memory:
    """The bytes on a device of the mesh.

    Args:
        config: the run.
        mesh: of the target.
        length: columns of a row of the batch.
    """
    state = abstract_state(config, mesh)
    arguments, gradients = _held(state), _held(state.params)
    rows = config.train.batch_size // config.train.micro_batches
    rows = max(1, rows // (mesh.shape["replica"] * mesh.shape["fsdp"]))
    return Memory(arguments, gradients + _activations(config, mesh, rows * length))


def _held(arrays: Any) -> int:
    """Bytes of a tree's shards on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(arrays)
    )


def _activations(config: RunConfig, mesh: Mesh | AbstractMesh, frames: int) -> int:
    """Bytes of everything between the layers for `frames` frames, and of the weights gathered for them."""
    model, tensor = config.model, mesh.shape["tensor"]
    wide = 2 if config.train.dtype == "bfloat16" else 4
    flash = config.train.attention != "xla"
    total = _stack(model.temporal, frames, tensor, wide, config, attended=0 if flash else frames)
    classes = model.text_card_out or model.text_card
    if model.depth is not None:
        total += _stack(model.depth, frames * model.dep_q, tensor, wide, config, attended=model.dep_q)
        classes = max(classes, model.dep_q * model.card)
    # Logits, their softmax and their gradient.
    total += 3 * 4 * frames * classes // (config.train.loss_chunks * tensor)
    if mesh.shape["fsdp"] > 1:
        whole = tree.shapes(abstract_model(model.architecture))
        layer = tree.count(whole, "temporal.layers.") // model.temporal.num_layers
        # A cast copy of all shards; two layers in flight, and the gradient of one; the text head and its gradient.
        total += wide * sum(
            math.prod(place.shard_shape(whole[path]))
            for path, place in shardings(abstract_model(model.architecture), mesh).items()
        )
        total += wide * (3 * layer + 2 * tree.count(whole, "text_head.")) // tensor
    return total


def _stack(
    config: TransformerConfig, steps: int, tensor: int, wide: int, run: RunConfig, attended: int
) -> int:
    """A stack of layers: what each keeps, and what the backward pass of one recomputes."""
    ffn = (1 if config.gating == "none" else 2) * config.ffn_dim
    kept = {
        "full": config.dim,
        "attention": 2 * config.dim,
        "dots": 4 * config.dim + (3 * config.dim + ffn) // tensor,
        "none": 10 * config.dim + (6 * config.dim + 3 * ffn) // tensor,
    }[run.train.remat]
    working = 8 * config.dim + (8 * config.dim + 4 * ffn) // tensor
    scores = 3 * 4 * config.num_heads * attended * steps // tensor
    return wide * steps * (config.num_layers * kept + working) + scores


def step_flops(config: RunConfig, length: int) -> tuple[float, float]:
    """FLOPs of a step over all devices, by the closed form: those that MFU counts, and those that are executed."""
    frames = config.train.batch_size * (length - 1)
    each = frame_flops(
        config.model.architecture,
        length - 1,
        frozen=frozen_groups(config.optimizer),
        remat=config.train.remat,
    )
    return frames * each.train, frames * each.hardware


def estimate_traffic(config: RunConfig, mesh: Mesh | AbstractMesh) -> tuple[float, float]:
    """Bytes that a device sends in a step inside its slice and beyond it, where no compiler reports them.

    Each micro-batch gathers the weights for the forward and again for the backward pass, and sums up the gradients of
    those that learn; embedding tables are gathered once, and their gradients summed in float32.
    """
    wide = 2 if config.train.dtype == "bfloat16" else 4
    shapes = tree.shapes(abstract_model(config.model.architecture))
    frozen = frozen_groups(config.optimizer)
    inside, learning = 0.0, 0
    for path, shape in shapes.items():
        size, learns, table = math.prod(shape), group_of(path.split(".")) not in frozen, "_emb." in path
        learning += size * learns
        inside += size * ((wide + 4 * learns) if table else wide * (2 + learns))
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    inside *= (fsdp - 1) / fsdp / tensor * config.train.micro_batches
    replica = mesh.shape["replica"]
    beyond = 2 * 4 * learning / (fsdp * tensor) * (replica - 1) / replica
    return inside, beyond


def step_times(
    config: RunConfig, target: Target, mesh: Mesh | AbstractMesh, length: int, sent: tuple[float, float]
) -> Times:
    """The rooflines of a step.

    Args:
        config: the run.
        target: the machine.
        mesh: over them.
        length: columns of a row of the batch.
        sent: bytes that a device sends inside its slice, and beyond it.
    """
    hardware = step_flops(config, length)[1] / target.devices
    memory = estimate_memory(config, mesh, length)
    weights = sum(map(math.prod, tree.shapes(abstract_model(config.model.architecture)).values()))
    wide = 2 if config.train.dtype == "bfloat16" else 4
    # The state is read and written; gathered weights are written once and read by each pass over them; what is kept
    # for the backward pass is written and read.
    passes = (2 if config.train.remat == "none" else 3) * config.train.micro_batches
    touched = 2 * memory.arguments + 2 * wide * weights * passes / mesh.shape["tensor"]
    touched += 4 * memory.temporaries * config.train.micro_batches
    chip = target.chip
    return Times(
        hardware / chip.flops, touched / chip.bandwidth, sent[0] / target.bandwidth, sent[1] / chip.network
    )
