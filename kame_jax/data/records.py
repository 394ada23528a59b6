"""Records: a dialogue as tokens, both speakers alike, before anyone is chosen as the model.

Tokenising happens here, once; cutting, delaying and augmenting are `data.cutting`' and `data.collate`'s. Semantics:
SakanaAI/kame_finetune `tools/tokenize_audio.py` and `tools/prepare_dataset.py`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.data.events import FIELDS, UNSAID, OracleEvents, pack_events
from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError
from kame_jax.files import read_json, regular_file, write_whole

NUMBERS = ("codebooks", "card", "text_card", "sample_rate", "frame_rate", "block_frames")
"""Those facts about records that are numbers of at least 1."""


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


def record_columns(record: Record) -> dict[str, np.ndarray]:
    """A record's arrays under the names of kame_finetune's columns."""
    columns = dict(record.tokens)
    for speaker, events in record.events.items():
        columns |= {event_column(speaker, name): getattr(events, name) for name in FIELDS}
    return columns


def record_from_columns(name: str, columns: Mapping[str, Any]) -> Record:
    """The inverse of `record_columns`; `use_hint` may be missing, as in older files, and so may events.

    Raises:
        InputError: columns are missing, or do not fit together.
    """
    with_events = any(f"{s}_oracle_event_frame_pos" in columns for s in CHANNELS)
    needed = [*CHANNELS]
    if with_events:
        needed += [event_column(s, f) for s in CHANNELS for f in FIELDS if f != "use_hint"]
    if missing := [column for column in needed if columns.get(column) is None]:
        raise InputError(f"not a record, it lacks {', '.join(missing)}")
    tokens = {s: _array(columns, s, np.int32) for s in CHANNELS}
    shapes = {s: list(array.shape) for s, array in tokens.items()}
    if shapes["A"] != shapes["B"] or len(shapes["A"]) != 2 or not shapes["A"][0]:
        raise InputError(f"shapes {shapes}, expected [1 + codebooks, frames], the same for both speakers")
    events = {}
    for s in CHANNELS:
        if not with_events:
            events[s] = pack_events([], [], [], [], [])
            continue
        arrays = {
            f: _array(columns, event_column(s, f), kind) for f, kind in FIELDS.items() if f != "use_hint"
        }
        given = columns.get(event_column(s, "use_hint")) is not None
        arrays["use_hint"] = (
            _array(columns, event_column(s, "use_hint"), np.int8)
            if given
            else np.full(arrays["frame_pos"].shape, UNSAID, np.int8)
        )
        events[s] = OracleEvents(**arrays)
        _check_events(s, events[s])
    return Record(name, tokens, events)


def _array(columns: Mapping[str, Any], name: str, kind: type) -> np.ndarray:
    """A column in its own type; raises InputError when that would change a value."""
    try:
        values = np.asarray(columns[name])
    except ValueError:
        raise InputError(f"{name}: rows of different lengths") from None
    if values.dtype == kind:
        return values
    if values.dtype.kind not in "iufb":
        raise InputError(f"{name}: holds {values.dtype}, expected numbers")
    with np.errstate(invalid="ignore", over="ignore"):
        array: np.ndarray = values.astype(kind)
    if array.dtype.kind == "i" and not np.array_equal(array, values):
        raise InputError(f"{name}: holds a value that is not of type {array.dtype}")
    return array


def _check_events(speaker: str, events: OracleEvents) -> None:
    if any(getattr(events, field).ndim != 1 for field in FIELDS):
        raise InputError(f"oracle events of speaker {speaker}: a column is not a list")
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
    if not np.isfinite(events.ratio).all():
        raise InputError(f"oracle events of speaker {speaker}: a ratio that is not a finite number")


def save_record(folder: str | Path, record: Record, **extra: np.ndarray) -> Path:
    """Writes `<folder>/<id>.npz`, complete or not at all; arrays are named as kame_finetune's columns.

    Args:
        folder: made if it does not exist.
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
    arrays = read_arrays(path)
    try:
        return record_from_columns(path.stem, arrays)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, each decoded once its checksum is known to be right.

    Raises:
        InputError: no such file, or a damaged one.
    """
    regular_file(path, "a record")
    try:
        with zipfile.ZipFile(path) as file:
            contents = {name.removesuffix(".npy"): file.read(name) for name in file.namelist()}
        return {
            name: np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            for name, content in contents.items()
        }
    except Exception as e:  # those of zip, zlib and NumPy have no common base
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"{path}: not a record that can be read: {reason}") from e


def record_files(folder: str | Path) -> list[Path]:
    """The records `<id>.npz` of a folder, sorted; not the hidden files that macOS and unfinished writes leave."""
    return sorted(path for path in Path(folder).glob("*.npz") if not path.name.startswith("."))


def load_records(folder: str | Path) -> list[Record]:
    """All records of a folder, by name.

    Raises:
        InputError: none there, or everything that is wrong with them, in one list.
    """
    records, problems = [], []
    for path in record_files(folder):
        try:
            records.append(load_record(path))
        except InputError as e:
            problems.append(str(e))
    if problems:
        raise InputError(f"{folder}: {len(problems)} records cannot be read", problems)
    if not records:
        raise InputError(f"{folder}: no records, expected <id>.npz files")
    return records


def read_facts(file: Path) -> dict[str, Any]:
    """What a JSON file says about how records were made (`make.tokens.Settings.description`).

    Raises:
        InputError: it is not a JSON object, or a value in it is not a number.
    """
    facts = read_json(file)
    wrong = [name for name in NUMBERS if name in facts and not _is_number(facts[name])]
    if wrong:
        raise InputError(f"{file}: expected a number above 0 for {', '.join(wrong)}")
    return facts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 1 << 31


def event_column(speaker: str, field: str) -> str:
    """The name of kame_finetune's column for a field of `OracleEvents`."""
    return f"{speaker}_oracle_{field if field.startswith(('pred', 'hint')) else f'event_{field}'}"
