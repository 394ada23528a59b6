"""The header of a safetensors file: its dtypes and bounds, and what is wrong with one that cannot be read.

The safetensors library checks headers; here its verdict becomes a message, with everything that is wrong in one list.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from kame_jax.errors import InputError

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

MAX_HEADER_BYTES = 10_000_000
"""Two hundred times what the 7B needs; the format allows ten times as much, which takes minutes to read."""
MAX_DIMENSIONS = 32


def explanation(path: Path, fd: int) -> InputError:
    """Why an open file is not accepted as safetensors."""
    try:
        size, start = os.fstat(fd).st_size, os.pread(fd, 512, 0)
        length = int.from_bytes(start[:8], "little")
        raw = os.pread(fd, min(length, MAX_HEADER_BYTES), 8)
    except OSError as error:
        return InputError(f"{path}: cannot be read: {error.strerror}")
    # Eight bytes of length, then a brace: magic numbers of other formats can be lengths, too.
    if (start[8:9] != b"{" or length > MAX_HEADER_BYTES) and (foreign := _foreign(path, start)):
        return InputError(f"{path}: {foreign}")
    if size < 8:
        return InputError(f"{path}: {size} bytes are too few for a safetensors file")
    if length > MAX_HEADER_BYTES:
        return InputError(f"{path}: not a safetensors file (its header would be {length} bytes long)")
    if 8 + length > size:
        return InputError(f"{path}: truncated: the header needs {8 + length} bytes, the file has {size}")
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        return InputError(f"{path}: not a safetensors file, or its header is corrupt (not JSON)")
    if not isinstance(header, dict):
        return InputError(f"{path}: corrupt header: expected a JSON object of tensors")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        return InputError(f"{path}: corrupt header: expected __metadata__ to map names to text")
    return _entries(path, header, size - 8 - length)


def _foreign(path: Path, start: bytes) -> str | None:
    """Why a file that is not safetensors is refused, from its first bytes; None if nothing known is recognised."""
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


def _entries(path: Path, header: Mapping[str, object], size: int) -> InputError:
    """What is wrong with the entries of a header, or with the data's size; all problems come together."""
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
        spans.append((begin, end, key))
    at = 0
    for begin, end, key in sorted(spans):
        if begin != at:
            problems.append(f"{key}: starts at byte {begin} of the data, expected {at}")
        at = max(at, end)
    if problems:
        return InputError(f"{path}: corrupt safetensors header", problems)
    what = "truncated" if size < at else "corrupt"
    return InputError(f"{path}: {what}: its tensors take {at} bytes, the file holds {size} after the header")


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
