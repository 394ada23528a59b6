"""Tensor-parallel decoding: the weights and KV rings of one conversation are spread over several devices."""

import subprocess
import sys

import numpy as np
import pytest

from tests.golden.read import outputs
from tests.processes import ROOT, environment


@pytest.mark.slow
def test_two_devices_share_a_model_and_say_what_the_reference_says(tmp_path):
    out = tmp_path / "out.npz"
    command = [sys.executable, "-m", "tests.decode.mesh_worker", str(out)]
    env = environment(devices=2, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(out)
    np.testing.assert_array_equal(
        found["said"], outputs("kame", "stream_long")["tokens"][: len(found["said"]), 0]
    )
    assert found["cut"] > 0.5
    # The step says where its activations are cut, and a plan compiles the same one.
    assert found["constrained"]
    assert found["planned"]
