"""Metrics on their way to TensorBoard and to Weights & Biases (a stand-in for the latter: it needs a network)."""

import math
import sys
import types

import pytest

from kame_jax.errors import InputError
from kame_jax.train.trackers import make_trackers

LINE = {"step": 3, "loss/total": 2.5, "loss/text_pad": math.nan}


def test_tensorboard_gets_event_files(tmp_path):
    [tracker] = make_trackers(["tensorboard"], tmp_path, {}, 0)
    tracker.write(LINE)
    tracker.close()
    [events] = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss/total" in content
    assert b"loss/text_pad" not in content


def test_weights_and_biases_goes_on_under_the_runs_name(tmp_path, monkeypatch):
    logged, asked = [], {}

    class Run:
        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            logged.append("finished")

    def init(**options):
        asked.update(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    [tracker] = make_trackers(["wandb"], tmp_path / "mine", {"seed": 1}, 0)
    tracker.write(LINE)
    tracker.close()
    assert (asked["id"], asked["resume"], asked["config"]) == ("mine", "allow", {"seed": 1})
    assert logged == [(3, {"loss/total": 2.5}), "finished"]


def test_a_tracker_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"pip install 'kame_jax\[wandb\]'"):
        make_trackers(["wandb"], tmp_path, {}, 0)
