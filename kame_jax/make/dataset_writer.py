"""Writing data sets: records as ArrayRecord behind a TFDS builder, for `data.dataset` and for other programs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kame_jax.data.dataset import BLOCK_FRAMES, EVENT_COLUMNS, NAME
from kame_jax.data.events import FIELDS
from kame_jax.data.records import Record, record_columns
from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError
from kame_jax.files import building, free_folder, settle
from kame_jax.oracle.text import TOKENIZER_NAME

VERSION = "1.0.0"
CITATION = """@article{kuroki2025kame,
  title={KAME: Tandem Architecture for Enhancing Knowledge in Real-Time Speech-to-Speech Conversational AI},
  author={Kuroki, So and Kubo, Yotaro and Akiba, Takuya and Tang, Yujin},
  journal={arXiv preprint arXiv:2510.02327},
  year={2025}
}"""
"""The format's origin: four streams with simulated oracles."""


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
        self.empty: str | None = None
        """The split without a dialogue, where writing failed for lack of one."""
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
        if not key:
            self.empty = split
            raise InputError(f"no dialogue for split {split}")


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
        splits: per name, a function that yields its records; none may be empty.
        facts: JSON values that go into the description's metadata: how the records were made.
        tokenizer: SentencePiece model of the text, kept with the data set.
        block_frames: most frames of a block.

    Returns:
        Dialogues and frames of each split.

    Raises:
        InputError: `out` is taken, or a split is empty.
    """
    target = free_folder(out)
    with building(target, alone=True) as scratch:
        inside = scratch / "set"
        facts = dict(facts) | {"block_frames": block_frames}
        builder = DialogueBuilder(splits, facts, block_frames, data_dir=inside)
        try:
            with _silent():
                builder.download_and_prepare()
        except Exception:  # TFDS replaces the error that was raised
            if builder.empty is None:
                raise
            raise InputError(f"{out}: no dialogue is left for split {builder.empty}") from None
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
        settle(inside, target)
    return result


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without TFDS's own progress bars and log lines."""
    tfds.disable_progress_bar()
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
