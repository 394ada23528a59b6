"""Evaluation: sums over the whole data set, the oracle's worth, and the command that prints them."""

import json

import pytest
from flax import nnx

from kame_jax.cli.evaluate import _settings
from kame_jax.cli.main import build_parser, main, parse
from kame_jax.config import LossConfig
from kame_jax.data.cutting import make_samples
from kame_jax.data.records import load_records
from kame_jax.sharding import make_mesh
from kame_jax.train.corpus import schedule_of
from kame_jax.train.evaluation import make_evaluation
from kame_jax.train.loop import run
from kame_jax.train.metrics import Silent
from kame_jax.train.state import abstract_model, init_weights
from tests.rounding import LOSS
from tests.train.small import MODEL, run_config, with_settings, write_records


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run of one step, evaluated at its end."""
    folder = tmp_path_factory.mktemp("run")
    config = with_settings(
        run_config(folder, data, steps=1), data__eval_path=str(data), loss__semantic_weight=3.0
    )
    return folder, run(config, progress=Silent())


def evaluated(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def near(values):
    """What float32 sums in another order may give in place of these values; a gap is the difference of two."""

    def scale(name):
        part = name.partition("gap/")[2]
        return values[part] + values[f"idle/{part}"] if part else values[name]

    return {name: pytest.approx(value, rel=0, abs=LOSS * scale(name)) for name, value in values.items()}


def test_the_batch_size_changes_nothing(data):
    mesh = make_mesh()
    samples = make_samples(load_records(data), MODEL)
    model = nnx.merge(nnx.graphdef(abstract_model(MODEL)), init_weights(MODEL, 1, mesh))
    results = [
        make_evaluation(MODEL, samples, schedule_of(MODEL, "clear"), LossConfig(), mesh, batch_size=n)(model)
        for n in (2, 5)
    ]
    assert results[0] == near(results[1])


def test_the_gap_is_what_the_oracle_takes_off_the_loss_and_adds_to_the_accuracy(trained):
    values = trained[1]["evaluation"]
    for part in ("text_non_pad", "audio_semantic"):
        loss, accuracy = f"loss/{part}", f"accuracy/{part}"
        assert values[f"eval/gap/{loss}"] == pytest.approx(
            values[f"eval/idle/{loss}"] - values[f"eval/{loss}"]
        )
        assert values[f"eval/gap/{accuracy}"] == pytest.approx(
            values[f"eval/{accuracy}"] - values[f"eval/idle/{accuracy}"]
        )
    assert values["eval/gap/loss/text_non_pad"] != 0


def test_the_command_says_what_the_run_said_of_the_same_data(trained, data, capsys):
    """From any of its folders, by its own weights of the loss, pieces and rules."""
    folder, result = trained
    found = evaluated(capsys, "--checkpoint", folder / "checkpoints" / "1", "--data", data)
    expected = {
        name.removeprefix("eval/"): value for name, value in result["evaluation"].items() if name != "step"
    }
    assert found["samples"] == 5
    assert {name: found[name] for name in expected} == near(expected)


def test_the_command_can_leave_the_oracle_out_and_take_the_other_speaker(trained, data, capsys):
    options = ("--checkpoint", trained[0], "--data", data)
    alone, other = (evaluated(capsys, *options, *more) for more in (["--no-oracle"], ["--speakers", "A,B"]))
    assert not [name for name in alone if name.startswith(("idle/", "gap/"))]
    assert alone["loss/text_non_pad"] != trained[1]["evaluation"]["eval/loss/text_non_pad"]
    assert other["samples"] == 10


def test_people_get_a_table(trained, data, capsys):
    assert main(["evaluate", "--checkpoint", str(trained[0]), "--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["recorded", "idle", "oracle", "gap"]
    assert any(line.startswith("loss/text_non_pad") and len(line.split()) == 4 for line in lines)


@pytest.mark.parametrize(
    ("options", "tail", "reference"),
    [
        ((), "clear", False),
        (("--preset", "reference"), "keep", True),
        (("--preset", "reference", "--tail", "clear"), "clear", True),
    ],
)
def test_the_preset_sets_the_rules_of_the_data_and_an_option_wins_over_it(trained, options, tail, reference):
    command = ["evaluate", "--checkpoint", str(trained[0]), "--data", "x", *options]
    data, oracle, loss = _settings(parse(build_parser(["evaluate"]), command))
    assert oracle.tail == tail
    assert data.rules == ("reference" if reference else "kame-jax")
    assert (data.carry_oracle, data.mask_fill) == (not reference, not reference)
    assert (data.max_frames, loss.semantic_weight) == (24, 3.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--speakers", "C"], "--speakers 'C': expected A, B or A,B"),
        (["--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["--min-frames", "99"], "no piece has at least --min-frames 99 frames"),
        (["--checkpoint", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(trained, data, capsys, options, message):
    assert main(["evaluate", "--checkpoint", str(trained[0]), "--data", str(data), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
