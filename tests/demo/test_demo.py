"""`kame-jax demo`: the main job runs from sound to sound, and (slow) reaches what it is for."""

import json

import pytest
import soundfile

from kame_jax.cli.main import main
from kame_jax.demo import story as demo_story
from kame_jax.demo.dialogues import sample_entries
from tests.bundled import copy_dialogues

PNG = b"\x89PNG"


def test_the_story_runs_end_to_end_and_leaves_report_pictures_and_sound(tmp_path, monkeypatch, capsys):
    names = [e.id for split, count in (("train", 4), ("heldout", 2)) for e in sample_entries(split)[:count]]
    monkeypatch.setattr(demo_story, "SPLICED", 8)
    monkeypatch.setattr(demo_story, "ROOT", copy_dialogues(tmp_path / "dialogues", names))
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--json", "train.steps=2", "model.temporal.num_layers=1"]) == 0
    said = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert json.loads(said.out.splitlines()[-1]) == report
    assert [f"[{i}/5]" in said.err for i in range(1, 6)] == [True] * 5
    assert (report["data"]["dialogues"], report["data"]["heldout"], report["data"]["spliced"]) == (6, 2, 8)
    assert report["conversion"]["bytes"] == (out / "kame" / "model.safetensors").stat().st_size
    assert len(report["answers"]) == report["recall"]["questions"] == 2
    for name in ("right", "none", "changed"):
        assert (out / f"{name}.png").read_bytes().startswith(PNG)
        assert soundfile.info(out / f"{name}.wav").samplerate == 24_000
    assert (out / "train" / "plots" / "loss.png").read_bytes().startswith(PNG)
    assert (out / "train" / "metrics.jsonl").read_text().count("\n") >= 1


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("words")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "exists and is not an earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "words"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_oracle_is_followed_and_nothing_else_tells_the_answer(seed, tmp_path):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--seed", str(seed)]) == 0
    recall = json.loads((tmp_path / "demo" / "report.json").read_text())["recall"]
    assert recall["with_oracle"] >= 0.8
    assert recall["without_oracle"] <= 0.2
    assert recall["changed_to_new"] > 2 * recall["changed_to_old"]
