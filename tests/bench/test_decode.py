"""`kame-jax bench decode` reports a frame's time and its floor."""

import json

from kame_jax.cli.main import main


def test_frame_times_come_with_their_floor_and_every_raw_time(tmp_path, capsys):
    raw = tmp_path / "raw.jsonl"
    arguments = ["--config", "tiny", "--sessions", "1", "--frames", "4", "--raw", str(raw), "--json"]
    assert main(["bench", "decode", *arguments]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = result["rows"]
    assert row["ms_p50"] <= row["ms_p95"] <= row["ms_p99"]
    assert row["ratio"] == row["ms_p50"] / row["floor_ms"]
    assert row["weight_bytes"] > row["ring_bytes"] > 0
    ours = [line for line in map(json.loads, raw.read_text().splitlines()) if line["what"] == "kame_jax"]
    assert [len(line["seconds"]) for line in ours] == [4]


def test_senseless_numbers_are_refused(capsys):
    for arguments in (["--sessions", "0"], ["--sessions", "two"], ["--frames", "0"]):
        assert main(["bench", "decode", *arguments]) == 2
        assert "expected numbers of at least 1" in capsys.readouterr().err
