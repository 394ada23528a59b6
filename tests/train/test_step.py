"""One training step: micro-batches, remat, and meshes of several devices change nothing but rounding."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.config import ConditionerConfig
from kame_jax.errors import InputError
from kame_jax.model import tree
from kame_jax.sharding import make_mesh
from kame_jax.train.loss import label_counts, token_counts
from kame_jax.train.program import make_program
from kame_jax.train.state import init_state, init_weights
from kame_jax.train.step import put_batch
from tests.processes import ROOT, environment
from tests.train.small import MODEL, batch, gradients_as_state, model_run

# Of a tensor's scale. Widths of 16 and 24 and a hundred tokens: products of sqrt(24) U, some 30 of them, 1.6e-6.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def weights(mesh):
    return init_weights(MODEL, 3, mesh)


@pytest.fixture(scope="module", autouse=True)
def only_gradients():
    with gradients_as_state():
        yield


def make_step(mesh, **changes):
    """A step whose optimizer keeps the gradient as its state; dotted settings are changed."""
    return make_program(model_run(MODEL, **changes), mesh).step


def gradients(mesh, weights, step, at=0, rows=slice(None)):
    """Gradients and metrics of a step."""
    state = init_state(model_run(MODEL), jax.tree.map(jnp.copy, weights))
    part = {name: x[rows] for name, x in batch().items()}
    state, out = step(state._replace(step=jnp.int32(at)), put_batch(part, mesh))
    return jax.device_get((state.opt_state.trace, out))


def check_equal(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max())


@pytest.fixture(scope="module")
def whole(mesh, weights):
    return gradients(mesh, weights, make_step(mesh))


def test_micro_batches_remat_and_chunked_logits_give_the_same_gradient(mesh, weights, whole):
    step = make_step(mesh, train__micro_batches=4, train__remat="full", train__loss_chunks=3)
    check_equal(gradients(mesh, weights, step), whole)


def test_each_micro_batch_may_be_normalised_by_itself(mesh, weights):
    """As each process and accumulation step of kame_finetune is; rows go to micro-batches by turns."""
    alone = make_step(mesh)
    halves = [gradients(mesh, weights, alone, rows=slice(start, None, 2))[0] for start in (0, 1)]
    step = make_step(mesh, loss__normalise="micro_batch", train__micro_batches=2)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    check_equal(gradients(mesh, weights, step)[0], expected)


def test_counts_are_known_before_the_forward(whole):
    assert token_counts(whole[1].parts) == label_counts(batch()["labels"], MODEL)


def test_dropout_is_drawn_from_the_step_and_spares_the_labels(mesh, weights, whole):
    step = make_step(mesh, dropout__text=0.5, dropout__user=0.5, seed=1)
    first, again, later = (gradients(mesh, weights, step, at) for at in (0, 0, 1))
    check_equal(again, first)
    for other in (later, whole):
        assert other[1].parts["text_non_pad"].loss != first[1].parts["text_non_pad"].loss
        assert other[1].parts["text_non_pad"].count == first[1].parts["text_non_pad"].count


CONDITIONED = dataclasses.replace(
    MODEL,
    conditioners=(ConditionerConfig("quality", "lut", dim=4, num_bins=3, possible_values=("bad", "good")),),
)


def test_a_condition_reaches_the_model_in_training(mesh):
    config = model_run(CONDITIONED, data__conditions=["quality=good"])
    state = init_state(config, init_weights(CONDITIONED, 3, mesh))
    state, _ = make_program(config, mesh).step(state, put_batch(batch(), mesh))
    moved = np.asarray(tree.leaves(state.opt_state.trace)["conditioners.quality.embed.weight"]).any(axis=1)
    assert moved.tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "data.conditions: condition 'quality' is missing, expected one of bad, good"),
        (["quality=fine"], "data.conditions: condition 'quality' is 'fine', expected one of bad, good"),
        (["quality=bad", "mood=sad"], "data.conditions: condition 'mood' is unknown"),
    ],
)
def test_a_condition_that_is_missing_or_unknown_is_refused(mesh, given, message):
    with pytest.raises(InputError, match=message):
        make_program(model_run(CONDITIONED, data__conditions=given), mesh)
    with pytest.raises(InputError, match="data.conditions: condition 'quality' is unknown"):
        make_program(model_run(MODEL, data__conditions=["quality=bad"]), mesh)


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
