"""Records: a dialogue as tokens, both speakers alike, before anyone is chosen as the model.

Tokenising happens here, once; cutting, delaying and augmenting are `data.samples`' and `data.collate`'s. Semantics:
SakanaAI/kame_finetune `tools/tokenize_audio.py` and `tools/prepare_dataset.py`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax.codec import mimi as codec
from kame_jax.data.align import align_text
from kame_jax.data.dialogue import Dialogue, read_stereo
from kame_jax.data.events import FIELDS, UNSAID, OracleEvents, build_events, pack_events
from kame_jax.errors import InputError
from kame_jax.files import write_whole
from kame_jax.oracle.simulate import CHANNELS, Word

CHUNK_SECONDS = 1200
"""Longer audio is encoded in pieces of this many seconds, each from a fresh codec state."""
ENCODE_BATCH = 16
"""Channels that the codec takes at once."""

Encoder = Callable[[Sequence[np.ndarray]], Iterator[np.ndarray]]
"""Recordings float32 `[samples]` to their codes int32 `[codebooks, frames]`, in order."""


@dataclass(frozen=True)
class Record:
    """One dialogue in tokens."""

    id: str
    tokens: Mapping[str, np.ndarray]
    """Per speaker: int32 `[1 + codebooks, frames]`, text first, undelayed."""
    events: Mapping[str, OracleEvents]
    """Per speaker: the oracle events about what that speaker says next; frames are those of `tokens`."""

    @property
    def frames(self) -> int:
        """Length of the dialogue, 80 ms each."""
        return self.tokens["A"].shape[1]


def mimi_encoder(mimi: codec.Mimi, codebooks: int) -> Encoder:
    """Encodes many short recordings with one compilation: padded to the longest, a batch at a time.

    Padding on the right does not reach earlier frames, so the codes are those of each recording alone.
    """
    ready = codec.prepare(mimi, codebooks)
    run = jax.jit(lambda m, audio: codec.encode(m, audio, codebooks))
    size = mimi.config.frame_size

    def encode(recordings: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        if not recordings:
            return
        longest = -(-max(len(r) for r in recordings) // size) * size
        for at in range(0, len(recordings), ENCODE_BATCH):
            part = recordings[at : at + ENCODE_BATCH]
            batch = np.zeros((min(ENCODE_BATCH, len(recordings)), longest), np.float32)
            for row, recording in zip(batch, part):
                row[: len(recording)] = recording
            codes = np.asarray(run(ready, jnp.asarray(batch)))
            for row, recording in zip(codes, part):
                yield row[:, : -(-len(recording) // size)].astype(np.int32)

    return encode


def build_records(
    dialogues: Sequence[Dialogue],
    tokenizer: SentencePieceProcessor,
    encode: Encoder,
    *,
    pad_id: int = 3,
    end_pad_id: int = 0,
    sample_rate: int = 24_000,
    frame_rate: float = 12.5,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """Tokenises dialogues: audio, text and oracle of both speakers.

    Text that runs past the audio is cut, as in the reference. A dialogue without oracle records has no events.

    Args:
        dialogues: as `read_dialogues` gives them.
        tokenizer: of the inner monologue.
        encode: the codec, as `mimi_encoder` makes it; runs at `sample_rate` and `frame_rate`.
        pad_id, end_pad_id: the text ids without a word.
        progress: called with the recordings encoded and their total.

    Raises:
        InputError: everything that is wrong with the dialogues, in one list; nothing is encoded then.
    """
    parts: list[tuple[Dialogue, list[np.ndarray], dict[str, list[int]]]] = []
    problems = []
    step = CHUNK_SECONDS * sample_rate
    for dialogue in dialogues:
        try:
            audio = read_stereo(dialogue, sample_rate)
            text = text_rows(dialogue.words, tokenizer, pad_id, end_pad_id, frame_rate)
        except InputError as e:
            problems.append(about(dialogue.id, e))
            continue
        parts.append(
            (dialogue, [side[i : i + step] for side in audio for i in range(0, len(side), step)], text)
        )
    if problems:
        raise InputError(f"{len(problems)} dialogues cannot be tokenised", problems)

    total = sum(len(chunks) for _, chunks, _ in parts)
    codes = _count(encode([chunk for _, chunks, _ in parts for chunk in chunks]), total, progress)
    records = []
    for dialogue, chunks, text in parts:
        half = len(chunks) // 2
        sides = {s: np.concatenate([next(codes) for _ in range(half)], axis=1) for s in CHANNELS}
        try:
            records.append(
                make_record(dialogue.id, text, sides, dialogue.oracle, tokenizer, pad_id, frame_rate)
            )
        except InputError as e:
            raise InputError(about(dialogue.id, e)) from e
    return records


def about(name: str, error: InputError) -> str:
    """An error's text with the dialogue's name in front, if it is not there yet."""
    text = " ".join(str(error).split())
    return text if text.startswith(f"dialogue {name}: ") else f"dialogue {name}: {text}"


def make_record(
    name: str,
    text: Mapping[str, Sequence[int]],
    codes: Mapping[str, np.ndarray],
    oracle: Sequence[Mapping[str, Any]] | None,
    tokenizer: SentencePieceProcessor,
    pad_id: int = 3,
    frame_rate: float = 12.5,
    *,
    protect_kept: bool = False,
) -> Record:
    """One record from its parts.

    Args:
        name: the dialogue.
        text: a row of text a speaker, of any length.
        codes: int32 `[codebooks, frames]` a speaker.
        oracle: records of `oracle_raw/<id>.json`.
        tokenizer: of the inner monologue.
        pad_id: fills the text up.
        frame_rate: frames a second.
        protect_kept: see `build_events`.

    Raises:
        InputError: an oracle record that cannot be read.
    """
    tokens = {s: merge_text(text[s], codes[s], pad_id) for s in CHANNELS}
    frames = tokens["A"].shape[1]
    events = {
        s: build_events(
            oracle or (), channel, frames, tokenizer, frame_rate=frame_rate, protect_kept=protect_kept
        )
        for s, channel in CHANNELS.items()
    }
    return Record(name, tokens, events)


def text_rows(
    words: Sequence[Word],
    tokenizer: SentencePieceProcessor,
    pad_id: int = 3,
    end_pad_id: int = 0,
    frame_rate: float = 12.5,
    *,
    exact: bool = False,
    spaces: bool = True,
) -> dict[str, list[int]]:
    """Both speakers' text over frames; arguments as in `align_text`, `exact` also spelling unknown characters.

    Raises:
        InputError: names the speaker.
    """
    rows = {}
    for speaker in CHANNELS:
        try:
            rows[speaker] = align_text(
                [w for w in words if w.speaker == speaker],
                tokenizer,
                pad_id=pad_id,
                end_pad_id=end_pad_id,
                frame_rate=frame_rate,
                spaces=spaces,
                spell_bytes=exact,
                exact=exact,
            )
        except InputError as e:
            raise InputError(f"speaker {speaker}: {e}") from e
    return rows


def _count(
    codes: Iterable[np.ndarray], total: int, progress: Callable[[int, int], None]
) -> Iterator[np.ndarray]:
    for i, item in enumerate(codes):
        progress(i + 1, total)
        yield item


def merge_text(text: Sequence[int], codes: np.ndarray, pad_id: int) -> np.ndarray:
    """Text over audio: int32 `[1 + codebooks, frames]`; the text is cut or filled up to the audio's frames."""
    row = np.full(codes.shape[1], pad_id, np.int32)
    count = min(len(text), len(row))
    row[:count] = text[:count]
    return np.concatenate([row[None], codes.astype(np.int32)])


