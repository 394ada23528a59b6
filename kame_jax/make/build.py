"""Sources of records of any kind to one data set: checked against the vocabulary, split, bad ones left out and said.

A source is a folder of records (`make.tokens`), a parquet file of kame_finetune or a folder of such files
(`data.parquet`), or another data set (`data.dataset`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.data.dataset import BLOCK_FRAMES, Dataset, find_dataset, write_dataset
from kame_jax.data.parquet import parquet_names, read_parquet, write_parquet
from kame_jax.data.records import Record, load_record
from kame_jax.errors import InputError
from kame_jax.make.tokens import read_settings
from kame_jax.oracle.text import TOKENIZER_NAME

SHARED = ("codebooks", "card", "text_card", "frame_rate", "tokenizer_sha256", "codec_weights")
"""What the records of one data set must have in common, where it is known."""

Item = tuple[str, Callable[[], Record]]
"""A dialogue's name, and what reads its record or raises InputError with one line."""


@dataclass(frozen=True)
class Source:
    """Records that can be gone through again and again, a few in memory at a time."""

    path: str
    names: Callable[[], Iterator[str]]
    items: Callable[[], Iterator[Item]]
    facts: dict[str, Any]
    """How the records were made; empty where nobody says."""
    tokenizer: Path | None


@dataclass
class Report:
    """What became of the records."""

    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """One line for each record that was left out."""


def open_source(path: str | Path) -> Source:
    """Finds out what is at `path`.

    Raises:
        InputError: nothing that holds records.
    """
    if find_dataset(path):
        dataset = Dataset(path)
        return Source(
            str(path),
            lambda: (dataset.name(i) for i in range(len(dataset))),
            lambda: _dataset_items(dataset),
            dataset.facts,
            dataset.tokenizer,
        )
    folder = Path(path)
    files = [folder] if folder.suffix == ".parquet" else sorted(folder.glob("*.parquet"))
    if files:
        return Source(str(path), lambda: parquet_names(files), lambda: _parquet_items(files), {}, None)
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder, expected records, parquet files or a data set")
    records = sorted(p for p in folder.glob("*.npz") if not p.name.startswith("."))
    if not records:
        raise InputError(f"{path}: no records in it, expected <id>.npz files, parquet files or a data set")
    tokenizer = folder / TOKENIZER_NAME
    return Source(
        str(path),
        lambda: (file.stem for file in records),
        lambda: ((file.stem, _reader(file)) for file in records),
        read_settings(folder),
        tokenizer if tokenizer.is_file() else None,
    )


def _reader(file: Path) -> Callable[[], Record]:
    def read() -> Record:
        try:
            return load_record(file)
        except InputError as error:
            raise InputError(f"dialogue {file.stem}: {error}") from None

    return read


def _dataset_items(dataset: Dataset) -> Iterator[Item]:
    for i in range(len(dataset)):
        record = dataset[i]
        yield record.id, _giver(record)


def _parquet_items(files: Sequence[Path]) -> Iterator[Item]:
    for file in files:
        for row in read_parquet(file):
            name = row.id if isinstance(row, Record) else str(row).split(": ")[0].removeprefix("dialogue ")
            yield name, _giver(row)


def _giver(value: Record | InputError) -> Callable[[], Record]:
    def give() -> Record:
        if isinstance(value, InputError):
            raise value
        return value

    return give


def common_facts(sources: Sequence[Source], **known: int) -> dict[str, Any]:
    """What all sources say of themselves; `known` stands in where they say nothing.

    Raises:
        InputError: they were made differently, in one list.
    """
    facts: dict[str, Any] = {}
    problems = []
    for name in SHARED:
        said = {s.path: s.facts[name] for s in sources if name in s.facts}
        if len({str(value) for value in said.values()}) > 1:
            problems.append(f"{name}: " + ", ".join(f"{value!r} in {path}" for path, value in said.items()))
        elif said:
            facts[name] = next(iter(said.values()))
    if problems:
        raise InputError("the sources do not fit together", problems)
    rest = [s.facts for s in sources if s.facts]
    if rest:
        for name in ("codec", "rules", "text_padding_id", "text_end_padding_id", "spaces", "contamination"):
            values = [value[name] for value in rest if name in value]
            if values and all(value == values[0] for value in values):
                facts[name] = values[0]
    return {name: value for name, value in known.items() if name not in facts} | facts


