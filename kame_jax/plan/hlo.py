"""Reads a compiled program's text: which collectives it runs, how often, over how many bytes; its biggest tensors.

XLA prints one instruction per line; a `while` names its condition and body, a fusion the computation that it calls.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

BETWEEN_SLICES = "between-slices"
"""What TPU slices exchange over the data-centre network: XLA prints a `send` to its runtime on the host."""

MADE_ELSEWHERE = ("parameter", "get-tuple-element", "tuple", "bitcast", "while")

_HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) (?P<op>[\w\-]+)\((?P<rest>.*)$"
)
_ARRAY = re.compile(r"\b(?P<dtype>pred|bf16|f16|f32|f64|f8\w+|[su]\d+)\[(?P<dims>[\d,]*)\]")
_CALLS = re.compile(
    r"(?:calls|to_apply|called_computations|branch_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)\}?"
)
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_TRIPS = re.compile(r'known_trip_count[^}]*?"?n"?:\s*"?(\d+)')
_GROUPS = (
    (re.compile(r"replica_groups=\[\d+,(\d+)\]<="), lambda found: int(found[1])),
    (
        re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}"),
        lambda found: _mesh_group(found[1], found[2]),
    ),
    (re.compile(r"replica_groups=\{\{([\d,]+)\}"), lambda found: found[1].count(",") + 1),
    (re.compile(r"source_target_pairs="), lambda found: 2),
)


class Collective(NamedTuple):
    """One communication between devices, as each of them sees it."""

    kind: str
    shape: str
    """Of its result, `bf16[32000,4096]`."""
    size: int
    """Bytes of its result."""
    group: int
    """Devices that take part with this one."""
    times: int
    """How often a step runs it."""
    source: str
    """Where in the program it comes from, as JAX names it."""

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step, all runs together, by a ring or its like."""
        share = (self.group - 1) / self.group
        once = {
            "all-gather": self.size * share,
            "all-reduce": 2 * self.size * share,
            "reduce-scatter": self.size * (self.group - 1),
            "all-to-all": self.size * share,
            "collective-permute": self.size,
            BETWEEN_SLICES: self.size,
        }[self.kind]
        return once * self.times


class _Line(NamedTuple):
    name: str
    type: str
    op: str
    rest: str


def collectives(text: str) -> list[Collective]:
    """Every collective of a compiled program, the most bytes first.

    A collective that runs asynchronously is printed in pieces; those with one channel count once.

    Args:
        text: `compiled.as_text()`.
    """
    programs = _computations(text)
    times = _times(programs)
    found: dict[object, Collective] = {}
    for name, lines in programs.items():
        for number, line in enumerate(lines):
            kind = line.op.removesuffix("-start")
            if kind == "send" and "megascale" in line.rest:
                kind = BETWEEN_SLICES
            elif kind not in KINDS:
                continue
            if not times.get(name):
                continue
            group = 2 if kind == BETWEEN_SLICES else _group(line.rest)
            shape, size = _largest(line.type)
            # TPUs fuse a sum and its cut: what is printed as an all-reduce then gives each device only its part.
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
                size //= group
            channel = re.search(r"channel_id=(\d+)", line.rest)
            key = channel[1] if channel else (name, number)
            source = re.search(r'op_name="([^"]*)"', line.rest)
            one = Collective(kind, shape, size, group, times[name], source[1] if source else "")
            if key not in found or (found[key].times, found[key].source) < (one.times, one.source):
                found[key] = one
    return sorted((c for c in found.values() if c.group > 1), key=lambda c: -c.sent)


class Tensor(NamedTuple):
    """An array that an instruction makes."""

    shape: str
    size: int
    """Bytes, without the padding of its layout."""
    source: str
    """Where it comes from, as JAX names it."""


def biggest_tensors(text: str, count: int = 8) -> list[Tensor]:
    """The biggest arrays in a compiled program, one of each shape; only the compiler knows which are alive at once."""
    found: dict[str, Tensor] = {}
    for lines in _computations(text).values():
        for line in lines:
            if line.op in MADE_ELSEWHERE or not _ARRAY.search(line.type):
                continue
            shape, size = _largest(line.type)
            source = re.search(r'op_name="([^"]*)"', line.rest)
            if shape not in found or not found[shape].source:
                found[shape] = Tensor(shape, size, source[1] if source else "")
    return sorted(found.values(), key=lambda tensor: -tensor.size)[:count]


