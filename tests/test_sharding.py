"""The mesh rules: every weight of every ready model has a place, no axis is used twice, no weight is padded."""

import dataclasses
import logging
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from kame_jax.config import LoRAConfig, config_names, load_codec, load_model
from kame_jax.model import tree
from kame_jax.model.layers import Linear
from kame_jax.sharding import MESH_AXES, jit_on, make_mesh, partition_spec, shardings, traced_mesh
from tests.processes import environment

MODELS = [name for name in config_names() if name != "mimi"]


def abstract_mesh(*sizes):
    return AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_of_every_ready_model_fits_a_mesh_of_1024_devices(name):
    config = dataclasses.replace(load_model(name), lora=LoRAConfig(8))
    model = tree.abstract(config)
    shapes = tree.shapes(model)
    for sizes in ((2, 64, 8), (1, 1024, 1), (1, 8, 128), (1024, 1, 1)):
        for path, sharding in shardings(model, abstract_mesh(*sizes)).items():
            sharding.shard_shape(shapes[path])  # raises where a dimension is not divided


@pytest.mark.parametrize(
    ("sizes", "excess"),
    # Norms stay whole. So do the tables' 32,001 rows, which no tensor axis divides: 5 % of the weights.
    [((1, 64, 1), 1.01), ((1, 16, 4), 1.2), ((1, 1, 8), 1.4)],
)
def test_the_7b_is_cut_to_nearly_its_share_of_each_device(sizes, excess):
    model = tree.abstract(load_model("kame_7b"))
    shapes = tree.shapes(model)
    places = shardings(model, abstract_mesh(*sizes))
    share = sum(math.prod(places[path].shard_shape(shape)) for path, shape in shapes.items())
    assert share <= excess * tree.count(shapes) / math.prod(sizes)


def test_mimi_stays_whole():
    places = shardings(tree.abstract(load_codec("mimi")), abstract_mesh(1, 4, 2))
    conv = {
        path: place.spec
        for path, place in places.items()
        if path.startswith(("encoder.", "quantizer.acoustic.codebooks"))
    }
    assert all(set(spec) <= {None} for spec in conv.values())


def test_a_dimension_that_does_not_divide_stays_whole_and_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        spec = partition_spec("text_emb.weight", ("vocab", "embed"), (32001, 4096), abstract_mesh(1, 8, 4))
    assert spec == PartitionSpec(None, "fsdp")
    assert "text_emb.weight: vocab of 32001 is not divided by tensor of 4" in caplog.text


def test_an_axis_of_one_device_cuts_nothing_and_is_not_logged(caplog):
    with caplog.at_level(logging.INFO):
        spec = partition_spec("w", ("vocab", "embed"), (3, 4), abstract_mesh(1, 1, 1))
    assert spec == PartitionSpec(None, None)
    assert not caplog.text


def test_a_feed_forward_is_cut_by_its_rows_and_by_its_columns_where_they_do_not_divide():
    axes = ("gate", "mlp_in", "embed_in")
    assert partition_spec("w", axes, (2, 64, 32), abstract_mesh(1, 8, 1)) == PartitionSpec(None, "fsdp", None)
    both = partition_spec("w", axes, (2, 64, 32), abstract_mesh(1, 8, 2))
    assert both == PartitionSpec(None, ("tensor", "fsdp"), None)
    rest = partition_spec("w", axes, (2, 6, 32), abstract_mesh(1, 8, 2))
    assert rest == PartitionSpec(None, "tensor", "fsdp")


def test_two_dimensions_on_one_mesh_axis_are_refused():
    with pytest.raises(
        ValueError, match=r"w \('embed', 'embed'\): both embed and embed map to the mesh axis fsdp"
    ):
        partition_spec("w", ("embed", "embed"), (4, 4), abstract_mesh(1, 2, 1))


def test_a_rule_to_an_axis_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="does not name an axis of the mesh"):
        partition_spec("w", ("embed",), (4,), abstract_mesh(1, 2, 1), {"embed": ("model",)})


def test_one_size_of_a_mesh_may_be_left_open():
    mesh = make_mesh(replica=1, fsdp=-1, tensor=1)
    assert dict(mesh.shape) == {"replica": 1, "fsdp": len(jax.devices()), "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((-1, -1, 1), "at most one"), ((1, 0, 1), "must be positive"), ((3, 5, 1), "does not fit")],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(*sizes)


def layer_program(mesh=None):
    """The program of one layer, lowered for one device."""
    layer = nnx.eval_shape(lambda: Linear(nnx.Rngs(0), (4, 2), (8,), axes=("heads", "head_dim", "embed")))
    return (
        jit_on(mesh, lambda layer, x: layer(x))
        .lower(layer, jax.ShapeDtypeStruct((3, 8), jnp.float32))
        .as_text()
    )


def test_a_layer_of_one_device_is_the_same_program_however_many_devices_the_process_sees():
    code = "import jax; assert len(jax.devices()) == 8; from tests.test_sharding import layer_program as p; print(p())"
    command = [sys.executable, "-c", code]
    seen = subprocess.run(command, env=environment(8), capture_output=True, text=True, check=True).stdout
    assert (
        seen.strip() == layer_program().strip() == layer_program(make_mesh(devices=jax.devices()[:1])).strip()
    )


def test_the_mesh_that_is_traced_for_is_the_one_given_at_the_boundary():
    meshes = []
    for mesh in (None, abstract_mesh(1, 1, 1), abstract_mesh(2, 2, 1)):
        jax.eval_shape(jit_on(mesh, lambda: meshes.append(traced_mesh())))
    assert meshes == [None, None, abstract_mesh(2, 2, 1)]
    assert traced_mesh() is None
