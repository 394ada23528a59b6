"""Data sets, read by dialogue and frame without reading the rest: ArrayRecord files that `make.dataset_writer` made.

An example is a block of one dialogue, of limited length, so that a piece of an hour-long dialogue costs no more than a
piece of a minute-long one. Next to the ArrayRecord files are TFDS's description (schema, splits, statistics, citation),
one length per dialogue (`frames-<split>.npy`), and the tokenizer. The description is for other programs: TFDS would
import any class that a schema names, so a data set is read without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from kame_jax.data.events import FIELDS, OracleEvents, pack_events
from kame_jax.data.records import Record, event_column, read_facts, record_from_columns
from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError
from kame_jax.files import read_json, regular_file
from kame_jax.oracle.text import TOKENIZER_NAME

NAME = "dialogues"
"""Of the data set, in the names of its files."""
BLOCK_FRAMES = 4096
"""Frames of a block, about five and a half minutes."""
EVENT_COLUMNS = {s: [(event_column(s, field), field) for field in FIELDS] for s in CHANNELS}
"""Per speaker the names of the event columns, and the fields they hold."""


class Slice(NamedTuple):
    """Part of a dialogue; a stand-in for the whole record where only these frames are asked for."""

    id: str
    start: int
    tokens: Mapping[str, np.ndarray]
    """Per speaker: int32 `[1 + codebooks, stop - start]`."""
    events: Mapping[str, OracleEvents]
    """Of the blocks that were read; positions are frames of the dialogue."""


def find_dataset(path: str | Path) -> tuple[Path, str] | None:
    """The folder and split of the data set at `path` or `path:split` (default: train); None if there is no data set."""
    text, _, split = str(path).rpartition(":")
    text, split = (text, split) if text and not Path(path).exists() else (str(path), "train")
    for folder in (Path(text), *sorted(Path(text).glob(f"{NAME}/*/"))):
        if (folder / "dataset_info.json").is_file() and (folder / "features.json").is_file():
            return folder, split
    return None


class Dataset:
    """One split of a data set. Safe to read from several threads; holds a length per dialogue, not the dialogues."""

    def __init__(self, path: str | Path):
        """Opens `path` or `path:split`.

        Raises:
            InputError: no data set there, no such split, or one that `make.dataset_writer` did not write.
        """
        found = find_dataset(path)
        if found is None:
            raise InputError(f"{path}: not a data set, expected a folder that `kame-jax data build` made")
        self.folder, self.split = found
        self.facts = read_facts(self.folder / "metadata.json")
        names = sorted(p.stem.removeprefix("frames-") for p in self.folder.glob("frames-*.npy"))
        if self.split not in names:
            raise InputError(f"{self.folder}: no split {self.split!r}, it has {', '.join(names)}")
        self._block = int(self.facts.get("block_frames", BLOCK_FRAMES))
        try:
            self.fingerprint = str(self.facts["fingerprints"][self.split])
            """A short name for the content: equal for equal records in the same order."""
            lengths = regular_file(self.folder / f"frames-{self.split}.npy", "the lengths of its dialogues")
            self.frames = _lengths(np.load(lengths, mmap_mode="r"))
            self._source = grain.sources.ArrayRecordDataSource(_shards(self.folder, self.split))
            count = len(self._source)
        except InputError:
            raise
        except Exception as error:  # ArrayRecord's and NumPy's errors have no common base
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.folder}: not a data set that can be read: {reason}") from error
        blocks = -(-self.frames.astype(np.int64) // self._block)
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(blocks)])
        if self._first[-1] != count:
            raise InputError(
                f"{self.folder}: {count} blocks in split {self.split}, its lengths say {self._first[-1]}"
            )

    @property
    def tokenizer(self) -> Path | None:
        """The SentencePiece model of the text."""
        file = self.folder / TOKENIZER_NAME
        return file if file.is_file() else None

    def __len__(self) -> int:
        return len(self.frames)

    def name(self, index: int) -> str:
        """A dialogue's name."""
        return self._example(int(self._first[index]))["dialogue_id"]

    def _example(self, number: int) -> dict[str, Any]:
        """A block of the split; raises InputError when its file is gone or damaged."""
        try:
            return _read_example(self._source[number])
        except Exception as error:  # ArrayRecord's and protobuf's errors have no common base
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.folder}: block {number} of split {self.split} cannot be read, its file is damaged or gone "
                f"({reason}): restore it, or build the set again"
            ) from error

    def __getitem__(self, index: int) -> Record:
        """A whole dialogue."""
        part = self.read(index, 0, int(self.frames[index]))
        return Record(part.id, part.tokens, part.events)

    def read(self, index: int, start: int, stop: int, history: int = 0) -> Slice:
        """Frames `[start, stop)` of a dialogue, with the events of at least these frames and `history` before them."""
        first, last = max(0, start - history) // self._block, -(-stop // self._block)
        at = int(self._first[index])
        examples = [self._example(at + i) for i in range(first, max(last, first + 1))]
        records = [record_from_columns("", example) for example in examples]
        base = first * self._block
        return Slice(
            examples[0]["dialogue_id"],
            start,
            {s: _joined([r.tokens[s] for r in records])[:, start - base : stop - base] for s in CHANNELS},
            {s: _together([r.events[s] for r in records]) for s in CHANNELS},
        )


def _shards(folder: Path, split: str) -> list[str]:
    """The ArrayRecord files of a split, each with the range of its blocks: none is opened before it is read."""
    splits = read_json(folder / "dataset_info.json")["splits"]
    counts = [int(count) for item in splits if item["name"] == split for count in item["shardLengths"]]
    files = [folder / f"{NAME}-{split}.array_record-{i:05}-of-{len(counts):05}" for i in range(len(counts))]
    for file in filter(Path.exists, files):
        regular_file(file, "a file of a data set")
    return [f"{file}[0:{count}]" for file, count in zip(files, counts)]


def _lengths(frames: np.ndarray) -> np.ndarray:
    if frames.ndim != 1 or frames.dtype.kind not in "iu" or (len(frames) and frames.min() < 1):
        raise InputError(f"{frames.dtype} {frames.shape} as its lengths, expected whole numbers above 0")
    return frames


def _read_example(data: bytes) -> dict[str, Any]:
    """An example of a data set, whose schema is known: no other is read.

    Vectors are stored as bytes, matrices also with their shape.
    """
    features = tf_example_pb2.Example.FromString(data).features.feature
    example: dict[str, Any] = {"dialogue_id": features["dialogue_id"].bytes_list.value[0].decode()}
    for speaker in CHANNELS:
        shape = features[f"{speaker}/shape"].int64_list.value
        values = features[f"{speaker}/value"].bytes_list.value[0]
        example[speaker] = np.frombuffer(values, np.int32).reshape(shape)
        for column, field in EVENT_COLUMNS[speaker]:
            example[column] = np.frombuffer(features[column].bytes_list.value[0], FIELDS[field])
    return example


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _together(parts: list[OracleEvents]) -> OracleEvents:
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return pack_events(
        joined("frame_pos"),
        joined("ratio"),
        joined("skip_forbid"),
        [p.prediction(i) for p in parts for i in range(len(p))],
        [p.hint(i) for p in parts for i in range(len(p))],
        joined("use_hint"),
    )