def record_columns(record: Record) -> dict[str, np.ndarray]:
    """A record's arrays under the names of kame_finetune's columns."""
    columns = dict(record.tokens)
    for speaker, events in record.events.items():
        columns |= {event_column(speaker, name): getattr(events, name) for name in FIELDS}
    return columns


def record_from_columns(name: str, columns: Mapping[str, Any]) -> Record:
    """The record that `record_columns` took apart; `use_hint` may be missing, as in older files, and so may events.

    Raises:
        InputError: columns are missing, or do not fit together.
    """
    with_events = any(f"{s}_oracle_event_frame_pos" in columns for s in CHANNELS)
    needed = [*CHANNELS]
    if with_events:
        needed += [event_column(s, f) for s in CHANNELS for f in FIELDS if f != "use_hint"]
    if missing := [column for column in needed if columns.get(column) is None]:
        raise InputError(f"no record, it lacks {', '.join(missing)}")
    tokens = {s: np.asarray(columns[s], np.int32) for s in CHANNELS}
    shapes = {s: list(array.shape) for s, array in tokens.items()}
    if shapes["A"] != shapes["B"] or len(shapes["A"]) != 2:
        raise InputError(f"shapes {shapes}, expected [1 + codebooks, frames], the same for both speakers")
    events = {}
    for s in CHANNELS:
        if not with_events:
            events[s] = pack_events([], [], [], [], [])
            continue
        values: dict[str, Any] = {f: columns.get(event_column(s, f)) for f in FIELDS}
        if values["use_hint"] is None:
            values["use_hint"] = np.full(len(values["frame_pos"]), UNSAID, np.int8)
        events[s] = OracleEvents(**{f: np.asarray(values[f], kind) for f, kind in FIELDS.items()})
        _check_events(s, events[s])
    return Record(name, tokens, events)


def _check_events(speaker: str, events: OracleEvents) -> None:
    count = len(events)
    fits = all(len(getattr(events, f)) == count for f in ("ratio", "skip_forbid", "use_hint"))
    for values, offsets in (
        (events.pred_values, events.pred_offsets),
        (events.hint_values, events.hint_offsets),
    ):
        fits = fits and len(offsets) == count + 1 and bool((np.diff(offsets) >= 0).all())
        fits = fits and offsets[0] == 0 and offsets[-1] == len(values)
    if not fits:
        raise InputError(f"oracle events of speaker {speaker}: columns of different lengths")


def save_record(folder: str | Path, record: Record, **extra: np.ndarray) -> Path:
    """Writes `<folder>/<id>.npz`, complete or not at all; arrays are named as kame_finetune's columns.

    Args:
        folder: made if it is not there.
        record: what to write.
        extra: further arrays, for the caller's own use.
    """
    path = Path(folder) / f"{record.id}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = record_columns(record) | extra
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))
    return path


def load_record(path: str | Path) -> Record:
    """One record.

    Raises:
        InputError: no such file, not a record, arrays missing, or speakers of different shapes.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return record_from_columns(path.stem, arrays)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as e:
        raise InputError(f"{path}: not a record that can be read: {e}") from e


def load_records(folder: str | Path) -> list[Record]:
    """All records of a folder, by name.

    Raises:
        InputError: none there, or everything that is wrong with them, in one list.
    """
    records, problems = [], []
    for path in sorted(Path(folder).glob("*.npz")):
        try:
            records.append(load_record(path))
        except InputError as e:
            problems.append(str(e))
    if problems:
        raise InputError(f"{folder}: {len(problems)} records cannot be read", problems)
    if not records:
        raise InputError(f"{folder}: no records, expected <id>.npz files")
    return records


def event_column(speaker: str, field: str) -> str:
    """The name of kame_finetune's column for a field of `OracleEvents`."""
    return f"{speaker}_oracle_{field if field.startswith(('pred', 'hint')) else f'event_{field}'}"
