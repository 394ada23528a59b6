"""The examples of the documentation run as they stand."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize("name", ["convert_and_verify", "finetune_lora", "stream_with_llm"])
def test_an_example_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    printed = capsys.readouterr().out
    expected = {
        "convert_and_verify": "tensors, identical",
        "finetune_lora": "'lora.safetensors'",
        "stream_with_llm": "oracle tokens read: ",
    }
    assert expected[name] in printed


def test_every_example_has_a_page_and_is_run():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"convert_and_verify", "finetune_lora", "stream_with_llm"}
    menu = (EXAMPLES.parent / "mkdocs.yml").read_text()
    assert all(f"examples/{name}.md" in menu for name in names)
