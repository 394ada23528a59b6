"""Run by `test_mesh.py` in a process of its own, because a process has one number of devices."""

import sys

import jax
import numpy as np

from kame_jax.interop import load_checkpoint, open_checkpoint, safetensors_file
from kame_jax.interop.load import build_lm
from kame_jax.model import tree
from kame_jax.sharding import make_mesh, shardings

# Rows here are a hundredth of the 7B's, and so is the shortest run worth a read of its own.
safetensors_file.MIN_RUN_BYTES = 20


def files_of(checkpoint):
    """The open files below a checkpoint's weights."""
    return {source.file for source in checkpoint.weights.source.owner.values()}


def check_values_and_bytes(source):
    """Any mesh gives the same numbers as one device, and reads each stored byte once."""
    whole = tree.leaves(load_checkpoint(source)[1])
    for sizes in ((1, 8, 1), (2, 2, 2), (1, 4, 2), (8, 1, 1), (1, 1, 8)):
        mesh = make_mesh(*sizes)
        checkpoint = open_checkpoint(source)
        model = build_lm(checkpoint, mesh)
        expected = shardings(model, mesh)
        for path, array in tree.leaves(model).items():
            assert array.sharding == expected[path], path
            np.testing.assert_array_equal(array, whole[path], err_msg=path)
        read = sum(file.bytes_read for file in files_of(checkpoint))
        stored = sum(array.nbytes for array in whole.values())
        assert read == stored, (sizes, read, stored)


def check_one_hosts_share(source):
    """A host with an eighth of the devices reads little more than an eighth of the bytes."""
    mesh = make_mesh(1, 8, 1)
    checkpoint = open_checkpoint(source)
    model = tree.abstract(checkpoint.config)
    wanted = 0
    for path, place in shardings(model, mesh).items():
        shape = checkpoint.weights.shapes[path]
        index = place.devices_indices_map(shape)[mesh.devices.flat[3]]
        box = tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
        [part] = checkpoint.weights.read(path, [box])
        wanted += part.nbytes
    read = sum(file.bytes_read for file in files_of(checkpoint))
    total = sum(
        info.dtype.itemsize * int(np.prod(info.shape))
        for file in files_of(checkpoint)
        for info in file.infos.values()
    )
    print(f"one host of eight: wants {wanted} of {total} bytes, reads {read}")
    assert wanted < 0.2 * total
    assert read <= 1.1 * wanted


def check_native(native):
    """Our own checkpoint loads onto a mesh, too."""
    mesh = make_mesh(1, 4, 2)
    whole = tree.leaves(load_checkpoint(native)[1])
    model = load_checkpoint(native, mesh=mesh)[1]
    expected = shardings(model, mesh)
    for path, array in tree.leaves(model).items():
        assert array.sharding == expected[path], path
        np.testing.assert_array_equal(array, whole[path], err_msg=path)


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    check_values_and_bytes(sys.argv[1])
    check_one_hosts_share(sys.argv[1])
    check_native(sys.argv[2])
    print("ok")
