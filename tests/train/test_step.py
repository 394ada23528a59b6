"""One training step: micro-batches, remat, and meshes of several devices change nothing but rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from kame_jax.config import DropoutConfig, LossConfig
from kame_jax.sharding import make_mesh
from kame_jax.train.loss import label_counts, loss_parts, token_counts
from kame_jax.train.state import abstract_model, bind, init_params, init_state, state_shardings
from kame_jax.train.step import make_train_step, put_batch
from tests.train import meshes
from tests.train.small import MODEL, batch

# Sums of float32 in another order. The project promises 1e-5 of a tensor's scale.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def params(mesh):
    return init_params(MODEL, 3, mesh)


def gradients(mesh, params, step=0, **options):
    """Gradients and metrics of a step; the optimizer's state is the gradient."""
    model, keep = abstract_model(MODEL), optax.trace(decay=0.0)
    places = state_shardings(model, keep, mesh)
    state = init_state(jax.tree.map(jax.numpy.copy, params), keep, places)._replace(
        step=jax.numpy.int32(step)
    )
    state, out = make_train_step(model, keep, LossConfig(), mesh, **options)(state, put_batch(batch(), mesh))
    return jax.device_get((state.opt_state.trace, out))


def check_equal(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max())


@pytest.fixture(scope="module")
def whole(mesh, params):
    return gradients(mesh, params)


@pytest.mark.parametrize("options", [{"micro_batches": 2}, {"micro_batches": 8}, {"remat": True}], ids=str)
def test_micro_batches_of_unequal_token_counts_and_remat_give_the_same_gradient(mesh, params, whole, options):
    check_equal(gradients(mesh, params, **options), whole)


def test_counts_are_known_before_the_forward(params):
    data = batch()
    parts = loss_parts(bind(abstract_model(MODEL), params), data)
    assert token_counts(parts) == label_counts(data["labels"], MODEL)


def test_dropout_is_drawn_from_seed_and_step_and_spares_the_labels(mesh, params, whole):
    options = {"dropout": DropoutConfig(text=0.5, user=0.5)}
    first = gradients(mesh, params, **options, seed=1)
    check_equal(gradients(mesh, params, **options, seed=1), first)
    for other in (
        gradients(mesh, params, **options, seed=2),
        gradients(mesh, params, 1, **options, seed=1),
        whole,
    ):
        assert other[1].parts["text_non_pad"].loss != first[1].parts["text_non_pad"].loss
        assert other[1].parts["text_non_pad"].count == first[1].parts["text_non_pad"].count


def test_without_the_oracle_its_embedding_has_no_gradient(mesh, params):
    grads, _ = gradients(mesh, params, use_oracle=False)
    assert not grads["oracle_emb"]["weight"].any()
    assert grads["text_emb"]["weight"].any()


@pytest.fixture(scope="module")
def on_eight_devices():
    root = Path(__file__).parents[2]
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.meshes"],
        env=env,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", meshes.MESHES)
def test_loss_and_gradients_on_eight_devices_equal_one(on_eight_devices, name):
    found = on_eight_devices[name]
    assert found["gradient"] < ROUNDING, found
    assert found["loss"] < ROUNDING
    assert found["norm"] < ROUNDING


def test_state_is_cut_over_fsdp_and_tensor_and_whole_on_replicas(on_eight_devices):
    assert on_eight_devices["replica"]["spread"] == 0
    assert all(on_eight_devices[name]["spread"] > 5 for name in ("fsdp", "tensor", "mixed"))
