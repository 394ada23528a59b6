"""The safetensors container: any region of any tensor, and one clear error for every damaged file."""

import json
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from kame_jax.errors import InputError
from kame_jax.interop import safetensors_file
from kame_jax.interop.safetensors_file import DTYPES, SafetensorsFile, SafetensorsWriter, TensorInfo


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "numbers.safetensors"
    save_file(
        {"a": np.arange(3 * 4 * 5 * 6, dtype=np.int32).reshape(12, 30), "b": np.ones((2,), np.float16)}, path
    )
    return path


@st.composite
def regions(draw):
    view = draw(st.sampled_from([(12, 30), (3, 4, 5, 6), (360,), (1, 12, 30), (3, 4, 30), (2, 180)]))
    return view, tuple(tuple(sorted(draw(st.tuples(*[st.integers(0, size)] * 2)))) for size in view)


@settings(max_examples=100, deadline=None)
@given(regions(), st.sampled_from([0, 40, 10**6]), st.sampled_from([1, 500, 10**6]))
def test_any_region_of_any_view_reads_as_numpy_slices(numbers, region, min_run, block):
    view, box = region
    old = safetensors_file.MIN_RUN_BYTES, safetensors_file.BLOCK_BYTES
    safetensors_file.MIN_RUN_BYTES, safetensors_file.BLOCK_BYTES = min_run, block
    try:
        with SafetensorsFile(numbers) as file:
            got = file.read_box("a", view, box)
    finally:
        safetensors_file.MIN_RUN_BYTES, safetensors_file.BLOCK_BYTES = old
    expected = np.arange(360, dtype=np.int32).reshape(view)[tuple(slice(*extent) for extent in box)]
    np.testing.assert_array_equal(got, expected)


def test_a_region_of_whole_rows_reads_only_its_bytes(numbers):
    with SafetensorsFile(numbers) as file:
        file.read_box("a", (12, 30), ((3, 7), (0, 30)))
        assert file.bytes_read == 4 * 30 * 4


def test_reading_into_an_array_that_does_not_fit_is_refused(numbers):
    with SafetensorsFile(numbers) as file, pytest.raises(ValueError, match="cannot read"):
        file.read_box("a", (12, 30), ((0, 2), (0, 30)), np.empty((30, 2), np.int32).T)


def test_every_dtype_survives_writing_and_reading(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.integers(0, 2, 24).astype(np.uint8).repeat(dtype.itemsize).view(dtype).reshape(4, 6)
        for name, dtype in DTYPES.items()
    }
    tensors |= {"empty": np.zeros((0, 3), np.float32), "scalar": np.float32(3).reshape(())}
    infos = {name: TensorInfo(value.shape, value.dtype) for name, value in tensors.items()}
    writer = SafetensorsWriter(tmp_path / "x.safetensors", infos, {"format": "pt"})
    for name in reversed(tensors):
        writer.write(name, tensors[name])
    writer.close()
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        assert file.metadata == {"format": "pt"}
        for name, value in tensors.items():
            assert file.read(name).tobytes() == value.tobytes(), name
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.get_tensor("BF16").dtype == ml_dtypes.bfloat16


def test_a_writer_notices_what_is_missing_or_wrong(tmp_path):
    writer = SafetensorsWriter(tmp_path / "x.safetensors", {"a": TensorInfo((2,), np.dtype(np.float32))})
    with pytest.raises(ValueError, match="announced"):
        writer.write("a", np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="never written: a"):
        writer.close()


def header(entries, data=b""):
    raw = json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + data


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

BAD = {
    "empty file": (b"", "0 bytes are too few"),
    "pickle": (pickle.dumps({"a": [1]}), "pickle.*safetensors.torch"),
    "zip of a pickle": (b"PK\x03\x04" + b"\0" * 40, "pickle.*weights_only=True"),
    "gguf": (b"GGUF" + b"\0" * 40, "GGUF"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html><html>", "web page"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "random bytes": (b"\x10\0\0\0\0\0\0\0" + bytes(range(100, 150)), "not a safetensors file|corrupt"),
    "huge header": (struct.pack("<Q", 1 << 40) + b"{}", "not a safetensors file"),
    "header cut": (header({"a": GOOD}, b"\0" * 8)[:20], "truncated"),
    "data cut": (header({"a": GOOD}, b"\0" * 5), "truncated: its tensors take 8 bytes, the file holds 5"),
    "data too long": (
        header({"a": GOOD}, b"\0" * 12),
        "corrupt: its tensors take 8 bytes, the file holds 12",
    ),
    "list header": (header([1]), "expected a JSON object"),
    "metadata not text": (header({"__metadata__": {"a": 1}, "a": GOOD}, b"\0" * 8), "__metadata__"),
    "entry not an object": (header({"a": 3}), "corrupt"),
    "unknown dtype": (header({"a": GOOD | {"dtype": "F7"}}, b"\0" * 8), "unknown dtype 'F7'"),
    "negative size": (header({"a": GOOD | {"shape": [-2]}}, b"\0" * 8), "whole numbers"),
    "float size": (header({"a": GOOD | {"shape": [2.0]}}, b"\0" * 8), "whole numbers"),
    "missing field": (header({"a": {"dtype": "F32"}}, b"\0" * 8), "shape"),
    "size of another shape": (
        header({"a": GOOD | {"shape": [3]}}, b"\0" * 8),
        "takes 12 bytes, the header gives 8",
    ),
    "overlap": (header({"a": GOOD, "b": GOOD}, b"\0" * 8), "starts at byte 0 of the data, expected 8"),
    "hole": (
        header({"a": GOOD | {"data_offsets": [4, 12]}}, b"\0" * 12),
        "starts at byte 4 of the data, expected 0",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_error_that_names_it(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"(?s)bad\.safetensors: .*(" + message + ")"):
        SafetensorsFile(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: no such file, expected a safetensors file"):
        SafetensorsFile(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="is a folder, expected a safetensors file"):
        SafetensorsFile(tmp_path)
