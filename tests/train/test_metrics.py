"""Metrics on disk and on the terminal."""

import math
import time

from kame_jax.cli.main import main
from kame_jax.train.metrics import Meter, MetricsFile, read_metrics
from kame_jax.train.plots import plot_metrics
from kame_jax.train.progress import Terminal

LINE = {
    "step": 3,
    "loss/total": 2.5,
    "loss/text_non_pad": 1.0,
    "accuracy/text_non_pad": 0.25,
    "frames_per_second": 90.0,
}


def test_a_run_that_continues_drops_the_lines_it_writes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    for step in (1, 2, 3):
        first.write({"step": step, "loss/total": math.nan, "seconds": step * 10.0})
    with path.open("a") as file:
        file.write('{"step": 4, "loss')  # the process was killed here
    again = MetricsFile(path, 2)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    assert again.seconds == 20
    assert "NaN" not in path.read_text()
    assert math.isnan(read_metrics(path)[0]["loss/total"])


def test_speed_leaves_out_the_first_step_and_pauses():
    meter = Meter(5.0)
    meter.add(1000)
    assert math.isnan(meter.rate())
    meter.add(50)
    with meter.paused():
        time.sleep(0.3)
    time.sleep(0.05)
    # 50 frames in a little over 0.05 s; with the pause they would be under 150 a second.
    assert 150 < meter.rate() <= 1000
    assert meter.seconds > 5.3


def test_without_a_terminal_a_run_is_told_in_lines_on_stderr(capsys):
    with Terminal() as terminal:
        terminal.say("hello [world]")
        terminal.step(LINE, 4)
        terminal.step(LINE | {"step": 4}, 4)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "hello [world]"
    assert lines[1] == "training 3/4 loss 2.500, words 1.000 (25% right), 90 frames/s"
    assert lines[2].startswith("training 4/4 loss 2.500")


def test_curves_are_drawn_from_whatever_there_is(tmp_path):
    for name, lines in (
        ("none", []),
        ("some", [LINE, {"step": 3, "eval/loss/text_non_pad": 1.5, "loss/text_pad": math.nan}]),
    ):
        plot_metrics(lines, tmp_path / "plots" / f"{name}.png")
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "plots").iterdir())) == 2


def test_train_says_what_it_lacks_in_one_line(capsys, tmp_path):
    assert main(["train", "tiny", f"run_dir={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert said == "kame-jax: data.path: null, expected a data set, or a folder of dialogues or of records\n"
    assert not (tmp_path / "run").exists()


def test_train_prints_its_configuration_and_stops(capsys, tmp_path):
    assert main(["train", "tiny", "--print-config", f"run_dir={tmp_path / 'run'}", "train.steps=3"]) == 0
    assert "\n  steps: 3\n" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
