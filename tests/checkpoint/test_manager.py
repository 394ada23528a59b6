"""Other things among a run's checkpoints, or damage outside their arrays, end nothing without a clear line."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from kame_jax.checkpoint.manager import Checkpoints
from kame_jax.errors import InputError
from tests.train.small import MODEL

PLACE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def items():
    return {
        "params": {"a.w": jnp.ones(3), "b": jnp.zeros((0, 2))},
        "opt": {"opt_state.0.mu": jnp.full(3, 2.0)},
    }


def shapes():
    return {
        item: {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=PLACE) for path, x in arrays.items()}
        for item, arrays in items().items()
    }


def opened(folder, said=None):
    say = (lambda text: None) if said is None else said.append
    return Checkpoints(folder, MODEL, seed=1, samples="x", keep=2, keep_best=1, say=say)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two checkpoints with figures."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with opened(folder) as checkpoints:
        checkpoints.save(1, items(), 0.5)
        checkpoints.save(2, items(), 0.4)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "checkpoints")


def link_loop(path):
    os.symlink(path, path)


@pytest.mark.parametrize("name", ["99999", "-5", "007", "1e3"])
@pytest.mark.parametrize("make", [os.mkdir, lambda path: path.write_text("x"), link_loop])
def test_names_that_are_no_steps_are_passed_over(folder, name, make):
    make(folder / name)
    said = []
    with opened(folder, said) as checkpoints:
        assert checkpoints.steps == [1, 2]
        found = checkpoints.restore(shapes())
    assert (found.step, found.same_samples, said) == (2, True, [])
    for item, arrays in items().items():
        assert all((found.items[item][path] == value).all() for path, value in arrays.items())
    assert os.path.lexists(folder / name)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", json.dumps({"seed": "x", "checksum": 1, "step": 2})])
def test_a_damaged_description_of_the_data_is_a_damaged_checkpoint(folder, content):
    (folder / "2" / "data" / "data.json").write_text(content)
    said = []
    with opened(folder, said) as checkpoints:
        assert checkpoints.restore(shapes()).step == 1
    assert len(said) == 1
    assert "2: damaged, so the checkpoint before it is used" in said[0]


def test_damaged_figures_are_one_line_that_names_their_file(folder):
    (folder / "2" / "metrics" / "metrics").write_text("{")
    with opened(folder) as checkpoints, pytest.raises(InputError, match=r"\*/metrics/metrics\) are damaged"):
        checkpoints.restore(shapes())
    assert (folder / "2").is_dir()
