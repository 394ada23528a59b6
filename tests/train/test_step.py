"""One training step: micro-batches, remat, and meshes of several devices change nothing but rounding."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kame_jax.config import DropoutConfig, LossConfig
from kame_jax.model import Execution
from kame_jax.sharding import make_mesh
from kame_jax.train.loss import label_counts, token_counts
from kame_jax.train.state import abstract_model, init_params, init_state, state_shardings
from kame_jax.train.step import make_train_step, put_batch
from tests.processes import ROOT, environment
from tests.train.small import MODEL, batch

# Of a tensor's scale. Widths of 16 and 24 and a hundred tokens: products of sqrt(24) U, some 30 of them, 1.6e-6.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def params(mesh):
    return init_params(MODEL, 3, mesh)


def make_step(mesh, weights=LossConfig(), **options):
    """A step whose optimizer keeps the gradient as its state."""
    return make_train_step(abstract_model(MODEL), optax.trace(decay=0.0), weights, mesh, **options)


def gradients(mesh, params, step, at=0, rows=slice(None)):
    """Gradients and metrics of a step."""
    keep = optax.trace(decay=0.0)
    state = init_state(
        jax.tree.map(jnp.copy, params), keep, state_shardings(abstract_model(MODEL), keep, mesh)
    )
    part = {name: x[rows] for name, x in batch().items()}
    state, out = step(state._replace(step=jnp.int32(at)), put_batch(part, mesh))
    return jax.device_get((state.opt_state.trace, out))


def check_equal(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max())


@pytest.fixture(scope="module")
def whole(mesh, params):
    return gradients(mesh, params, make_step(mesh))


def test_micro_batches_remat_and_chunked_logits_give_the_same_gradient(mesh, params, whole):
    check_equal(
        gradients(mesh, params, make_step(mesh, micro_batches=4, execution=Execution("full"), chunks=3)),
        whole,
    )


def test_each_micro_batch_may_be_normalised_by_itself(mesh, params):
    """As each process and accumulation step of kame_finetune is; rows go to micro-batches by turns."""
    alone = make_step(mesh)
    halves = [gradients(mesh, params, alone, rows=slice(start, None, 2))[0] for start in (0, 1)]
    step = make_step(mesh, LossConfig(normalise="micro_batch"), micro_batches=2)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    check_equal(gradients(mesh, params, step)[0], expected)


def test_counts_are_known_before_the_forward(whole):
    assert token_counts(whole[1].parts) == label_counts(batch()["labels"], MODEL)


def test_dropout_is_drawn_from_the_step_and_spares_the_labels(mesh, params, whole):
    step = make_step(mesh, dropout=DropoutConfig(text=0.5, user=0.5), seed=1)
    first, again, later = (gradients(mesh, params, step, at) for at in (0, 0, 1))
    check_equal(again, first)
    for other in (later, whole):
        assert other[1].parts["text_non_pad"].loss != first[1].parts["text_non_pad"].loss
        assert other[1].parts["text_non_pad"].count == first[1].parts["text_non_pad"].count


def compare(*names):
    env = environment(devices=8, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    command = [sys.executable, "-m", "tests.train.meshes", *names]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    for found in report.values():
        assert max(found["gradient"], found["loss"], found["norm"]) < ROUNDING, found
    return report


def test_loss_and_gradients_on_eight_devices_equal_one_with_the_state_cut_over_them():
    """And no weight is gathered but by layer, in the loop over layers, where its gradient is summed up as well, and no
    table but by page.

    The compiler of CPUs sums up whole gradients; that of TPUs gives each device its part (`tests/plan`).
    """
    found = compare("mixed")["mixed"]
    assert found["spread"] > 5
    assert (found["stacks"], found["looped"]) == ([], ["all-gather", "all-reduce"])
    assert found["pages"]


@pytest.mark.slow
def test_weights_cut_along_one_axis_give_the_same_gradient():
    report = compare("fsdp", "tensor")
    assert min(found["spread"] for found in report.values()) > 5
    assert [found["stacks"] for found in report.values()] == [[], []]
    assert "all-gather" in report["fsdp"]["looped"]
    assert "all-gather" not in report["tensor"]["looped"]
    assert [found["pages"] for found in report.values()] == [True, False]


@pytest.mark.slow
def test_replicas_hold_whole_states_and_give_the_same_gradient():
    found = compare("replica")["replica"]
    assert (found["spread"], found["stacks"], found["looped"]) == (0, [], ["all-reduce"])
