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
from kame_jax.files import regular_file

ROWS_PER_FILE = 100_000
ROWS_AT_ONCE = 64
ID = "dialogue_id"
NAMELESS = "row "
"""Prefix of the name of a row without one."""
COLUMNS = (*CHANNELS, *(event_column(speaker, field) for speaker in CHANNELS for field in FIELDS))
"""Those of a record."""


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
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from None


def parquet_names(files: Iterable[str | Path]) -> Iterator[str]:
    """The names of the dialogues of some files, as `read_parquet` gives them, without reading the rest.

    Raises:
        InputError: a file that is not one of kame_finetune's.
    """
    pa = _pyarrow()
    for path in files:
        with _open(pa, path) as file:
            count = 0
            for batch in _batches(pa, path, file, [ID]):
                for scalar in batch.column(0):
                    count += 1
                    yield _name(scalar, path, count)


def _open(pa: Any, path: str | Path) -> Any:
    regular_file(path, "a parquet file")
    try:
        file = pa.parquet.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from None
    if missing := sorted({ID, *CHANNELS} - set(file.schema_arrow.names)):
        raise InputError(f"{path}: no column {', '.join(missing)}, expected kame_finetune's columns")
    return file


def _batches(pa: Any, path: str | Path, file: Any, columns: list[str]) -> Iterator[Any]:
    try:
        yield from file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet: {error}") from None


def _name(scalar: Any, path: str | Path, number: int) -> str:
    """The last part of a `dialogue_id`; where there is none, the number of the row."""
    try:
        value = scalar.as_py()
    except UnicodeDecodeError:
        value = None
    name = "" if value is None else str(value).rsplit("/", 1)[-1]
    return name or f"{NAMELESS}{number} of {Path(path).name}"


def read_parquet(path: str | Path) -> Iterator[tuple[str, Record | InputError]]:
    """The names and records of a file, a few in memory at a time; a row that is not a record is yielded as its error.

    The name of a record is the last part of its `dialogue_id`, which kame_finetune prefixes with a folder. Further
    columns are not read.

    Raises:
        InputError: no such file, not parquet, or without the columns `dialogue_id`, `A` and `B`.
    """
    pa = _pyarrow()
    with _open(pa, path) as file:
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        count = 0
        for batch in _batches(pa, path, file, [ID, *columns]):
            for row in range(batch.num_rows):
                count += 1
                name = _name(batch.column(ID)[row], path, count)
                try:
                    if name.startswith(NAMELESS):
                        raise InputError(f"has no {ID}")
                    values = {column: _value(batch.column(column)[row]) for column in columns}
                    yield name, record_from_columns(name, values)
                except (ValueError, TypeError, pa.ArrowException) as error:
                    yield name, InputError(f"dialogue {name}: {Path(path).name}: {error}")


def _value(scalar: Any) -> Any:
    """A cell: None, a vector, a matrix, or, of other types, the Python value."""
    if not scalar.is_valid:
        return None
    if not hasattr(scalar.type, "value_field"):  # no list, large list or list of fixed size
        return scalar.as_py()
    values = scalar.values
    if values.null_count:
        raise InputError("holds a null within a list")
    if hasattr(values.type, "value_field"):
        rows = [_value(inner) for inner in values]
        if len({len(row) for row in rows}) > 1:
            raise InputError(
                f"rows of {min(map(len, rows))} to {max(map(len, rows))} frames, expected one length"
            )
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
        InputError: there are no records, or pyarrow is missing.
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
    fields = [(ID, pa.string())]
    fields += [(s, pa.list_(pa.list_(pa.int32()))) for s in CHANNELS]
    kinds = {np.int32: pa.int32(), np.float32: pa.float32(), np.int8: pa.int8()}
    for speaker in CHANNELS:
        for field, kind in FIELDS.items():
            fields.append((event_column(speaker, field), pa.list_(kinds[kind])))
    return pa.schema(fields)


def _row(record: Record, prefix: Path) -> dict[str, Any]:
    row: dict[str, Any] = {ID: f"{prefix}/{record.id}"}
    for name, values in record_columns(record).items():
        row[name] = values.tolist()
    # Both columns are null when the old rule decides for all events of the dialogue, else they hold each choice.
    said = any((events.use_hint != UNSAID).any() for events in record.events.values())
    for speaker, events in record.events.items():
        shown = [int(events.shows_hint(i)) for i in range(len(events))]
        row[event_column(speaker, "use_hint")] = shown if said else None
    return row
