"""What a run's settings choose: the attention kernel, the steps of a trace, what the best checkpoints are kept by."""

from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from kame_jax.errors import InputError
from kame_jax.train import loop
from kame_jax.train.profile import Profile
from kame_jax.train.program import choose_attention
from kame_jax.train.state import TrainState
from tests.train.small import run_config, with_settings


def mesh_of(platform):
    return SimpleNamespace(devices=SimpleNamespace(flat=[SimpleNamespace(platform=platform)]))


def settings(head_dim, dtype, attention="auto"):
    config = run_config("run", "data", dtype=dtype, attention=attention)
    return with_settings(config, model__temporal__dim=4 * head_dim)


@pytest.mark.parametrize(
    ("platform", "head_dim", "dtype", "kernel"),
    [
        ("tpu", 128, "float32", "splash"),
        ("tpu", 64, "bfloat16", "xla"),
        ("gpu", 64, "bfloat16", "cudnn"),
        ("gpu", 64, "float32", "xla"),
        ("gpu", 256, "bfloat16", "xla"),
        ("cpu", 128, "bfloat16", "xla"),
    ],
)
def test_the_platform_chooses_the_kernel_where_it_fits(platform, head_dim, dtype, kernel):
    assert choose_attention(settings(head_dim, dtype), mesh_of(platform)) == kernel


def test_a_kernel_that_does_not_run_there_is_refused():
    with pytest.raises(
        InputError, match=r"train.attention: splash runs on tpu .* this is gpu with heads of 128"
    ):
        choose_attention(settings(128, "bfloat16", "splash"), mesh_of("gpu"))


def test_a_trace_is_of_the_steps_asked_for(monkeypatch):
    done = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: done.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: done.append("stop"))
    with Profile(Path("profile"), (3, 4)) as profile:
        for number in range(1, 7):
            profile.step(number)
            done.append(number)
    assert done == [1, 2, Path("profile"), 3, 4, "stop", 5, 6]
    with Profile(Path("profile"), (3, 9)) as profile:
        profile.step(3)
    assert done[-1] == "stop"  # the run ended inside
    with Profile(Path("profile"), None) as profile:
        profile.step(3)
    assert done.count("stop") == 2


@pytest.mark.parametrize(
    ("best", "figure"), [("loss/total", 2.0), ("accuracy/text_pad", -0.25), ("gap/loss/total", -0.5)]
)
def test_the_best_checkpoint_has_the_smallest_loss_or_the_largest_accuracy_or_gap(best, figure):
    values = {"loss/total": 2.0, "accuracy/text_pad": 0.25, "gap/loss/total": 0.5}
    written = []
    log = SimpleNamespace(evaluation=lambda step, values: written.append((step, values)))
    state = TrainState({}, None, None)
    assert loop._evaluate(lambda params: values, state, None, best, log, 7) == figure
    assert written == [(7, values)]


def test_a_figure_that_the_evaluation_lacks_is_refused():
    log = SimpleNamespace(evaluation=lambda step, values: None)
    with pytest.raises(InputError, match=r"train.best_metric: loss/tota, expected one of loss/total"):
        loop._evaluate(
            lambda params: {"loss/total": 1.0}, TrainState({}, None, None), None, "loss/tota", log, 1
        )
