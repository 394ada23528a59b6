"""Sources of records of any kind to one data set: checked against the vocabulary, split, bad ones left out and named.

A source is a folder of records (`make.tokens`), a parquet file of kame_finetune or a folder of such files
(`data.parquet`), or another data set (`data.dataset`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.data.dataset import BLOCK_FRAMES, Dataset, find_dataset
from kame_jax.data.parquet import parquet_names, read_parquet, write_parquet
from kame_jax.data.records import Record, load_record, record_files
from kame_jax.errors import InputError
from kame_jax.make.dataset_writer import write_dataset
from kame_jax.make.job import Job, Outcome, Progress
from kame_jax.make.tokens import read_settings
from kame_jax.oracle.text import TOKENIZER_NAME

SHARED = ("codebooks", "card", "text_card", "frame_rate", "tokenizer_sha256", "codec_weights")
"""What the records of one data set must have in common, where it is known."""

Item = tuple[str, Callable[[], Record]]
"""A dialogue's name, and what reads its record or raises InputError with one line."""


@dataclass(frozen=True)
class Source:
    """Records that can be iterated repeatedly, a few in memory at a time."""

    path: str
    names: Callable[[], Iterator[str]]
    items: Callable[[], Iterator[Item]]
    facts: dict[str, Any]
    """How the records were made; empty where unknown."""
    tokenizer: Path | None


@dataclass
class BuildOutcome(Outcome):
    """What became of the records."""

    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    """Dialogues and frames of each split; of parquet files, of the split `all`."""


def open_source(path: str | Path) -> Source:
    """Finds out what is at `path`.

    Raises:
        InputError: it does not hold records.
    """
    if find_dataset(path):
        dataset = Dataset(path)
        return Source(
            str(path),
            lambda: (_dataset_name(dataset, i) for i in range(len(dataset))),
            lambda: (
                (_dataset_name(dataset, i), partial(dataset.__getitem__, i)) for i in range(len(dataset))
            ),
            dataset.facts,
            dataset.tokenizer,
        )
    folder = Path(path)
    files = [folder] if folder.suffix == ".parquet" else sorted(folder.glob("*.parquet"))
    if files:
        return Source(str(path), lambda: parquet_names(files), lambda: _parquet_items(files), {}, None)
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder, expected records, parquet files or a data set")
    records = record_files(folder)
    if not records:
        raise InputError(f"{path}: no records in it, expected <id>.npz files, parquet files or a data set")
    tokenizer = folder / TOKENIZER_NAME
    return Source(
        str(path),
        lambda: (file.stem for file in records),
        lambda: ((file.stem, partial(load_record, file)) for file in records),
        read_settings(folder),
        tokenizer if tokenizer.is_file() else None,
    )


def _dataset_name(dataset: Dataset, index: int) -> str:
    """A dialogue's name; its number where its block is damaged, which is reported when it is read."""
    try:
        return dataset.name(index)
    except InputError:
        return f"{index} of {dataset.folder}"


def _parquet_items(files: Sequence[Path]) -> Iterator[Item]:
    for file in files:
        for name, row in read_parquet(file):
            yield name, partial(_given, row)


def _given(value: Record | InputError) -> Record:
    if isinstance(value, InputError):
        raise value
    return value


def common_facts(sources: Sequence[Source], **known: int) -> dict[str, Any]:
    """What all sources state about themselves; `known` fills in what they do not.

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
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> BuildOutcome:
    """Writes one data set from all sources, with the splits `train` and, when asked for, `validation`.

    Args:
        sources: in the order of the data set.
        out: a new folder.
        held_out: share of the dialogues in `validation`.
        seed: of that choice.
        block_frames: see `data.dataset`.
        known: codebooks, card and text_card, for sources that do not state theirs.
        progress, say: see `make.job`.

    Raises:
        InputError: sources that do not fit together, `out` is taken, or nothing is left.
    """
    facts = common_facts(sources, **(known or {}))
    outcome, names = BuildOutcome(), _names(sources)
    job = Job(outcome, len(names), progress=progress, say=say)
    validation = choose_held_out(sorted(names), held_out, seed)
    splits: dict[str, Callable[[], Iterable[Record]]] = {
        "train": lambda: _records(sources, facts, job, names - validation)
    }
    if validation:
        splits["validation"] = lambda: _records(sources, facts, job, validation)
    described = facts | {"sources": [source.path for source in sources]}
    tokenizer = next((s.tokenizer for s in sources if s.tokenizer), None)
    outcome.splits = write_dataset(out, splits, described, tokenizer, block_frames=block_frames)
    return outcome


def _names(sources: Sequence[Source]) -> set[str]:
    return {name for source in sources for name in source.names()}


def _records(
    sources: Sequence[Source], facts: dict[str, Any], job: Job, wanted: set[str]
) -> Iterator[Record]:
    """The good records of these names; the others are problems of the job."""
    done: set[str] = set()
    for source in sources:
        for name, read in source.items():
            if name not in wanted:
                continue
            if name in done:
                job.complain("there are several of this name, the first one is used", name)
                continue
            done.add(name)
            record = None
            with job.guard(name):
                candidate = read()
                check_record(candidate, facts)
                record = candidate
            job.advance()
            if record is not None:
                job.outcome.made += 1
                yield record


def export_parquet(
    sources: Sequence[Source],
    prefix: str | Path,
    *,
    known: dict[str, int] | None = None,
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Path], BuildOutcome]:
    """Writes all records as kame_finetune's parquet files; arguments as in `build_dataset` and `write_parquet`.

    Raises:
        InputError: sources that do not fit together, pyarrow is missing, or nothing is left.
    """
    facts = common_facts(sources, **(known or {}))
    outcome, names = BuildOutcome(), _names(sources)
    job = Job(outcome, len(names), progress=progress, say=say)
    count = outcome.splits["all"] = {"frames": 0, "dialogues": 0}

    def records() -> Iterator[Record]:
        for record in _records(sources, facts, job, names):
            count["dialogues"] += 1
            count["frames"] += record.frames
            yield record

    return write_parquet(prefix, records()), outcome