def check_record(record: Record, facts: dict[str, Any]) -> None:
    """Raises InputError, one line with the dialogue's name, when its ids are not those of the vocabulary."""
    problems = []
    for speaker, tokens in record.tokens.items():
        events = record.events[speaker]
        rows = facts.get("codebooks")
        if rows is not None and len(tokens) != 1 + rows:
            problems.append(f"speaker {speaker} has {len(tokens) - 1} codebooks, expected {rows}")
            continue
        for what, ids, card in (
            ("text", tokens[0], facts["text_card"]),
            ("audio", tokens[1:], facts["card"]),
            ("oracle", np.concatenate([events.pred_values, events.hint_values]), facts["text_card"]),
        ):
            if ids.size and (ids.min() < 0 or ids.max() >= card):
                problems.append(
                    f"speaker {speaker}: {what} ids {ids.min()} to {ids.max()}, expected 0 to {card - 1}"
                )
    if not record.frames:
        problems.append("no frame")
    if problems:
        raise InputError(f"dialogue {record.id}: {'; '.join(problems)}")


def choose_held_out(names: Sequence[str], fraction: float, seed: int = 0) -> set[str]:
    """A share of the names, at least one when it is above 0: always the same for the same names and seed."""
    count = min(len(names) - 1, max(1, round(fraction * len(names)))) if fraction > 0 else 0
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return set(ranked[:count])


def build_dataset(
    sources: Sequence[Source],
    out: str | Path,
    *,
    held_out: float = 0.0,
    seed: int = 0,
    block_frames: int = BLOCK_FRAMES,
    known: dict[str, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Writes one data set from all sources, with the splits `train` and, when asked for, `validation`.

    Args:
        sources: in the order of the data set.
        out: a new folder.
        held_out: share of the dialogues in `validation`.
        seed: of that choice.
        block_frames: see `data.dataset`.
        known: codebooks, card and text_card, for sources that do not say.
        progress: called with the records read and their total.
        say: called with each line of the report as it comes up.

    Raises:
        InputError: sources that do not fit together, `out` is taken, or nothing is left.
    """
    facts = common_facts(sources, **(known or {}))
    report = Report()
    names = _names(sources, report, say)
    total = len(names)
    validation = choose_held_out(sorted(names), held_out, seed)
    seen = {"count": 0}

    def records(wanted: Callable[[str], bool]) -> Iterator[Record]:
        done: set[str] = set()
        for name, read in _all(sources):
            if name in done or not wanted(name):
                continue
            done.add(name)
            seen["count"] += 1
            progress(seen["count"], total)
            try:
                record = read()
                check_record(record, facts)
            except InputError as error:
                report.problems.append(" ".join(str(error).split()))
                say(report.problems[-1])
                continue
            yield record

    splits: dict[str, Callable[[], Iterable[Record]]] = {
        "train": lambda: records(lambda name: name not in validation)
    }
    if validation:
        splits["validation"] = lambda: records(lambda name: name in validation)
    facts["sources"] = [source.path for source in sources]
    tokenizer = next((s.tokenizer for s in sources if s.tokenizer), None)
    report.splits = write_dataset(out, splits, facts, tokenizer, block_frames=block_frames)
    return report


def _all(sources: Sequence[Source]) -> Iterator[Item]:
    for source in sources:
        yield from source.items()


def _names(sources: Sequence[Source], report: Report, say: Callable[[str], None]) -> set[str]:
    names: set[str] = set()
    for source in sources:
        for name in source.names():
            if name in names:
                report.problems.append(f"dialogue {name}: there are several of this name, the first is taken")
                say(report.problems[-1])
            names.add(name)
    return names


def export_parquet(
    sources: Sequence[Source],
    prefix: str | Path,
    *,
    known: dict[str, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Path], Report]:
    """Writes all records as kame_finetune's parquet files; arguments as in `build_dataset` and `write_parquet`.

    Raises:
        InputError: sources that do not fit together, no pyarrow, or nothing is left.
    """
    facts = common_facts(sources, **(known or {}))
    report = Report()
    total = len(_names(sources, report, say))
    count = {"frames": 0, "dialogues": 0}

    def records() -> Iterator[Record]:
        done: set[str] = set()
        for name, read in _all(sources):
            if name in done:
                continue
            done.add(name)
            progress(len(done), total)
            try:
                record = read()
                check_record(record, facts)
            except InputError as error:
                report.problems.append(" ".join(str(error).split()))
                say(report.problems[-1])
                continue
            count["dialogues"] += 1
            count["frames"] += record.frames
            yield record

    files = write_parquet(prefix, records())
    report.splits = {"all": count}
    return files, report
