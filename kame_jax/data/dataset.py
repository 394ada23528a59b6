"""Data sets: records as ArrayRecord behind a TFDS builder, read by dialogue and frame without reading the rest.

An example is a block of one dialogue: so many frames at most, so that a piece of an hour costs no more than a piece
of a minute. Beside the ArrayRecord files lie TFDS's description (schema, splits, statistics, citation), one length a
dialogue (`frames-<split>.npy`), and the tokenizer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from kame_jax.data.events import FIELDS, OracleEvents, pack_events
from kame_jax.data.records import Record, event_column, record_columns, record_from_columns
from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError
from kame_jax.files import building, free_folder
from kame_jax.oracle.text import TOKENIZER_NAME

NAME, VERSION = "dialogues", "1.0.0"
BLOCK_FRAMES = 4096
"""Frames of a block, about five and a half minutes."""
CITATION = """@article{kuroki2025kame,
  title={KAME: Tandem Architecture for Enhancing Knowledge in Real-Time Speech-to-Speech Conversational AI},
  author={Kuroki, So and Kubo, Yotaro and Akiba, Takuya and Tang, Yujin},
  journal={arXiv preprint arXiv:2510.02327},
  year={2025}
}"""
"""Of the format's origin: four streams with simulated oracles."""


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


class DialogueBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes records as ArrayRecord; used by `write_dataset`."""

    VERSION = tfds.core.Version(VERSION)
    name = NAME

    def __init__(
        self,
        splits: Mapping[str, Callable[[], Iterable[Record]]],
        facts: Mapping[str, Any],
        block_frames: int = BLOCK_FRAMES,
        **options: Any,
    ):
        self._sources = splits
        self._facts = dict(facts)
        self._block = block_frames
        self.lengths: dict[str, list[int]] = {name: [] for name in splits}
        self.digests = {name: hashlib.sha256() for name in splits}
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        def row(kind: type, *shape: int | None) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=kind, encoding=tfds.features.Encoding.BYTES)

        features: dict[str, Any] = {
            "dialogue_id": tfds.features.Text(doc="Name of the dialogue."),
            "start": tfds.features.Scalar(np.int32, doc="Frame of the dialogue at which this block begins."),
            "frames": tfds.features.Scalar(np.int32, doc="Frames of the whole dialogue, 80 ms each."),
        }
        for speaker in CHANNELS:
            features[speaker] = row(np.int32, None, None)
            for column, field in EVENT_COLUMNS[speaker]:
                features[column] = row(FIELDS[field], None)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Two-speaker dialogues as tokens: text and Mimi codes of both speakers, and oracle events.",
            features=tfds.features.FeaturesDict(features),
            citation=CITATION,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(self._facts),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {name: self._generate_examples(name) for name in self._sources}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        key = 0
        for record in self._sources[split]():
            self.lengths[split].append(record.frames)
            for example in _blocks(record, self._block):
                self.digests[split].update(b"".join(np.ascontiguousarray(v) for v in _arrays(example)))
                yield key, example
                key += 1


def _arrays(example: Mapping[str, Any]) -> Iterator[np.ndarray]:
    yield np.frombuffer(example["dialogue_id"].encode(), np.uint8)
    yield from (value for name, value in example.items() if isinstance(value, np.ndarray))


def _blocks(record: Record, size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, record.frames, size):
        stop = min(start + size, record.frames)
        events = {
            s: e.select(np.flatnonzero((e.frame_pos >= start) & (e.frame_pos < stop)))
            for s, e in record.events.items()
        }
        tokens = {s: np.ascontiguousarray(t[:, start:stop]) for s, t in record.tokens.items()}
        yield {
            "dialogue_id": record.id,
            "start": start,
            "frames": record.frames,
            **record_columns(Record(record.id, tokens, events)),
        }


def write_dataset(
    out: str | Path,
    splits: Mapping[str, Callable[[], Iterable[Record]]],
    facts: Mapping[str, Any],
    tokenizer: Path | None = None,
    *,
    block_frames: int = BLOCK_FRAMES,
) -> dict[str, dict[str, int]]:
    """Writes a data set, complete or not at all.

    Args:
        out: the folder to make; must be new or empty.
        splits: per name, a function that gives its records one after the other; none may be empty.
        facts: JSON values that go into the description's metadata: how the records were made.
        tokenizer: SentencePiece model of the text, kept with the data set.
        block_frames: most frames of a block.

    Returns:
        Dialogues and frames of each split.

    Raises:
        InputError: `out` is taken, or a split is empty.
    """
    target = free_folder(out)
    with building(target) as scratch:
        inside = scratch / "set"
        facts = dict(facts) | {"block_frames": block_frames}
        builder = DialogueBuilder(splits, facts, block_frames, data_dir=inside)
        with _silent():
            builder.download_and_prepare()
        empty = [name for name, lengths in builder.lengths.items() if not lengths]
        if empty:
            raise InputError(f"{out}: no dialogue for split {', '.join(empty)}")
        folder = Path(builder.data_dir)
        result = {}
        digests = {name: digest.hexdigest()[:16] for name, digest in builder.digests.items()}
        for name, lengths in builder.lengths.items():
            np.save(folder / f"frames-{name}.npy", np.asarray(lengths, np.int32))
            result[name] = {"dialogues": len(lengths), "frames": int(np.sum(lengths, dtype=np.int64))}
        builder.info.metadata.update(splits=result, fingerprints=digests)
        builder.info.metadata.save_metadata(folder)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, folder / TOKENIZER_NAME)
        if target.exists():
            target.rmdir()
        inside.rename(target)
    return result


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without TFDS's own progress bars and remarks."""
    tfds.disable_progress_bar()
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


