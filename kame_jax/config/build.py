"""From plain values to a configuration and back: the one place where types, ranges and key names are checked.

A setting's place is written as its dotted key (`train.steps`); all problems of a configuration are found in one pass.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from kame_jax.errors import InputError

T = TypeVar("T")
_BAD: Any = object()


def build(
    cls: type[T], values: Mapping[str, Any], sources: Mapping[str, str] | None = None, about: str = ""
) -> T:
    """Make a configuration of class `cls` from nested plain values.

    Args:
        cls: a configuration dataclass.
        values: nested mappings, lists, numbers, text, booleans and None.
        sources: where a dotted key was written (`tiny.yaml:12`), for messages.
        about: what the configuration is, for messages; empty uses the name of `cls`.

    Raises:
        InputError: unknown or missing keys, wrong types, values out of range or in conflict, all in one list.
    """
    builder = _Builder(cls, sources or {})
    config = builder.section(cls, values, "")
    if builder.problems:
        raise problem_list(about or cls.__name__, builder.problems)
    return typing.cast(T, config)


def validate(config: T) -> T:
    """Return `config` if every field has its type and range and all fit together.

    Raises:
        InputError: everything that is wrong, in one list.
    """
    return build(type(config), to_dict(config))


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested plain values, in the order of its fields; `build` turns them back."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def problem_list(about: str, problems: Iterable[str]) -> InputError:
    """One error for one or many problems of `about`."""
    found = list(problems)
    if len(found) == 1:
        return InputError(f"{about}: {found[0]}")
    return InputError(f"{about}: {len(found)} problems", found)


class _Builder:
    """One pass over the values of a configuration, collecting what is wrong with them."""

    def __init__(self, root: type, sources: Mapping[str, str]) -> None:
        self.sources = sources
        self.known = list(_keys(root))
        self.problems: list[str] = []

    def complain(self, key: str, message: str) -> Any:
        source = self.sources.get(key)
        self.problems.append(f"{source}: {key}: {message}" if source else f"{key}: {message}")
        return _BAD

    def section(self, cls: type, values: Any, prefix: str) -> Any:
        """An instance of the dataclass `cls`, or _BAD."""
        if not isinstance(values, Mapping):
            return self.complain(prefix.rstrip("."), f"expected a section of settings, got {shown(values)}")
        hints = typing.get_type_hints(cls, include_extras=True)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                self.complain(
                    f"{prefix}{name}", f"unknown key; {self.nearest(prefix, str(name), list(fields))}"
                )
        made: dict[str, Any] = {}
        for name, field in fields.items():
            if name in values:
                made[name] = self.value(hints[name], values[name], prefix + name)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                made[name] = self.complain(prefix + name, f"missing, expected {_expected(hints[name])}")
        if any(value is _BAD for value in made.values()):
            return _BAD
        config = cls(**made)
        for name, message in getattr(config, "conflicts", tuple)():
            self.complain(prefix + name, message)
        return config

    def value(self, hint: Any, value: Any, key: str) -> Any:
        """`value` as the type `hint`, or _BAD."""
        kind, limit, optional = unpack(hint)
        if value is None and optional:
            return None
        if dataclasses.is_dataclass(kind):
            return self.section(typing.cast(type, kind), value, key + ".")
        if typing.get_origin(kind) is tuple:
            kinds = typing.get_args(kind)
            if not isinstance(value, list | tuple) or (kinds[-1] is not ... and len(kinds) != len(value)):
                return self.complain(key, f"expected {_expected(hint)}, got {shown(value)}")
            kinds = kinds[:1] * len(value) if kinds[-1] is ... else kinds
            items = [self.value(kinds[i], item, f"{key}[{i}]") for i, item in enumerate(value)]
            return _BAD if any(item is _BAD for item in items) else tuple(items)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is float and is_number and math.isfinite(value):
            value = float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            return self.complain(key, f"expected {_expected(hint)}, got {shown(value)}")
        if limit is not None and value not in limit:
            return self.complain(key, f"expected {_expected(hint)}, got {shown(value)}")
        return value

    def nearest(self, prefix: str, name: str, siblings: list[str]) -> str:
        """What the writer of an unknown key may have meant."""
        close = [prefix + sibling for sibling in difflib.get_close_matches(name, siblings, n=1)]
        last = {key: key.rsplit(".", 1)[-1] for key in self.known}
        elsewhere = difflib.get_close_matches(name, sorted(set(last.values())), n=1)
        close = close or [key for key in self.known if last[key] in elsewhere]
        if close:
            return f"did you mean {' or '.join(close[:3])}?"
        return f"known here: {', '.join(siblings)}"


def _keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a configuration class."""
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        yield prefix + name
        kind, _, _ = unpack(hint)
        if dataclasses.is_dataclass(kind):
            yield from _keys(typing.cast(type, kind), f"{prefix}{name}.")


def unpack(hint: Any) -> tuple[Any, Any, bool]:
    """(type, range or None, whether None is allowed) of an annotation."""
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
        optional = True
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__[0], optional
    return hint, None, optional


def _expected(hint: Any) -> str:
    """An annotation in words."""
    kind, limit, optional = unpack(hint)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if dataclasses.is_dataclass(kind):
        words = "a section of settings"
    elif typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        words = f"a list{'' if kinds[-1] is ... else f' of {len(kinds)}'}, each {_expected(kinds[0])}"
    elif kind is str and limit is not None:
        words = f"one of {limit}"
    else:
        words = names[kind] + (f" {limit}" if limit is not None else "")
    return f"{words}, or null" if optional else words


def shown(value: Any) -> str:
    """A value as its YAML writer would know it, cut when long."""
    if isinstance(value, Mapping):
        return f"a section ({', '.join(map(str, value)) or 'empty'})"
    text = json.dumps(value, default=repr, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(value: Any) -> Any:
    """Nested plain values of one field."""
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
