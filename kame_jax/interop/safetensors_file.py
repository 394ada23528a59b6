"""Reading and writing the safetensors container: headers, and byte ranges of tensors.

Reads go through `pread` into memory that the caller owns, never through a memory map, so that a process's memory is
what it asked for. What the tensors mean belongs to the tables of this room.
"""

from __future__ import annotations

import json
import math
import os
import struct
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import ml_dtypes
import numpy as np

from kame_jax.checkpoint.weights import Box
from kame_jax.errors import InputError, WorkError
from kame_jax.files import regular_file

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

SUFFIXES = (".safetensors", ".sft", ".sfts")
MAX_HEADER_BYTES = 10_000_000
"""Two hundred times what the 7B needs; the format allows ten times as much, which takes minutes to check."""
MAX_DIMENSIONS = 32
MIN_RUN_BYTES = 2048
"""Contiguous runs shorter than this are read together with what lies between them: a system call costs as much."""
BLOCK_BYTES = 64 << 20
"""Largest temporary buffer of a read that has to be taken apart in memory."""


class TensorInfo(NamedTuple):
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype


class SafetensorsFile:
    """One safetensors file, opened for reading ranges.

    `infos` maps each key to its `TensorInfo`; `metadata` is the file's own; `bytes_read` counts what was read.

    Raises:
        InputError: the file is missing, of another format, truncated or corrupt.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = regular_file(path, "a safetensors file")
        self.bytes_read = 0
        try:
            self._fd = os.open(self.path, os.O_RDONLY)
            self._close = weakref.finalize(self, os.close, self._fd)
            size = os.fstat(self._fd).st_size
            header, self._start = _read_header(self.path, self._fd, size)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from None
        self.metadata = _metadata(self.path, header)
        self.infos, self._offsets = _check_entries(self.path, header, size - self._start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        self._close()

    def header_bytes(self) -> bytes:
        """The raw header, a fingerprint of names, shapes and dtypes."""
        return os.pread(self._fd, self._start, 0)

    def read(self, key: str) -> np.ndarray:
        """A whole tensor."""
        shape = self.infos[key].shape
        return self.read_box(key, shape, tuple((0, size) for size in shape))

    def read_box(
        self, key: str, view: tuple[int, ...], box: Box, out: np.ndarray | None = None
    ) -> np.ndarray:
        """A region of a tensor that is seen, in row-major order, as an array of shape `view`.

        Args:
            key: which tensor.
            view: a shape with as many elements as the tensor has.
            box: the region, in dimensions of `view`.
            out: C-contiguous array of the region's shape and the tensor's dtype to read into; None makes one.

        Returns:
            The region, as an array of its own (`out` where given).
        """
        shape = tuple(stop - start for start, stop in box)
        dtype = self.infos[key].dtype
        if out is None:
            out = np.empty(shape, dtype)
        elif out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(f"{key}: cannot read {dtype} {shape} into a {out.dtype} array of {out.shape}")
        if out.size:
            self._read_box(self._start + self._offsets[key], dtype, view, box, out)
        return out

    def _read_box(
        self, offset: int, dtype: np.dtype, view: tuple[int, ...], box: Box, out: np.ndarray
    ) -> None:
        full = [extent == (0, size) for extent, size in zip(box, view, strict=True)]
        tail = len(view)
        while tail and full[tail - 1]:
            tail -= 1
        if tail == 0:
            self._pread(out, offset)
            return
        # Rows over the dimensions before `split`; each is one contiguous run in the file.
        split = tail - 1
        inner = math.prod(view[tail:])
        run = (box[split][1] - box[split][0]) * inner * dtype.itemsize
        outer = [range(*extent) for extent in box[:split]]
        if math.prod(len(extent) for extent in outer) > 1 and run < MIN_RUN_BYTES:
            self._read_wide(offset, dtype, view, box, split, out)
            return
        strides = [math.prod(view[axis + 1 :]) * dtype.itemsize for axis in range(len(view))]
        base = offset + box[split][0] * strides[split]
        rows = out.reshape(-1, run // dtype.itemsize)
        for row, index in enumerate(np.ndindex(*(len(extent) for extent in outer))):
            at = base + sum((extent[i] * s) for extent, i, s in zip(outer, index, strides, strict=False))
            self._pread(rows[row], at)

    def _read_wide(
        self, offset: int, dtype: np.dtype, view: tuple[int, ...], box: Box, split: int, out: np.ndarray
    ) -> None:
        """Reads short runs with their neighbours, a bounded block at a time, and keeps what was asked for."""
        row = math.prod(view[1:]) * dtype.itemsize
        start, stop = box[0]
        step = max(1, BLOCK_BYTES // row)
        wide = (*box[1:split], (0, view[split]), *box[split + 1 :])
        keep = (slice(None),) * split + (slice(*box[split]),)
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            block_box = ((begin, end), *wide)
            block = np.empty([b - a for a, b in block_box], dtype)
            self._read_box(offset, dtype, view, block_box, block)
            out[begin - start : end - start] = block[keep]

    def _pread(self, out: np.ndarray, offset: int) -> None:
        """Fills a contiguous array from the file."""
        memory = out.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(memory):
            try:
                got = os.preadv(self._fd, [memory[done : done + (1 << 30)]], offset + done)
            except OSError as error:
                raise WorkError(f"{self.path}: cannot be read any further: {error.strerror}") from None
            if got <= 0:
                raise InputError(f"{self.path}: ended while it was being read, at byte {offset + done}")
            done += got
        self.bytes_read += done


class SafetensorsWriter:
    """Writes one safetensors file whose names, shapes and dtypes are known beforehand, tensors in any order.

    The file is complete when every tensor was written; `close` checks that.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        infos: Mapping[str, TensorInfo],
        metadata: Mapping[str, str] | None = None,
    ):
        self.path = Path(path)
        self._infos = dict(infos)
        self._todo = set(self._infos)
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        self._offsets: dict[str, int] = {}
        at = 0
        for key, info in self._infos.items():
            size = math.prod(info.shape) * info.dtype.itemsize
            header[key] = {
                "dtype": NAMES[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [at, at + size],
            }
            self._offsets[key] = at
            at += size
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        self._start = 8 + len(raw)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.pwrite(self._fd, struct.pack("<Q", len(raw)) + raw, 0)
            os.ftruncate(self._fd, self._start + at)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, key: str, value: np.ndarray) -> None:
        """Write one tensor.

        Raises:
            ValueError: unknown or already written key, or another shape or dtype than announced.
        """
        info = self._infos[key]
        if key not in self._todo:
            raise ValueError(f"{key} is written twice")
        if value.shape != info.shape or value.dtype != info.dtype:
            raise ValueError(f"{key} is {value.dtype} {value.shape}, announced as {info.dtype} {info.shape}")
        memory = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
        offset, done = self._start + self._offsets[key], 0
        while done < len(memory):
            done += os.pwrite(self._fd, memory[done : done + (1 << 30)], offset + done)
        self._todo.discard(key)

    def abandon(self) -> None:
        """Close the file as it is; whoever made it removes it."""
        os.close(self._fd)

    def close(self) -> None:
        """Finish the file.

        Raises:
            ValueError: tensors are missing.
        """
        os.close(self._fd)
        if self._todo:
            raise ValueError(f"{self.path}: never written: {', '.join(sorted(self._todo))}")


