"""What a run's settings choose: the attention kernel, the steps of a trace, what the best checkpoints are kept by."""

from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from kame_jax.errors import InputError
from kame_jax.train.loop import best_figure
from kame_jax.train.profile import Profile
from kame_jax.train.program import choose_attention
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
    said = []
    with Profile(Path("profile"), (3, 4), said.append) as profile:
        for number in range(1, 7):
            profile.step(number)
            done.append(number)
    assert done == [1, 2, Path("profile"), 3, 4, "stop", 5, 6]
    assert [text.partition(",")[0] for text in said] == ["the trace is in profile"]
    with Profile(Path("profile"), (3, 9), said.append) as profile:
        profile.step(3)
    assert done[-1] == "stop"  # the run ended inside
    with Profile(Path("profile"), None, said.append) as profile:
        profile.step(3)
    assert done.count("stop") == len(said) == 2


@pytest.mark.parametrize(
    ("best", "figure"), [("loss/total", 2.0), ("accuracy/text_pad", -0.25), ("gap/loss/total", -0.5)]
)
def test_the_best_checkpoint_has_the_smallest_loss_or_the_largest_accuracy_or_gap(best, figure):
    values = {"loss/total": 2.0, "accuracy/text_pad": 0.25, "gap/loss/total": 0.5}
    assert best_figure(values, best) == figure


def test_a_figure_that_the_evaluation_lacks_is_refused():
    with pytest.raises(InputError, match=r"train.best_metric: loss/tota, expected one of loss/total"):
        best_figure({"loss/total": 1.0}, "loss/tota")
