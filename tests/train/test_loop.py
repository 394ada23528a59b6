"""A run: what it leaves behind, that it continues bit for bit, and how it ends when it must."""

import json
import shutil
import signal

import numpy as np
import pytest

from kame_jax.config import load_run
from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint
from kame_jax.model import tree
from kame_jax.train.loop import run
from kame_jax.train.metrics import Silent, read_metrics
from tests.train.small import SignalAt, run_config, with_settings, write_records

GROUPS = ("temporal", "depth", "embeddings", "oracle")
TIMES = ("seconds", "frames_per_second", "audio_seconds_per_second", "memory_gib")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    return folder


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Six steps in one go, evaluated on its own data."""
    folder = tmp_path_factory.mktemp("straight")
    config = with_settings(run_config(folder, data), data__eval_path=str(data))
    return folder, run(config, progress=Silent())


@pytest.fixture(scope="module")
def interrupted(data, tmp_path_factory):
    """SIGTERM after two steps, then on to six."""
    folder = tmp_path_factory.mktemp("interrupted")
    config = with_settings(run_config(folder, data), data__eval_path=str(data))
    with pytest.raises(SystemExit) as stop:
        run(config, progress=SignalAt(2, signal.SIGTERM))
    return folder, stop.value.code, run(config, progress=Silent())


def weights(folder):
    return {path: np.asarray(leaf) for path, leaf in tree.leaves(load_checkpoint(folder)[1]).items()}


def metrics(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def test_a_run_leaves_its_configuration_metrics_checkpoints_and_curves(straight, data):
    folder, result = straight
    assert load_run(folder / "config.yaml") == with_settings(
        run_config(folder, data), data__eval_path=str(data)
    )
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["3", "6"]
    assert (folder / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4, 5, 6, 6]
    assert result["step"] == 6
    assert result["checkpoint"] == str(folder / "checkpoints" / "6")
    assert result["resumed_from"] is None
    assert result["metrics"]["step"] == 6


def test_a_line_of_metrics_holds_every_part_and_no_invalid_json(straight):
    folder, _ = straight
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)
    line = metrics(folder)[0]
    parts = ("text_non_pad", "text_pad", "audio_semantic", "audio_acoustic")
    names = {f"{kind}/{part}" for part in parts for kind in ("loss", "accuracy")}
    totals = {"loss/total", "loss/text_total", "loss/audio_total"}
    assert set(line) == names | totals | {
        "step",
        "grad_norm",
    } | {f"{kind}/{group}" for kind in ("grad_norm", "learning_rate") for group in GROUPS}


def test_the_loss_falls_and_the_rates_are_those_of_the_groups(straight):
    lines = [line for line in metrics(straight[0]) if "loss/total" in line]
    # Updates 0 and 1 have rate 0, as DeepSpeed's warm-up has it: both see the first weights.
    assert [line["learning_rate/depth"] for line in lines[:4]] == pytest.approx([0, 0, 1e-2, 2e-2])
    assert lines[5]["learning_rate/temporal"] == pytest.approx(1e-2)
    assert lines[5]["loss/total"] < lines[0]["loss/total"] - 0.3


def test_a_run_stopped_in_its_evaluation_saves_at_once_and_evaluates_when_it_goes_on(
    straight, data, tmp_path
):
    config = with_settings(run_config(tmp_path, data), data__eval_path=str(data))
    with pytest.raises(SystemExit) as stop:
        run(config, progress=SignalAt(6, signal.SIGTERM))
    assert stop.value.code == 75
    assert (tmp_path / "checkpoints" / "6").is_dir()
    assert not any("eval/loss/total" in line for line in metrics(tmp_path))
    assert run(config, progress=Silent())["resumed_from"] == 6
    assert metrics(tmp_path) == metrics(straight[0])


def test_a_run_stopped_by_sigterm_continues_bit_for_bit(straight, interrupted):
    folder, code, result = interrupted
    assert code == 75
    assert result["resumed_from"] in (2, 3)
    found = weights(folder)
    for path, expected in weights(straight[0]).items():
        assert found[path].tobytes() == expected.tobytes(), path
    assert metrics(folder) == metrics(straight[0])


def test_a_finished_run_is_not_trained_again(straight):
    folder, first = straight
    before = (folder / "metrics.jsonl").read_text()
    again = run(load_run(folder / "config.yaml"), progress=Silent())
    assert again["metrics"] == first["metrics"]
    assert (folder / "metrics.jsonl").read_text() == before


def test_a_run_folder_and_its_checkpoints_are_read_as_models(straight):
    folder, _ = straight
    newest, same, third = (weights(folder / place) for place in (".", "checkpoints", "checkpoints/3"))
    assert all((newest[path] == value).all() for path, value in same.items())
    assert any((newest[path] != value).any() for path, value in third.items())


def test_ctrl_c_saves_first(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(run_config(tmp_path, data, checkpoint_every=0), progress=SignalAt(1, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert weights(tmp_path)


def test_a_run_starts_from_any_checkpoint_of_its_model(straight, data, tmp_path):
    config = with_settings(run_config(tmp_path, data, steps=1), model__init_from=str(straight[0]))
    # The first update has rate 0, so the weights are still those that it started from.
    run(config, progress=Silent())
    found = weights(tmp_path)
    assert all((found[path] == value).all() for path, value in weights(straight[0]).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__path": None}, "data.path: null"),
        ({"data__path": "nowhere"}, "nowhere: no such folder"),
        ({"train__steps": 5}, "newest checkpoint is of step 6, train.steps is 5"),
        ({"seed": 8}, "of a run with seed 7, this one has 8"),
        ({"model__oracle": "tie"}, "of another model than this run's"),
        ({"mesh__tensor": 2}, "mesh: "),
        ({"data__min_frames": 24}, "has no piece of data.min_frames"),
    ],
)
def test_a_run_that_cannot_be_says_why_and_changes_nothing(straight, data, tmp_path, changes, message):
    folder = tmp_path / "run"
    shutil.copytree(straight[0], folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        run(with_settings(run_config(folder, data), **changes), progress=Silent())
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_checkpoint_of_another_model_is_no_start(straight, data, tmp_path):
    config = with_settings(run_config(tmp_path, data), model__init_from=str(straight[0]))
    config = with_settings(config, model__temporal__num_layers=1, model__norm_emb=True)
    with pytest.raises(InputError, match="another model") as error:
        run(config, progress=Silent())
    assert [problem.split(":")[0] for problem in error.value.problems] == ["temporal", "norm_emb"]
    assert not list(tmp_path.iterdir())
