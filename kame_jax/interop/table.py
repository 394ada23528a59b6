"""The conversion tables' engine: rules that tie foreign tensors to slices of our stacked arrays, in both directions.

A rule is one line: a key template, our path, and which slice of it the tensor is. From the same line a key is read
and written. The lines themselves are in the tables of this package; bytes are moved by `assemble.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kame_jax.checkpoint.weights import Shapes
from kame_jax.errors import MOST_SHOWN, InputError
from kame_jax.interop.safetensors_file import TensorInfo


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
        key: the foreign name; `{l}` stands for an index, spelled as digits.
        path: ours.
        index: the slice of our array, one entry for each of its first dimensions: a variable of `key`, a number, or
            `:` for all of it. `"l k"` of a `[layers, sets, ...]` array is one layer's one set.
        fold: how the slice's dimensions become the tensor's: `(3, 1)` merges the first three into one and keeps the
            fourth, `0` stands for an extra dimension of size one. Empty keeps them all.
        order: name of a fixed reordering of rows between our slice and theirs (`ORDERS`), empty for none.
    """

    key: str
    path: str
    index: str = ""
    fold: tuple[int, ...] = ()
    order: str = ""

    @property
    def regex(self) -> re.Pattern[str]:
        """What a key of this rule looks like, with a named group for each variable."""
        parts = re.split(r"{(\w+)}", self.key)
        return re.compile("".join(f"(?P<{p}>\\d+)" if i % 2 else re.escape(p) for i, p in enumerate(parts)))


@dataclass(frozen=True)
class Slot:
    """One foreign tensor and the slice of one of our arrays that it is.

    Attributes:
        key: the foreign name.
        path: ours.
        index: a number for each dimension of ours that is fixed, None for a whole one; trailing ones left out.
        view: the slice's own shape.
        shape: the foreign tensor's shape, with as many elements in the same order (but for `order`).
        order: as in `Rule`.
    """

    key: str
    path: str
    index: tuple[int | None, ...]
    view: tuple[int, ...]
    shape: tuple[int, ...]
    order: str

    @property
    def at(self) -> tuple[int | slice, ...]:
        """The slice as NumPy takes it."""
        return tuple(slice(None) if i is None else i for i in self.index)


@dataclass
class Plan:
    """Which tensors fill which of our arrays: the outcome of matching a file against the tables."""

    shapes: Shapes
    slots: dict[str, list[Slot]] = field(default_factory=dict)


ORDERS = ("half_rope",)
"""Reorderings between files. `half_rope`: rotary pairs are half a head apart there, adjacent here (HF)."""


