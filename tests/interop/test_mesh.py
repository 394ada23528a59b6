"""Weights land straight on a device mesh: right numbers, each stored byte read once, a host reads its share."""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file

from kame_jax.checkpoint.native import Meta, save
from kame_jax.checkpoint.weights import ArrayWeights
from kame_jax.config import load_model
from kame_jax.interop.checkpoint import Checkpoint, open_checkpoint
from kame_jax.interop.export import export
from kame_jax.model import tree
from tests.interop.files import fuse, write
from tests.processes import ROOT, environment


def test_a_checkpoint_is_sliced_onto_eight_devices(tmp_path):
    config = load_model("tiny")
    temporal = dataclasses.replace(config.temporal, dim=128, num_heads=8, num_layers=2, ffn_dim=256)
    config = dataclasses.replace(config, temporal=temporal, text_card=500)  # 501 rows, which nothing divides
    rng = np.random.default_rng(0)
    arrays = {
        path: rng.normal(size=shape).astype(np.float32)
        for path, shape in tree.shapes(tree.abstract(config)).items()
    }
    made = Checkpoint("made", "kame_jax", config, ArrayWeights(arrays))
    export(made, tmp_path / "kame", "kame")
    # The fused spelling has each projection of a layer, or of all weight sets, in one tensor: it is cut, too.
    source = write(tmp_path / "fused", fuse(load_file(tmp_path / "kame" / "model.safetensors")))
    shutil.copy(tmp_path / "kame" / "config.json", source / "config.json")
    opened = open_checkpoint(source)
    save(tmp_path / "ours", opened.weights, Meta(opened.config))
    result = subprocess.run(
        [sys.executable, "-m", "tests.interop.mesh_worker", source, tmp_path / "ours"],
        cwd=ROOT, capture_output=True, text=True, env=environment(devices=8), check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip().endswith("ok")
