"""Tiny checkpoints in every layout, made from the golden ones with NumPy alone.

Names and row orders are written out here once more, from the layouts' descriptions and not from the tables under test.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parent.parent / "golden"
LM_CASES = sorted(path.parent.name for path in (GOLDEN / "lm").glob("*/config.json"))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

Tensors = dict[str, np.ndarray]


def golden(case: str) -> tuple[Tensors, dict]:
    """The tensors (split layout) and the `config.json` of a checkpoint that the reference wrote."""
    folder = GOLDEN / "lm" / case
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def mimi() -> Tensors:
    """Mimi as the reference wrote it (fused attention)."""
    return load_file(GOLDEN / "mimi" / "model.safetensors")


def write(
    folder: Path, tensors: Tensors, config: dict | None = None, name: str = "model.safetensors"
) -> Path:
    """A checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def fuse(tensors: Tensors) -> Tensors:
    """Split layout to the legacy fused one: the weight sets' rows one after the other."""
    fused = {key: value for key, value in tensors.items() if "_projs." not in key}
    sets: dict[str, dict[int, np.ndarray]] = {}
    for key, value in tensors.items():
        if found := re.fullmatch(r"(.*\.self_attn)\.(in|out)_projs\.(\d+)\.(.*)", key):
            stem, side, index, rest = found.groups()
            plain = "in_proj_weight" if side == "in" and rest == "weight" else f"{side}_proj.{rest}"
            sets.setdefault(f"{stem}.{plain}", {})[int(index)] = value
    return fused | {key: np.concatenate([v[i] for i in sorted(v)]) for key, v in sets.items()}


def expose(tensors: Tensors) -> Tensors:
    """Split layout to kame_finetune's: gate weights without a module."""
    return {
        re.sub(r"(\.gating\..*linear_(?:in|out))\.weight$", r"\1_weight", k): v for k, v in tensors.items()
    }


def cast(tensors: Tensors, dtype: np.dtype) -> Tensors:
    """Every tensor in another dtype, conditioners apart, as the reference's loader does."""
    return {k: v if k.startswith("condition_provider.") else v.astype(dtype) for k, v in tensors.items()}


def is_linear(key: str) -> bool:
    """Whether a tensor is the weight of an `nn.Linear`."""
    return bool(re.search(r"proj|linear|depformer_in|extra_heads|low_rank|out[12]\.weight", key))


def quantize(tensors: Tensors) -> Tensors:
    """bitsandbytes int8: rows over their largest magnitude, which stays beside them."""
    out: Tensors = {}
    for key, value in tensors.items():
        if not is_linear(key):
            out[key] = value
            continue
        scale = np.abs(value.astype(np.float32)).max(axis=1)
        out[key] = np.round(value.astype(np.float32) * 127 / scale[:, None]).astype(np.int8)
        out[f"{key}_scb"] = scale
    return out


def adapters(tensors: Tensors, rank: int, seed: int = 0) -> Tensors:
    """LoRA adapters on every linear layer of a split checkpoint."""
    rng = np.random.default_rng(seed)
    out: Tensors = {}
    for key, value in tensors.items():
        if is_linear(key):
            stem = key.removesuffix(".weight")
            rows, columns = value.shape
            out[f"{stem}.lora_A.weight"] = rng.normal(size=(rank, columns)).astype(value.dtype)
            out[f"{stem}.lora_B.weight"] = rng.normal(size=(rows, rank)).astype(value.dtype)
    return out


def assert_same_bytes(got: Tensors, expected: Tensors) -> None:
    """Same names, shapes, dtypes and bytes."""
    assert sorted(got) == sorted(expected)
    for key, value in expected.items():
        assert got[key].shape == value.shape, key
        assert got[key].dtype == value.dtype, key
        assert got[key].tobytes() == value.tobytes(), key