def to_ours(order: str, value: np.ndarray) -> np.ndarray:
    """Undo a reordering: `value` is a foreign tensor seen in the shape of our slice, `[heads, head_dim, ...]`."""
    if not order:
        return value
    heads, width = value.shape[:2]
    return value.reshape(heads, 2, width // 2, *value.shape[2:]).swapaxes(1, 2).reshape(value.shape)


def to_theirs(order: str, value: np.ndarray) -> np.ndarray:
    """Apply a reordering to a slice of ours, `[heads, head_dim, ...]`."""
    if not order:
        return value
    heads, width = value.shape[:2]
    return value.reshape(heads, width // 2, 2, *value.shape[2:]).swapaxes(1, 2).reshape(value.shape)


def expand(rules: Iterable[Rule], shapes: Shapes) -> dict[str, Slot]:
    """All keys that the rules give for arrays of these shapes; rules about other paths give none.

    Raises:
        ValueError: two rules give the same key, or a rule does not fit its array's shape.
    """
    slots: dict[str, Slot] = {}
    for rule in rules:
        if rule.path not in shapes:
            continue
        for slot in _expand_rule(rule, shapes[rule.path]):
            if slot.key in slots:
                raise ValueError(f"two rules give the key {slot.key}")
            slots[slot.key] = slot
    return slots


def _expand_rule(rule: Rule, shape: tuple[int, ...]) -> Iterable[Slot]:
    entries = rule.index.split()
    variables = {entry: axis for axis, entry in enumerate(entries) if not entry.isdigit() and entry != ":"}
    view = tuple(size for axis, size in enumerate(shape) if axis >= len(entries) or entries[axis] == ":")
    if rule.order and rule.order not in ORDERS:
        raise ValueError(f"{rule.key}: no order {rule.order!r}, only {', '.join(ORDERS)}")
    if rule.fold and sum(rule.fold) != len(view):
        raise ValueError(f"{rule.key}: the fold {rule.fold} does not fit {rule.path} {shape}")
    for numbers in np.ndindex(*(shape[axis] for axis in variables.values())):
        values = dict(zip(variables, numbers, strict=True))
        index = tuple(None if e == ":" else int(e) if e.isdigit() else values[e] for e in entries)
        folded = fold_shape(view, rule.fold)
        yield Slot(rule.key.format(**values), rule.path, index, view, folded, rule.order)


def fold_shape(view: Sequence[int], fold: Sequence[int]) -> tuple[int, ...]:
    """The shape after merging neighbouring dimensions as `Rule.fold` says."""
    if not fold:
        return tuple(view)
    ends = np.cumsum(fold)
    return tuple(math.prod(view[end - size : end]) for size, end in zip(fold, ends, strict=True))


def match(
    infos: Mapping[str, TensorInfo], rules: Sequence[Rule], names: Sequence[Rule], shapes: Shapes, where: str
) -> Plan:
    """Ties a file's tensors to our arrays.

    Every key matches exactly one rule, and every slice of every array is filled by exactly one key.

    Args:
        infos: the file's keys, shapes and dtypes.
        rules: every spelling that is accepted; several rules may name the same slice.
        names: the rules of one layout, whose spelling names what is missing.
        shapes: the arrays to fill.
        where: what the file is called in the error.

    Raises:
        InputError: with all missing, unknown, doubly given and wrongly shaped keys in one list.
    """
    most = 20 * len(infos) + 10_000
    if (total := sum(math.prod(_indexed(rule, shapes)) for rule in rules if rule.path in shapes)) > most:
        raise InputError(
            f"{where}: its configuration describes a model of far more tensors than the {len(infos):,} that are there "
            f"({total:,} names)"
        )
    slots = expand(rules, shapes)
    plan = Plan(shapes, {path: [] for path in shapes})
    units = _units(slots.values(), shapes)
    for key, info in infos.items():
        slot = slots.get(key)
        if slot is None or slot.shape != info.shape or info.dtype.kind not in "fV":
            raise _misfits(infos, slots, rules, names, shapes, where)
        plan.slots[slot.path].append(slot)
        units[slot.path][slot.at] += 1
    if not all(np.all(count == 1) for count in units.values()):
        raise _misfits(infos, slots, rules, names, shapes, where)
    return plan


def _misfits(
    infos: Mapping[str, TensorInfo],
    slots: Mapping[str, Slot],
    rules: Sequence[Rule],
    names: Sequence[Rule],
    shapes: Shapes,
    where: str,
) -> InputError:
    """Everything that keeps a file's tensors from being the model's."""
    problems: list[str] = []
    forms = [(rule, rule.regex) for rule in rules]
    found: dict[str, list[Slot]] = {path: [] for path in shapes}
    units = _units(slots.values(), shapes)
    for key, info in infos.items():
        slot = slots.get(key)
        if slot is None:
            why = _why_unknown(key, forms, shapes) if len(problems) < MOST_SHOWN else ""
            problems.append(f"unknown: {key} {list(info.shape)}{why}")
            continue
        if info.shape != slot.shape:
            empty = (
                " (a part that ZeRO-3 has not gathered? save with zero_to_fp32)" if info.shape == (0,) else ""
            )
            problems.append(f"wrong shape: {key} is {list(info.shape)}, expected {list(slot.shape)}{empty}")
        elif info.dtype.kind not in "fV":
            problems.append(f"wrong dtype: {key} is {info.dtype}, expected a floating-point one")
        found[slot.path].append(slot)
        units[slot.path][slot.at] += 1
    wanted = expand(names, shapes)
    for path, count in units.items():
        if count.size and count.max() > 1:
            twice = [s.key for s in found[path] if np.max(count[s.at]) > 1]
            problems.append(f"given more than once: {', '.join(sorted(twice))}")
        missing = [s for s in wanted.values() if s.path == path and not np.all(count[s.at])]
        problems += [f"missing: {s.key} {list(s.shape)}" for s in missing]
        if count.size and count.min() == 0 and not missing:
            problems.append(f"missing: {path}, which this layout has no name for")
    message = f"{where}: its tensors do not fit the model ({len(problems)} problems)"
    return InputError(message, sorted(problems))


def _indexed(rule: Rule, shapes: Shapes) -> list[int]:
    """How many values each variable of a rule's key takes."""
    sizes = zip(rule.index.split(), shapes[rule.path], strict=False)
    return [size for entry, size in sizes if not entry.isdigit() and entry != ":"]


def _units(slots: Iterable[Slot], shapes: Shapes) -> dict[str, np.ndarray]:
    """A counter for each slice that some rule can address, per path."""
    depth = dict.fromkeys(shapes, 0)
    for slot in slots:
        depth[slot.path] = max(depth[slot.path], len(slot.index))
    return {path: np.zeros(shapes[path][:axes], np.int32) for path, axes in depth.items()}


def _why_unknown(key: str, forms: Iterable[tuple[Rule, re.Pattern[str]]], shapes: Shapes) -> str:
    """For a key of a known form: which of its indices is out of range."""
    for rule, form in forms:
        found = form.fullmatch(key)
        if not found:
            continue
        if rule.path not in shapes:
            return f" (this model has no {rule.path})"
        sizes = dict(zip(rule.index.split(), shapes[rule.path], strict=False))
        outside = [
            f"{name} {value} of {sizes[name]}" for name, value in found.groupdict().items() if name in sizes
        ]
        return f" (outside the model: {', '.join(outside)})"
    return ""