def find_dataset(path: str | Path) -> tuple[Path, str] | None:
    """The folder of a data set and the split meant by `path` or `path:split` (default: train); None if it is none."""
    text, _, split = str(path).rpartition(":")
    text, split = (text, split) if text and not Path(path).exists() else (str(path), "train")
    for folder in (Path(text), *sorted(Path(text).glob(f"{NAME}/*/"))):
        if (folder / "dataset_info.json").is_file() and (folder / "features.json").is_file():
            return folder, split
    return None


class Dataset:
    """One split of a data set. Safe to read from several threads; holds a length a dialogue, not the dialogues."""

    def __init__(self, path: str | Path):
        """Opens `path` or `path:split`.

        Raises:
            InputError: no data set there, no such split, or one that `write_dataset` did not write.
        """
        found = find_dataset(path)
        if found is None:
            raise InputError(f"{path}: no data set, expected a folder that `kame-jax data build` made")
        self.folder, self.split = found
        try:
            builder = tfds.builder_from_directory(self.folder)
            names = list(builder.info.splits)
            if self.split not in names:
                raise InputError(f"{self.folder}: no split {self.split!r}, it has {', '.join(names)}")
            self.facts: dict[str, Any] = json.loads((self.folder / "metadata.json").read_text("utf-8"))
            self.frames = np.load(self.folder / f"frames-{self.split}.npy", mmap_mode="r")
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._source = builder.as_data_source(self.split, deserialize_method=raw)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.folder}: not a data set that can be read: {error}") from error
        self._block = int(self.facts["block_frames"])
        blocks = -(-self.frames.astype(np.int64) // self._block)
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.maximum(blocks, 0))])
        if self._first[-1] != len(self._source):
            raise InputError(
                f"{self.folder}: {len(self._source)} blocks in split {self.split}, its lengths say {self._first[-1]}"
            )

    @property
    def fingerprint(self) -> str:
        """A short name for the content: equal for equal records in the same order."""
        return str(self.facts["fingerprints"][self.split])

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
        except Exception as error:  # ArrayRecord's and protobuf's errors share no class
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.folder}: block {number} of split {self.split} cannot be read, its file is damaged or gone "
                f"({reason}): put it back, or build the set anew"
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


def _read_example(data: bytes) -> dict[str, Any]:
    """An example that `DialogueBuilder` wrote; TFDS, which looks at the kind of every feature, reads it more slowly.

    Vectors are their bytes, matrices have their shape beside them.
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