def _computations(text: str) -> dict[str, list[_Line]]:
    """Name -> instructions; the entry is called ""."""
    programs: dict[str, list[_Line]] = {}
    current: list[_Line] = []
    for raw in text.splitlines():
        if header := _HEADER.match(raw):
            current = programs.setdefault("" if header["entry"] else header["name"], [])
        elif line := _INSTRUCTION.match(raw):
            current.append(_Line(line["name"], line["type"], line["op"], line["rest"]))
    return programs


def _times(programs: Mapping[str, list[_Line]]) -> dict[str, int]:
    """How often each computation runs in a step."""
    times: dict[str, int] = {}

    def visit(name: str, count: int) -> None:
        times[name] = times.get(name, 0) + count
        for called, factor in _called(programs, name):
            if called in programs:
                visit(called, count * factor)

    visit("", 1)
    return times


def _called(programs: Mapping[str, list[_Line]], name: str) -> Iterator[tuple[str, int]]:
    for line in programs[name]:
        if loop := _LOOP.search(line.rest):
            yield loop[2], _trips(programs, line.rest, loop[1], loop[2])
        for found in _CALLS.finditer(line.rest):
            for called in found[1].split(","):
                yield called.strip().lstrip("%"), 1


def _trips(programs: Mapping[str, list[_Line]], rest: str, condition: str, body: str) -> int:
    """Iterations of a loop: as XLA reports, or the bound that its condition compares with, over what its body adds.

    Products that gather or scatter as they go ("windowed") are loops that do two steps of the counter at a time.
    """
    if known := _TRIPS.search(rest):
        return int(known[1])
    lines = programs.get(condition, [])
    bound = max(_counts(lines).values(), default=1)
    counters = [line.rest for line in lines if line.op == "get-tuple-element" and _is_count(line)]
    place = re.search(r"index=(\d+)", counters[0]) if counters else None
    return -(-bound // _increment(programs.get(body, []), int(place[1]))) if place else bound


def _increment(body: list[_Line], place: int) -> int:
    """What a loop's body adds to its counter, entry `place` of its state."""
    results = [line for line in body if line.op == "tuple"]
    if not results:
        return 1
    counter, constants = _operands(results[-1])[place], _counts(body)
    for line in body:
        if line.name == counter and line.op == "add":
            added = [constants.get(name, 0) for name in _operands(line)]
            return max(added) or 1
    return 1


def _operands(line: _Line) -> list[str]:
    return [name.strip().lstrip("%") for name in _COMMENT.sub("", line.rest).split(")")[0].split(",")]


def _counts(lines: list[_Line]) -> dict[str, int]:
    """The constants among whole numbers, by name."""
    return {
        line.name: int(line.rest.split(")")[0]) for line in lines if line.op == "constant" and _is_count(line)
    }


def _is_count(line: _Line) -> bool:
    return line.type.startswith(("s32[]", "u32[]"))


def _largest(kind: str) -> tuple[str, int]:
    """The biggest array of an instruction's type, and its bytes."""
    arrays = [(found[0], _bytes(found["dtype"], found["dims"])) for found in _ARRAY.finditer(kind)]
    return max(arrays, key=lambda pair: pair[1], default=("", 0))


def _bytes(dtype: str, dims: str) -> int:
    bits = 8 if dtype == "pred" or dtype.startswith("f8") else int(re.sub(r"\D", "", dtype))
    return math.ceil(math.prod(map(int, dims.split(","))) * bits / 8) if dims else bits // 8


def _group(rest: str) -> int:
    for pattern, size in _GROUPS:
        if found := pattern.search(rest):
            return size(found)
    return 1


def _mesh_group(sizes: str, axes: str) -> int:
    """Devices of a group along `'axis_0', 'axis_1':(2)4` of a mesh; the second takes 4 of its axis's devices."""
    known = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    taken = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes)
    return math.prod(int(part) if part else known[name] for name, part in taken)
