"""kame_finetune's parquet files, read and written record by record.

Columns are those of SakanaAI/kame_finetune `tools/prepare_dataset.py`; `*_oracle_event_use_hint`, which newer versions
have, is nullable. Needs pyarrow, the extra `parquet`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.data.events import FIELDS, UNSAID
from kame_jax.data.records import Record, event_column, record_columns, record_from_columns
from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError

ROWS_PER_FILE = 100_000
ROWS_AT_ONCE = 64


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("parquet files need pyarrow: pip install 'kame_jax[parquet]'") from None
    return pyarrow


def parquet_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of any parquet file as dictionaries, a few in memory at a time.

    Raises:
        InputError: it cannot be read.
    """
    pa = _pyarrow()
    try:
        with pa.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from None


def parquet_names(files: Iterable[str | Path]) -> Iterator[str]:
    """The names of the dialogues of some files, without reading the rest.

    Raises:
        InputError: a file that is none of kame_finetune's.
    """
    pa = _pyarrow()
    for path in files:
        with _open(pa, path) as file:
            for batch in file.iter_batches(columns=["dialogue_id"]):
                yield from (str(name).rsplit("/", 1)[-1] for name in batch.column(0).to_pylist())


def _open(pa: Any, path: str | Path) -> Any:
    try:
        file = pa.parquet.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from None
    if missing := sorted({"dialogue_id", *CHANNELS} - set(file.schema_arrow.names)):
        raise InputError(f"{path}: no column {', '.join(missing)}, expected kame_finetune's columns")
    return file


def read_parquet(path: str | Path) -> Iterator[Record | InputError]:
    """The records of a file, a few in memory at a time; a row that is no record comes as its error.

    The name of a record is the last part of its `dialogue_id`, which kame_finetune prefixes with a folder.

    Raises:
        InputError: no such file, not parquet, or without the columns `dialogue_id`, `A` and `B`.
    """
    pa = _pyarrow()
    with _open(pa, path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            for row in range(batch.num_rows):
                columns = {name: _value(batch.column(name)[row]) for name in batch.schema.names}
                name = str(columns.pop("dialogue_id")).rsplit("/", 1)[-1]
                try:
                    yield record_from_columns(name, columns)
                except (InputError, ValueError, TypeError) as error:
                    yield InputError(f"dialogue {name}: {Path(path).name}: {error}")


def _value(scalar: Any) -> Any:
    """A cell: text, None, a vector, or a matrix."""
    if not scalar.is_valid:
        return None
    values = getattr(scalar, "values", None)
    if values is None:
        return scalar.as_py()
    if hasattr(values, "offsets"):
        rows = [inner.values.to_numpy(zero_copy_only=False) for inner in values]
        return np.stack(rows) if rows else np.zeros((0, 0), np.int32)
    return values.to_numpy(zero_copy_only=False)


def write_parquet(
    prefix: str | Path, records: Iterable[Record], rows_per_file: int = ROWS_PER_FILE
) -> list[Path]:
    """Writes `<prefix>-001-of-00N.parquet`, all files or none.

    Args:
        prefix: folder and first part of the names.
        records: written in their order; only a few are in memory at a time.
        rows_per_file: most rows of a file.

    Returns:
        The files.

    Raises:
        InputError: there is no record, or no pyarrow.
    """
    pa = _pyarrow()
    prefix = Path(prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    schema = _schema(pa)
    parts: list[Path] = []
    items = iter(records)
    try:
        while batch := list(itertools.islice(items, min(ROWS_AT_ONCE, rows_per_file))):
            part = prefix.with_name(f".{prefix.name}.{os.getpid()}.{len(parts)}.part")
            parts.append(part)
            written = 0
            with pa.parquet.ParquetWriter(part, schema) as writer:
                while batch:
                    writer.write_table(pa.Table.from_pylist([_row(r, prefix) for r in batch], schema))
                    written += len(batch)
                    batch = list(itertools.islice(items, min(ROWS_AT_ONCE, rows_per_file - written)))
        if not parts:
            raise InputError(f"{prefix}: no record to write")
        files = [
            prefix.with_name(f"{prefix.name}-{i:03d}-of-{len(parts):03d}.parquet")
            for i in range(1, len(parts) + 1)
        ]
        for part, file in zip(parts, files):
            part.replace(file)
        return files
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _schema(pa: Any) -> Any:
    fields = [("dialogue_id", pa.string())]
    fields += [(s, pa.list_(pa.list_(pa.int32()))) for s in CHANNELS]
    kinds = {np.int32: pa.int32(), np.float32: pa.float32(), np.int8: pa.int8()}
    for speaker in CHANNELS:
        for field, kind in FIELDS.items():
            fields.append((event_column(speaker, field), pa.list_(kinds[kind])))
    return pa.schema(fields)


def _row(record: Record, prefix: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"dialogue_id": f"{prefix}/{record.id}"}
    for name, values in record_columns(record).items():
        row[name] = values.tolist()
    # Both columns hold nothing when the old rule decides for all events of the dialogue, else each event's choice.
    said = any((events.use_hint != UNSAID).any() for events in record.events.values())
    for speaker, events in record.events.items():
        shown = [int(events.shows_hint(i)) for i in range(len(events))]
        row[event_column(speaker, "use_hint")] = shown if said else None
    return row