def _read_header(path: Path, fd: int, size: int) -> tuple[dict, int]:
    """The parsed header and where the data starts."""
    start = os.pread(fd, 512, 0)
    length = int.from_bytes(start[:8], "little")
    # Eight bytes of length, then a brace: magic numbers of other formats can be lengths, too.
    if start[8:9] != b"{" or length > MAX_HEADER_BYTES:
        foreign = _foreign(path, start)
        if foreign:
            raise InputError(f"{path}: {foreign}")
    if size < 8:
        raise InputError(f"{path}: {size} bytes are too few for a safetensors file")
    if length > MAX_HEADER_BYTES:
        raise InputError(f"{path}: not a safetensors file (its header would be {length} bytes long)")
    if 8 + length > size:
        raise InputError(f"{path}: truncated: the header needs {8 + length} bytes, the file has {size}")
    try:
        header = json.loads(os.pread(fd, length, 8).decode())
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not a safetensors file, or its header is corrupt (not JSON)") from None
    if not isinstance(header, dict):
        raise InputError(f"{path}: corrupt header: expected a JSON object of tensors")
    return header, 8 + length


def _metadata(path: Path, header: dict) -> dict[str, str]:
    """Takes the file's own metadata out of its header."""
    found = header.pop("__metadata__", None) or {}
    if not isinstance(found, dict) or any(not isinstance(value, str) for value in found.values()):
        raise InputError(f"{path}: corrupt header: expected __metadata__ to map names to text")
    return found


def _foreign(path: Path, start: bytes) -> str | None:
    """Why a file that is no safetensors is refused, from its first bytes; None if nothing known is recognised."""
    if start.startswith(b"PK\x03\x04") or (
        start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    ):
        return (
            "a pickle (or zip) of PyTorch or NumPy, which can run any code when it is loaded. Only safetensors is "
            'read; convert a file you trust with: python -c "import sys, torch, safetensors.torch as s; '
            f's.save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" {path.name} {path.stem}.safetensors'
        )
    if start.startswith(b"GGUF"):
        return "a GGUF file; only safetensors is read, take the unquantised model.safetensors"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: run `git lfs pull`"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file; only safetensors is read"
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page, not weights (a download that needed a login?)"
    return None


def _check_entries(
    path: Path, header: Mapping[str, object], size: int
) -> tuple[dict[str, TensorInfo], dict[str, int]]:
    """Checks every entry of a header against the data's size; all problems come together."""
    infos: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    problems: list[str] = []
    for key, entry in header.items():
        try:
            dtype, shape, (begin, end) = _parse_entry(entry)
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{key}: corrupt entry: {error}")
            continue
        expected = math.prod(shape) * dtype.itemsize
        if end - begin != expected:
            problems.append(f"{key}: {dtype} {shape} takes {expected} bytes, the header gives {end - begin}")
        infos[key] = TensorInfo(shape, dtype)
        spans.append((begin, end, key))
    at = 0
    for begin, end, key in sorted(spans):
        if begin != at:
            problems.append(f"{key}: starts at byte {begin} of the data, expected {at}")
        at = max(at, end)
    if problems:
        raise InputError(f"{path}: corrupt safetensors header", problems)
    if at != size:
        what = "truncated" if size < at else "corrupt"
        raise InputError(
            f"{path}: {what}: its tensors take {at} bytes, the file holds {size} after the header"
        )
    return infos, {key: begin for begin, _, key in spans}


def _parse_entry(entry: object) -> tuple[np.dtype, tuple[int, ...], Iterable[int]]:
    if not isinstance(entry, dict):
        raise ValueError("expected an object with dtype, shape and data_offsets")
    name = entry["dtype"]
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}, expected one of {', '.join(DTYPES)}")
    if len(entry["shape"]) > MAX_DIMENSIONS:
        raise ValueError(f"a shape of {len(entry['shape']):,} dimensions, expected at most {MAX_DIMENSIONS}")
    numbers = [*entry["shape"], *entry["data_offsets"]]
    if len(entry["data_offsets"]) != 2 or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("shape and data_offsets must be whole numbers of at least 0")
    return DTYPES[name], tuple(entry["shape"]), entry["data_offsets"]
