"""Where weights and batches live: the device mesh, and the one table of logical-axis rules.

Every weight names its dimensions (`kame_jax.model.layers.param`); the rules map those names to mesh axes. Nothing in
the model changes with the mesh. The axes are Auto: `jax.jit` over arrays with `NamedSharding` does the rest.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

log = logging.getLogger(__name__)

T = TypeVar("T")

Path = tuple[Any, ...]
"""Keys of a leaf, as `jax.tree_util` gives them."""

MESH_AXES = ("replica", "fsdp", "tensor")
"""`replica` copies the weights, `fsdp` cuts weights and batch, `tensor` cuts heads and feed-forward widths."""

RULES: dict[str, tuple[str, ...]] = {
    "embed": ("fsdp",),
    "embed_out": ("tensor",),
    "depth_embed": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "mlp_in": ("tensor", "fsdp"),
    "vocab": ("tensor",),
    "bins": ("tensor",),
}
"""Logical axis -> mesh axes. Axes that are not named here stay whole on every device.

`mlp_in` are the outputs of a feed-forward's first map. A TPU gathers rows of that weight as stored; where its columns
are cut, the compiler turns the gathered weight over in each layer: by its own count a seventh of the cycles of a 7B's.
"""

SPARE: dict[str, str] = {"embed_in": "fsdp"}
"""Logical axis -> mesh axis that it takes where no other dimension of its weight could."""

BATCH = PartitionSpec(("replica", "fsdp"))
"""How a batch's first dimension is cut."""

ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "batch": ("replica", "fsdp"),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "columns": ("fsdp",),
}
"""Dimension of an activation -> mesh axes; `columns` are those of a part of an embedding table."""


