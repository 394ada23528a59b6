"""Reading and writing the safetensors container: headers, and byte ranges of tensors.

Reads go through `pread` into memory that the caller owns, never through a memory map, so that a process's memory is
only what it allocated. What the tensors mean belongs to the tables of this room.
"""

from __future__ import annotations

import json
import math
import os
import struct
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from safetensors import SafetensorError, safe_open

from kame_jax.checkpoint.weights import Box
from kame_jax.errors import InputError, WorkError
from kame_jax.files import regular_file
from kame_jax.interop.header import DTYPES, MAX_DIMENSIONS, MAX_HEADER_BYTES, NAMES, explanation

SUFFIXES = (".safetensors", ".sft", ".sfts")
MIN_RUN_BYTES = 2048
"""Contiguous runs shorter than this are read together with the gaps between them: a system call costs as much."""
BLOCK_BYTES = 64 << 20
"""Largest temporary buffer of a read that has to be split in memory."""


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
            length = int.from_bytes(os.pread(self._fd, 8, 0), "little")
            if length > MAX_HEADER_BYTES:
                raise explanation(self.path, self._fd)
            with safe_open(self.path, "np"):  # checks the whole header
                header = json.loads(os.pread(self._fd, length, 8))
        except (SafetensorError, OSError) as error:
            raise explanation(self.path, self._fd) from error
        self._start = 8 + length
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        if any(e["dtype"] not in DTYPES or len(e["shape"]) > MAX_DIMENSIONS for e in header.values()):
            raise explanation(self.path, self._fd)
        self.infos = {k: TensorInfo(tuple(e["shape"]), DTYPES[e["dtype"]]) for k, e in header.items()}
        self._offsets = {key: entry["data_offsets"][0] for key, entry in header.items()}

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
            The region, as a separate array (`out` where given).
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
        """Reads short runs with their neighbours, a bounded block at a time, and keeps what was requested."""
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
            ValueError: unknown or already written key, or a shape or dtype other than announced.
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
        """Close the file as it is; its creator removes it."""
        os.close(self._fd)

    def close(self) -> None:
        """Finish the file.

        Raises:
            ValueError: tensors are missing.
        """
        os.close(self._fd)
        if self._todo:
            raise ValueError(f"{self.path}: never written: {', '.join(sorted(self._todo))}")
