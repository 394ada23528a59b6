"""Pages made from the code: every setting, every command, and the examples. `mkdocs.yml` runs this as a hook."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from kame_jax.cli.main import COMMANDS, build_parser
from kame_jax.config import (
    LLMConfig,
    RunConfig,
    STTConfig,
    TandemConfig,
    TTSConfig,
    config_paths,
    config_summary,
)

EXAMPLES = Path(__file__).parent / "examples"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"settings.md": settings_page(), "commands.md": commands_page()}
    pages |= {f"examples/{path.stem}.md": example_page(path) for path in sorted(EXAMPLES.glob("*.py"))}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def settings_page() -> str:
    """Every setting: its key, type and range, default, and what it means."""
    parts = [
        "# Settings",
        "A run is one YAML file; `a.b=c` on the command line replaces a setting, and `--print-config` prints the "
        "result. This page is made from the code that checks the settings.",
        "## Ready configurations",
        "`kame-jax train --list` prints these names.",
        "| name | what it is |\n| --- | --- |",
    ]
    parts[-1] += "".join(f"\n| `{path.stem}` | {config_summary(path)} |" for path in config_paths())
    for cls, title in (
        (RunConfig, "Settings of a run"),
        (TandemConfig, "Settings of a back end (`--llm FILE.yaml`)"),
        (STTConfig, "Settings of a speech-to-text source (`--stt FILE.yaml`)"),
        (TTSConfig, "Settings of a text-to-speech server (`data synthesize --tts FILE.yaml`)"),
    ):
        parts += [f"## {title}", *_sections(cls, "")]
    return "\n\n".join(parts) + "\n"


def _sections(cls: type, prefix: str) -> Iterator[str]:
    """One table a class, the nested ones after it."""
    yield f"### {prefix or cls.__name__}"
    yield (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    kinds, texts = typing.get_type_hints(cls, include_extras=True), dict(_field_texts(cls))
    rows, nested = [], []
    for field in dataclasses.fields(cls):
        inner = _dataclass_in(kinds[field.name])
        if inner is not None and inner is not LLMConfig:
            nested.append((inner, f"{prefix}.{field.name}".lstrip(".")))
            continue
        if inner is not None:
            nested.append((inner, field.name))
        text = texts.get(field.name, "").replace("|", "\\|")
        rows.append(f"| `{field.name}` | {_kind(kinds[field.name])} | {_default(field)} | {text} |")
    if rows:
        yield "| setting | type | default | meaning |\n| --- | --- | --- | --- |\n" + "\n".join(rows)
    for inner, name in nested:
        yield from _sections(inner, name)


def _dataclass_in(kind: Any) -> type | None:
    """The configuration class of a field, if it has one of its own."""
    options = [kind, *typing.get_args(kind)]
    return next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)


def _kind(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        base, *limits = typing.get_args(kind)
        return f"{_kind(base)}, {' '.join(map(str, limits))}"
    args = [_kind(a) for a in typing.get_args(kind) if a is not Ellipsis]
    if typing.get_origin(kind) is tuple:
        return f"list of {args[0]}" if Ellipsis in typing.get_args(kind) else f"[{', '.join(args)}]"
    if args:
        return " or ".join(args)
    return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return f"`{json.dumps(field.default)}`"


def _field_texts(cls: type) -> Iterator[tuple[str, str]]:
    """The string under each field, as the source has it; of the base classes too."""
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(inspect.cleandoc(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for field, text in itertools.pairwise(body):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                yield field.target.id, " ".join(str(text.value.value).split())


def commands_page() -> str:
    """The help of every command."""
    parts = ["# Commands", "`--help` of each, as the program prints it."]
    for path, parser in _parsers(build_parser(COMMANDS), "kame-jax"):
        parts += [f"## {path}", f"```text\n{parser.format_help().rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _parsers(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from _parsers(child, f"{path} {name}")


def example_page(path: Path) -> str:
    """A script with `# %%` cells as a page: comments of a `[markdown]` cell are text, the rest is code."""
    parts = []
    for cell in re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append(
                "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
            )
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"