def make_mesh(
    replica: int = 1, fsdp: int = -1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh over `devices` (default: all); one size may be -1, which takes the devices that are left.

    TPU slices that only the data-centre network connects hold whole copies each: they are laid along `replica`.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [replica, fsdp, tensor]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise ValueError(
            f"mesh sizes must be positive, at most one of them -1, got {dict(zip(MESH_AXES, sizes))}"
        )
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, len(devices) // -math.prod(sizes))
    if math.prod(sizes) != len(devices):
        raise ValueError(f"a mesh of {dict(zip(MESH_AXES, sizes))} does not fit {len(devices)} devices")
    types = (AxisType.Auto,) * len(MESH_AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1 or devices[0].platform != "tpu":
        return jax.make_mesh(sizes, MESH_AXES, axis_types=types, devices=devices)
    if sizes[0] % slices:
        raise ValueError(
            f"replica of {sizes[0]} is not a multiple of {slices} slices: a copy would span the network"
        )
    inside = [sizes[0] // slices, *sizes[1:]]
    grid = mesh_utils.create_hybrid_device_mesh(inside, [slices, 1, 1], devices)
    return Mesh(grid, MESH_AXES, axis_types=types)


def partition_spec(
    name: str,
    axes: Sequence[str],
    shape: Sequence[int],
    mesh: Mesh | AbstractMesh,
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> PartitionSpec:
    """How one weight is cut.

    A dimension that its mesh axis does not divide stays whole, and that is logged: no weight is ever padded.

    Args:
        name: the weight's path, for messages.
        axes: logical name of each dimension.
        shape: its sizes.
        mesh: the device mesh.
        rules: logical axis -> mesh axes.

    Raises:
        ValueError: two dimensions map to one mesh axis, or a rule names an axis that the mesh lacks.
    """
    owners: dict[str, str] = {}
    for axis, _ in zip(axes, shape, strict=True):
        for target in rules.get(axis, ()):
            if target not in mesh.shape:
                raise ValueError(
                    f"{name}: the rule {axis} -> {target} does not name an axis of the mesh {tuple(mesh.shape)}"
                )
            if target in owners:
                raise ValueError(
                    f"{name} {tuple(axes)}: both {owners[target]} and {axis} map to the mesh axis {target}"
                )
            owners[target] = axis
    entries: list[tuple[str, ...]] = [() for _ in axes]

    def cut(dimension: int, target: str) -> None:
        parts = math.prod(mesh.shape[taken] for taken in (*entries[dimension], target))
        if mesh.shape[target] == 1:
            return
        if shape[dimension] % parts:
            log.info(
                "%s: %s of %d is not divided by %s of %d, kept whole",
                name, axes[dimension], shape[dimension], target, mesh.shape[target],
            )  # fmt: skip
            return
        entries[dimension] += (target,)

    for dimension, axis in enumerate(axes):
        for target in rules.get(axis, ()):
            cut(dimension, target)
    for dimension, axis in enumerate(axes):
        if axis in SPARE and not any(SPARE[axis] in entry for entry in entries):
            cut(dimension, SPARE[axis])
    return PartitionSpec(*(entry if len(entry) > 1 else entry[0] if entry else None for entry in entries))


def activation_spec(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """How an activation is cut; a dimension that its mesh axes do not divide stays whole.

    Args:
        axes: name in `ACTIVATIONS` of each dimension, None for one that stays whole.
        shape: its sizes.
        mesh: the device mesh.
    """
    entries: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        target = ACTIVATIONS[axis] if axis else ()
        parts = math.prod(mesh.shape[name] for name in target)
        entries.append(target if parts > 1 and size % parts == 0 else None)
    return PartitionSpec(*entries)


def jit_on(mesh: Mesh | None, function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit` of a function of arrays that is traced for `mesh`: `traced_mesh` gives it inside, on any thread."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh else contextlib.nullcontext():
            return function(*args)

    return jax.jit(traced, **options)


def traced_mesh() -> AbstractMesh | None:
    """The mesh that is being traced for (`jit_on`), or None where nothing is cut: one device, or no mesh set."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def gathers_weights() -> bool:
    """Whether what is being traced runs on a mesh that cuts weights along `fsdp`, so that using one means a gather."""
    mesh = traced_mesh()
    return mesh is not None and mesh.shape["fsdp"] > 1


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains how an activation is cut, on the mesh that is being traced for; does nothing without one.

    Args:
        x: any activation.
        axes: as `activation_spec` takes them.
    """
    mesh = traced_mesh()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, activation_spec(axes, x.shape, mesh))


def constrain_weights(tree: T, taken: int = 0) -> T:
    """Constrains how weights are cut; does nothing without a mesh.

    The constraint on a weight holds for its gradient too: each device then gets only its own part's sum, where XLA
    would sum up whole gradients on all of them.

    Args:
        tree: a module or state of weights.
        taken: leading axes that the weights declare and no longer have: 1 inside a scan over layers.
    """
    mesh = traced_mesh()
    if mesh is None:
        return tree

    def constrained(path: Path, leaf: nnx.Variable) -> nnx.Variable:
        value, axes = leaf.get_value(), leaf.get_metadata()["axes"][taken:]
        spec = partition_spec(dotted(path), axes, value.shape, mesh)
        return leaf.replace(jax.lax.with_sharding_constraint(value, spec))

    return map_weights(constrained, tree)


def map_weights(function: Callable[[Path, Any], Any], tree: T) -> T:
    """A tree with `function(path, leaf)` of every leaf; a weight (`nnx.Variable`), with what it declares, is one."""
    return jax.tree_util.tree_map_with_path(function, tree, is_leaf=is_weight)


def is_weight(leaf: Any) -> bool:
    """Whether a node of a tree is a weight with its declaration."""
    return isinstance(leaf, nnx.Variable)


def dotted(path: Path) -> str:
    """A tree path as text: `temporal.layers.attn_in.weight`, `1.inner_states.depth.inner_state.0.mu.depth.input`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def tree_shardings(tree: T, mesh: Mesh | AbstractMesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> T:
    """The sharding of every leaf of a tree (abstract or not), in its form.

    Weights are cut along the axes that they declare, and so is what an optimizer keeps of each. Weights that declare
    none (Mimi's moving averages), and counters, stay whole.

    Raises:
        ValueError: see `partition_spec`.
    """

    def sharding(path: Path, leaf: Any) -> Any:
        axes = leaf.get_metadata().get("axes") if is_weight(leaf) else None
        spec = partition_spec(dotted(path), axes, leaf.shape, mesh, rules) if axes else PartitionSpec()
        place = NamedSharding(mesh, spec)
        return leaf.replace(place) if is_weight(leaf) else place

    return map_weights(sharding, tree)


def shardings(
    module: nnx.Module, mesh: Mesh | AbstractMesh, rules: Mapping[str, tuple[str, ...]] = RULES
) -> dict[str, NamedSharding]:
    """`tree_shardings` of a model, by dotted path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        tree_shardings(nnx.state(module), mesh, rules), is_leaf=is_weight
    )
    return {dotted(path): leaf.get_value() for path, leaf in leaves}
