"""Configurations as text: YAML files found by path or by name, presets, `a.b=c` overrides, and YAML again.

Numbers, booleans and null are those of YAML 1.2 (`1e-4` is a number, `yes` and `on` are text), with `_` between digits.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kame_jax.config.build import build, problem_list, shown, to_dict
from kame_jax.config.model import MimiConfig, ModelConfig
from kame_jax.config.presets import RUN_PRESETS
from kame_jax.config.run import RunConfig, RunModelConfig
from kame_jax.errors import InputError
from kame_jax.files import read_text, regular_file

T = TypeVar("T")

TEXT_LIMIT = 1 << 20
"""Bytes of the longest configuration."""
MOST_VALUES = 100_000
"""Values of the largest configuration, counting those that aliases repeat: a few nested ones make billions."""
PRESET_SECTIONS = ("model", "codec")
"""Sections that may start from another file's, with `preset: NAME`."""

PODS = "pods"
"""Folder of the runs on named machines, next to the other ready configurations."""

_PLAIN_SCALARS = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?((\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    """YAML to plain values."""


class _Dumper(yaml.SafeDumper):
    """Plain values to YAML; quotes the text that the loader would take for something else."""


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.SequenceNode:
    """A list of numbers or names stays on its line; a list of sections does not."""
    flow = not any(isinstance(item, Mapping) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _represent_list)
for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {}
    for _tag, _pattern, _starts in _PLAIN_SCALARS:
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_starts)
        )


@dataclass(frozen=True)
class _Document:
    """Nested plain values, and for each dotted key the place where it was written."""

    values: Any
    sources: dict[str, str]


