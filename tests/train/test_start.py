"""What a run starts from: adapters on a model without, a depth transformer extended to the user's codebooks."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from kame_jax.checkpoint.native import Meta, save
from kame_jax.checkpoint.weights import ArrayWeights
from kame_jax.config import LoRAConfig, LossConfig
from kame_jax.interop import load_checkpoint
from kame_jax.model import tree
from kame_jax.sharding import make_mesh, shardings
from kame_jax.train.loss import loss_parts, report
from kame_jax.train.start import first_weights
from kame_jax.train.state import abstract_model, init_weights
from tests.train.small import MODEL, batch, run_config, with_settings


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def source(mesh, tmp_path_factory):
    """A checkpoint of the small model."""
    folder = tmp_path_factory.mktemp("source") / "model"
    weights = {path: np.asarray(leaf) for path, leaf in tree.leaves(init_weights(MODEL, 3, mesh)).items()}
    save(folder, ArrayWeights(weights), Meta(MODEL, {}))
    return folder


def started(source, mesh, **changes):
    config = with_settings(run_config("run", "data"), model__init_from=str(source), **changes)
    return config.model.architecture, first_weights(config, mesh)[0]


def losses(config, weights):
    model = nnx.merge(nnx.graphdef(abstract_model(config)), weights)
    return jax.jit(lambda model, batch: report(loss_parts(model, batch), LossConfig()))(model, batch())


def test_new_adapters_change_nothing_at_first(source, mesh):
    lora = dataclasses.asdict(LoRAConfig(4))
    config, weights = started(source, mesh, model__lora=lora)
    before = losses(MODEL, nnx.state(load_checkpoint(source)[1]))
    assert losses(config, weights)["loss/total"] == before["loss/total"]
    low = tree.leaves(weights)["temporal.layers.mlp_in.lora_a"]
    assert np.abs(low).max() > 0


def test_a_depth_transformer_goes_on_to_the_users_codebooks(source, mesh):
    config, weights = started(source, mesh, model__dep_q=4)
    model = load_checkpoint(source)[1]
    flat, old = tree.leaves(weights), tree.leaves(model)
    places = shardings(abstract_model(config), mesh)
    shapes = tree.shapes(abstract_model(config))
    assert {path: leaf.shape for path, leaf in flat.items()} == shapes
    assert all(leaf.sharding.is_equivalent_to(places[path], leaf.ndim) for path, leaf in flat.items())
    # By codebook: 1, 2 own; 3, 4 the user's.
    np.testing.assert_array_equal(flat["depth.heads.weight"][2:], old["depth.heads.weight"])
    np.testing.assert_array_equal(
        flat["depth.layers.mlp_in.weight"][:, 2:], old["depth.layers.mlp_in.weight"]
    )
    np.testing.assert_array_equal(
        flat["depth.audio_emb.weight"], np.repeat(old["depth.audio_emb.weight"], 3, 0)
    )
    np.testing.assert_array_equal(flat["depth.text_emb.weight"], old["depth.text_emb.weight"])
    # Its own voice is predicted as before: earlier codebooks do not see later ones.
    before, after = losses(MODEL, nnx.state(model)), losses(config, weights)
    own = (float(values["loss/audio_acoustic"]) for values in (before, after))
    assert next(own) == pytest.approx(next(own), rel=1e-6)
    assert np.isfinite(after["loss/audio_semantic_user"])
