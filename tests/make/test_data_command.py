"""`kame-jax data`: dialogues to records to a data set to figures, with exit statuses that say what was left out."""

import json

import numpy as np
import pytest

from kame_jax.cli.main import main
from kame_jax.data.dataset import Dataset
from kame_jax.demo.dialogues import ROOT, sample_entries
from kame_jax.make import encoding
from tests.bundled import copy_dialogues

CODEC = str(ROOT.parent / "tiny")


@pytest.fixture
def dialogues(tmp_path):
    return copy_dialogues(tmp_path / "dialogues", [entry.id for entry in sample_entries()[:3]])


@pytest.fixture(autouse=True)
def quick_codec(monkeypatch):
    """Codes are the number of the frame: what a codec makes of sound is tested elsewhere."""

    def encoder(mimi, codebooks, rows):
        return lambda recordings: [
            np.tile(np.arange(-(-len(r) // 1920), dtype=np.int32) % 256, (codebooks, 1)) for r in recordings
        ]

    monkeypatch.setattr(encoding, "batch_encoder", encoder)


def result(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_dialogues_become_a_data_set_a_picture_and_figures(dialogues, tmp_path, capsys):
    out, tokens = str(tmp_path / "set"), str(tmp_path / "tokens")
    options = ["--codec", CODEC, "--codebooks", "2", "--json"]
    assert main(["data", "tokenize", str(dialogues), tokens, *options]) == 0
    assert result(capsys)["made"] == 3
    assert main(["data", "build", tokens, out, "--held-out", "0.3", "--json"]) == 0
    assert result(capsys)["splits"]["validation"]["dialogues"] == 1
    assert main(["data", "inspect", out, "--json"]) == 0
    assert result(capsys)["dialogues"] == 2
    picture = tmp_path / "record.png"
    name = Dataset(out).name(1)
    options = ["--picture", str(picture), "--record", name, "--seconds", "1:3"]
    assert main(["data", "inspect", out, *options]) == 0
    assert picture.read_bytes()[1:4] == b"PNG"
    assert main(["data", "build", str(dialogues), out, "--codec", CODEC]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_bad_dialogue_makes_the_exit_status_2_unless_it_was_allowed(dialogues, tmp_path, capsys):
    (dialogues / "text" / f"{sample_entries()[0].id}.json").write_text("[")
    command = ["data", "build", str(dialogues), str(tmp_path / "set"), "--codec", CODEC, "--codebooks", "2"]
    assert main([*command, "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["bad"] == 1
    assert f"dialogue {sample_entries()[0].id}: " in captured.err
    assert "1 left out, each named above; all others are done" in captured.err
    assert len(Dataset(tmp_path / "set")) == 2
    command[3] = str(tmp_path / "again")
    assert main([*command, "--max-bad", "1", "--tokens", str(tmp_path / "set.tokens")]) == 0


def test_damaged_records_are_named_and_what_macos_leaves_is_not_counted(dialogues, tmp_path, capsys):
    tokens = tmp_path / "tokens"
    options = ["--codec", CODEC, "--codebooks", "2"]
    assert main(["data", "tokenize", str(dialogues), str(tokens), *options]) == 0
    (tokens / "damaged.npz").write_bytes(b"PK")
    (tokens / "._a.npz").write_text("left by macOS")
    for command in (["inspect", str(tokens)], ["build", str(tokens), str(tmp_path / "set")]):
        capsys.readouterr()
        assert main(["data", *command, "--json"]) == 2
        captured = capsys.readouterr()
        result = json.loads(captured.out.splitlines()[-1])
        assert (result["bad"], result["problems"][0].split(": ")[0]) == (1, "dialogue damaged")
        assert result["problems"][0] in captured.err
    assert main(["data", "inspect", str(tokens), "--max-bad", "1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tokenize", "D", "OUT"], "--codec: expected Mimi's weights"),
        (["tokenize", "D", "OUT", "--codec", CODEC, "--codebooks", "99"], "--codebooks 99: expected 1 to"),
        (["tokenize", "D", "OUT", "--codec", CODEC, "--shard", "4/4"], "--shard 4/4: expected i/n"),
        (["tokenize", "D", "OUT", "--codec", CODEC, "--rule", "speed=on"], "'speed' is not a rule"),
        (["build", "D", "OUT", "--held-out", "1"], "--held-out 1.0: expected"),
        (["inspect", "none"], "none: no such folder"),
    ],
)
def test_bad_usage_is_one_clear_line(arguments, expected, dialogues, tmp_path, capsys):
    places = {"D": str(dialogues), "OUT": str(tmp_path / "out")}
    assert main(["data", *(places.get(a, a) for a in arguments)]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