def load_run(source: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run's configuration.

    Args:
        source: a YAML file, or the name of a ready one (`tiny`).
        overrides: `dotted.key=value` texts, the value in YAML (`model.delays=[0,1,1]`, `data.path=null`);
            of two for one key the last one wins.

    Raises:
        InputError: every problem of file and overrides, in one list.
    """
    path = find_config(source)
    document, problems = _overridden(_read(path), overrides)
    if problems:
        raise problem_list(str(source), problems)
    document = _with_run_preset(_with_presets(document, (path,)), str(source))
    return build(RunConfig, document.values, document.sources, about=str(source))


def load_model(source: str | Path) -> ModelConfig:
    """The architecture in the `model` section of a YAML file or a ready configuration (`kame_7b`).

    Raises:
        InputError: every problem of that section, in one list.
    """
    return _load_section(source, "model", RunModelConfig).architecture


def load_codec(source: str | Path) -> MimiConfig:
    """The codec in the `codec` section of a YAML file or a ready configuration (`mimi`).

    Raises:
        InputError: every problem of that section, in one list.
    """
    return _load_section(source, "codec", MimiConfig)


def load_settings(
    cls: type[T],
    source: str | Path,
    overrides: Iterable[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Read a YAML file that holds one section of settings of class `cls`, with `dotted.key=value` overrides.

    Args:
        cls: of the settings.
        source: the file.
        overrides: settings that replace those of the file.
        defaults: values in place of the class's own, for a use that needs others.

    Raises:
        InputError: no such file, or every problem of file and overrides in one list.
    """
    path = regular_file(source, f"YAML with settings of {cls.__name__}")
    document, problems = _overridden(_read(path), overrides)
    if problems:
        raise problem_list(str(source), problems)
    return build(cls, {**(defaults or {}), **document.values}, document.sources, about=str(source))


def to_yaml(config: Any) -> str:
    """The configuration as YAML text, presets resolved; reading it back gives an equal configuration."""
    return yaml.dump(
        to_dict(config),
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        width=110,
        allow_unicode=True,
    )


def config_names() -> list[str]:
    """Names of the ready configurations, one for each model; `configs/pods` has more, for runs on named machines."""
    return [path.stem for path in config_paths() if path.parent.name != PODS]


def config_paths() -> list[Path]:
    """Files of all ready configurations: those of models by name, then those of runs on named machines."""
    return [path for folder in _config_folders() for path in sorted(folder.glob("*.yaml"))]


def config_summary(path: Path) -> str:
    """What a configuration is: the first sentence of its file's opening comment."""
    lines = itertools.takewhile(
        lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()
    )
    text = " ".join(line.lstrip("# ") for line in lines)
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def find_config(source: str | Path) -> Path:
    """The file that `source` means: a path, or the name of a ready configuration.

    Raises:
        InputError: there is no such file or name; suggests the nearest name.
    """
    path = Path(source)
    if os.path.exists(path) and not path.is_dir():  # a folder may have the name of a ready configuration
        return regular_file(path, "a configuration in YAML")
    known = {file.stem: file for file in config_paths()}
    if str(source) in known:
        return known[str(source)]
    near = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"ready ones: {', '.join(config_names())}"
    raise InputError(f"no configuration file or name {str(source)!r}; {hint}")


def _config_folders() -> tuple[Path, Path]:
    """Folders of the ready configurations: inside an installed package, else at the top of a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "configs"
    folder = inside if inside.is_dir() else package.parent / "configs"
    return folder, folder / PODS


def _load_section(source: str | Path, name: str, cls: type[T]) -> T:
    path = find_config(source)
    document = _with_presets(_read(path), (path,))
    if name not in document.values:
        raise InputError(f"{source}: no `{name}` section, found: {', '.join(document.values) or 'nothing'}")
    prefix = name + "."
    sources = {
        key.removeprefix(prefix): place for key, place in document.sources.items() if key.startswith(prefix)
    }
    return build(cls, document.values[name], sources, about=f"{source}: {name}")


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The plain values of a YAML file of `key: value` lines.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    return dict(_read(Path(path)).values)


def _read(path: Path, label: str = "") -> _Document:
    """The values of a YAML file, each with its line; `label` names the file where it is not the one asked for."""
    text = read_text(path, "a configuration in YAML", TEXT_LIMIT)
    document = _parse(text, lambda line: f"{label}line {line}", about=str(path))
    if not isinstance(document.values, Mapping):
        raise InputError(f"{path}: expected `key: value` lines, got {shown(document.values)}")
    return document


def _parse(text: str, place: Any, about: str) -> _Document:
    """Plain values of one YAML text; `place` turns a line number into a source."""
    sources: dict[str, str] = {}
    problems: list[str] = []

    def plain(node: yaml.Node, key: str) -> Any:
        if len(sources) >= MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values, those that aliases (*name) repeat included")
        sources[key] = place(node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [plain(item, f"{key}[{i}]") for i, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node, deep=True)
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = str(name_node.value)
            child = f"{key}.{name}" if key else name
            if name in values:
                problems.append(f"{place(name_node.start_mark.line + 1)}: {child}: written twice")
            values[name] = plain(value_node, child)
        return values

    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = None if node is None else plain(node, "")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{place(mark.line + 1)}: " if mark and place(mark.line + 1) != about else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{about}: {line}not valid YAML: {reason}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{about}: not valid YAML: {error}") from error
    if problems:
        raise problem_list(about, problems)
    sources.setdefault("", place(1))
    return _Document(values, sources)


def _overridden(document: _Document, overrides: Iterable[str]) -> tuple[_Document, list[str]]:
    """The document with the overrides on top, and what is wrong with their form."""
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        names = key.strip().split(".")
        where = f"override {override!r}"
        if not equals or not all(names):
            problems.append(f"{where}: expected dotted.key=value")
            continue
        try:
            value = _parse(text, lambda _, where=where: where, about=where)
        except InputError as error:
            problems.append(str(error))
            continue
        nested = value.values
        for name in reversed(names):
            nested = {name: nested}
        sources = {_joined(".".join(names), inner): place for inner, place in value.sources.items()}
        document = _merged(document, _Document(nested, sources))
    return document, problems


def _joined(key: str, inner: str) -> str:
    """The dotted key of `inner` (a key or a list place) inside `key`."""
    return key + inner if inner.startswith("[") or not inner else f"{key}.{inner}"


def _with_presets(document: _Document, seen: tuple[Path, ...]) -> _Document:
    """The document with every `preset` replaced by the section that it names, under the section's own values."""
    for name in PRESET_SECTIONS:
        section = document.values.get(name)
        if not isinstance(section, Mapping) or section.get("preset") is None:
            continue
        where = document.sources.get(f"{name}.preset", "")
        if not isinstance(section["preset"], str):
            raise InputError(
                f"{where}: {name}.preset: expected the name of a configuration, got {section['preset']!r}"
            )
        try:
            path = find_config(section["preset"])
        except InputError as error:
            raise InputError(f"{where}: {name}.preset: {error}") from error
        if path in seen:
            raise InputError(f"{where}: {name}.preset: {section['preset']} leads back to itself")
        base = _with_presets(_read(path, label=f"{path.name} "), (*seen, path))
        if name not in base.values:
            raise InputError(f"{where}: {name}.preset: {path.name} has no `{name}` section")
        below = {
            key: place for key, place in base.sources.items() if key == name or key.startswith(name + ".")
        }
        own = {key: value for key, value in section.items() if key != "preset"}
        merged = _merged(
            _Document({name: base.values[name]}, below), _Document({name: own}, document.sources)
        )
        document = dataclasses.replace(merged, values={**document.values, **merged.values})
    return document


def _with_run_preset(document: _Document, about: str) -> _Document:
    """The document with the settings of its `preset` under its own."""
    if "preset" not in document.values:
        return document
    name, where = document.values["preset"], document.sources.get("preset", "")
    if not isinstance(name, str) or name not in RUN_PRESETS:
        raise InputError(
            f"{about}: {where}: preset: expected one of {', '.join(RUN_PRESETS)}, got {shown(name)}"
        )
    chosen: dict[str, Any] = {}
    for key, value in RUN_PRESETS[name].items():
        section, _, setting = key.partition(".")
        chosen.setdefault(section, {})[setting] = value
    own = {key: value for key, value in document.values.items() if key != "preset"}
    return _merged(_Document(chosen, {}), _Document(own, document.sources))


def _merged(below: _Document, above: _Document) -> _Document:
    """`above` on top of `below`: sections are merged key by key, everything else is replaced."""

    def merge(low: Any, high: Any) -> Any:
        if not (isinstance(low, Mapping) and isinstance(high, Mapping)):
            return high
        return {**low, **{key: merge(low.get(key), value) for key, value in high.items()}}

    return _Document(merge(below.values, above.values), {**below.sources, **above.sources})
