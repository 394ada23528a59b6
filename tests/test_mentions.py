"""Every file that a comment, a docstring or a page names is there."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = ("kame_jax", "configs", "convert", "launch", "tests", "docs", ".ci", ".github")
FILES = [path for top in TOP for path in (ROOT / top).rglob("*") if path.is_file()] + list(ROOT.glob("*.md"))
NAMES = {path.name for path in FILES}
TALKING = [path for path in FILES if path.suffix in {".py", ".sh", ".md", ".yaml", ".yml", ".env"}] + [
    ROOT / "Makefile",
    ROOT / ".ci/run",
]
OURS = rf"(?<![\w/.~-])(?:{'|'.join(map(re.escape, TOP))})/[\w./*-]*[\w*]"
SCRIPT = r"(?<![\w/.~*-])[\w/-]+\.(?:py|sh)\b"
FOREIGN = re.compile(
    r"kyutai-labs|SakanaAI|huggingface/|\bkame_finetune|\bMoshi|\bKAME\b|reference's|DeepSpeed"
)
"""Words of a passage that names files of another project."""


def passages(path):
    """What a file says in words: a page's paragraphs, docstrings, comments that follow each other."""
    text = path.read_text()
    if path.suffix == ".md":
        yield from text.split("\n\n")
        return
    if path.suffix == ".py":
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, documented):
                yield ast.get_docstring(node) or ""
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    else:
        lines = enumerate(text.splitlines(), 1)
        comments = {number: line for number, line in lines if line.lstrip().startswith("#")}
    block = ""
    for number in sorted(comments):
        if number - 1 not in comments:
            yield block
            block = ""
        block += comments[number] + "\n"
    yield block


def is_there(word, path):
    """Whether a file of that name is in the project, from its top, in the package, or next to the one that names it."""
    bases = (ROOT, ROOT / "kame_jax", path.parent)
    found = any(list(base.glob(word)) or (base / f"{word}.py").is_file() for base in bases)
    return found or word in NAMES


@pytest.mark.parametrize("folder", [*TOP, "."])
def test_files_that_are_named_are_there(folder):
    missing = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in TALKING
        if (path.relative_to(ROOT).parts[0] if path.parent != ROOT else ".") == folder
        for passage in passages(path)
        if not FOREIGN.search(passage)
        for word in re.findall(f"{OURS}|{SCRIPT}", passage)
        if not is_there(word, path)
    ]
    assert not missing


def test_a_file_that_is_not_there_is_noticed(tmp_path):
    page = tmp_path / "page.py"
    page.write_text(
        '"""See `nowhere.py` and `launch/none.sh`; `tests/rounding.py` is there."""\n# and tests/no/such\n'
    )
    words = [word for passage in passages(page) for word in re.findall(f"{OURS}|{SCRIPT}", passage)]
    assert [word for word in words if not is_there(word, page)] == [
        "nowhere.py",
        "launch/none.sh",
        "tests/no/such",
    ]
