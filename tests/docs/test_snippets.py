"""Commands in the README and the documentation are commands: they parse, and name what is there; some are run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kame_jax.cli.main import build_parser, parse
from kame_jax.config import find_config
from kame_jax.demo.dialogues import ROOT as DIALOGUES
from kame_jax.demo.dialogues import sample_entries

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]


def commands(page):
    """The lines of a page's shell snippets as words, without comments, continued lines joined."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


SNIPPETS = [(page, words) for page in PAGES for words in commands(page)]


def named(snippet):
    return f"{snippet[0].name}: {' '.join(snippet[1])}"[:80]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=named)
def test_a_command_in_the_documentation_is_one(snippet):
    _, (program, *rest) = snippet
    program = program.removeprefix(".venv/bin/")
    if program == "kame-jax":
        args = parse(build_parser(), rest)
        if hasattr(args, "overrides"):
            find_config(args.config)
    elif program == "python" and not rest[0].startswith("-"):
        assert (ROOT / rest[0]).is_file()
    elif program.startswith("launch/"):
        assert os.access(ROOT / program, os.X_OK)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert program in {"pip", "python", "python3", "export", "docker", "kubectl", "sbatch", "tail"}


def test_every_page_of_a_task_starts_with_a_command():
    for page in sorted((ROOT / "docs" / "pages").glob("*.md")):
        if page.name not in ("api.md", "index.md"):
            assert re.match(r"# [^\n]+\n\n```sh\n", page.read_text()), page.name


# Those that need neither a network nor another machine, in the order of a first hour, on a few dialogues.
FIRST_HOUR = [
    ("README.md", "kame-jax stream --out reply.wav --picture reply.png"),
    ("recordings.md", "kame-jax data oracle dialogues"),
    ("train.md", "kame-jax train tiny data.path=dialogues run_dir=runs/mine train.steps=200"),
    ("train.md", "kame-jax evaluate --checkpoint runs/mine --data dialogues"),
    ("stream.md", "kame-jax stream --llm sample --picture talk.png --log talk.jsonl"),
    ("stream.md", "kame-jax stream --oracle talk.jsonl --out again.wav"),
    ("convert.md", "kame-jax bench convert --config tiny"),
    ("stream.md", "kame-jax bench decode --config tiny --frames 20"),
]


@pytest.mark.slow
def test_the_first_hour_goes_as_documented(tmp_path):
    for entry in sample_entries("train")[:6]:
        for part in ("audio", "text"):
            (tmp_path / "dialogues" / part).mkdir(parents=True, exist_ok=True)
            for file in (DIALOGUES / part).glob(f"{entry.id}.*"):
                shutil.copy(file, tmp_path / "dialogues" / part)
    for page, command in FIRST_HOUR:
        words = shlex.split(command)
        assert any(path.name == page and found == words for path, found in SNIPPETS), command
        done = subprocess.run(
            [sys.executable, "-m", "kame_jax", *words[1:]],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    assert (tmp_path / "reply.wav").stat().st_size > 10_000
