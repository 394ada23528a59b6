"""`kame-jax bench loader` prints its figure with the floor and the ratio, on made-up data and on a given set."""

import json

import pytest

from kame_jax.cli.main import main


def test_the_loader_is_measured_on_two_sizes_of_data(tmp_path, capsys):
    small = ["--frames", "64", "--batch-size", "2", "--dialogues", "2", "--seconds", "0.05"]
    assert main(["bench", "loader", *small, "--scratch", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratio"] == pytest.approx(result["frames_per_second_per_core"] / result["floor"])
    assert [m["samples"] for m in result["measures"]] == [4, 16]
    assert all(m["rss_end_bytes"] > 0 and m["frames"] > 0 for m in result["measures"])
    assert not list(tmp_path.iterdir())


def test_what_is_no_data_set_is_refused(tmp_path, capsys):
    assert main(["bench", "loader", "--data", str(tmp_path)]) == 2
    assert "not a data set" in capsys.readouterr().err
    assert main(["bench", "loader", "--frames", "0"]) == 2
