"""The tables: complete and unambiguous for every ready model, and every misfit of a file named in one list."""

import functools
import re

import numpy as np
import pytest

from kame_jax.config import config_names, load_codec, load_model
from kame_jax.errors import InputError
from kame_jax.interop import lm_tables, mimi_tables, open_checkpoint
from kame_jax.interop.layouts import LM_LAYOUTS
from kame_jax.interop.safetensors_file import TensorInfo
from kame_jax.interop.table import Rule, expand, match
from kame_jax.model import tree
from tests.interop.files import fuse, golden, write

MODELS = [name for name in config_names() if name != "mimi"]
TENSORS = {  # checkpoints.md sections 1 and 2; the 2B with its conditioner's three
    "moshi_7b": {"moshi-fused": 355, "moshi": 439},
    "kame_7b": {"kame": 440, "finetune": 440},
    "moshi_dev_2b": {"moshi": 626},
}


def covered(slots, shapes):
    """How often each slice that a key can name is named."""
    axes = {
        path: max((len(slot.index) for slot in slots.values() if slot.path == path), default=0)
        for path in shapes
    }
    seen = {path: np.zeros(shape[: axes[path]], np.int8) for path, shape in shapes.items()}
    for slot in slots.values():
        seen[slot.path][slot.at] += 1
    return seen


@functools.cache
def model_shapes(name):
    return tree.shapes(tree.abstract(load_model(name)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layout", LM_LAYOUTS)
def test_every_layout_names_every_weight_exactly_once(name, layout):
    config, shapes = load_model(name), model_shapes(name)
    slots = expand(lm_tables.written(config, layout), shapes)
    assert all(np.all(count == 1) for count in covered(slots, shapes).values())
    assert sum(np.prod(slot.shape) for slot in slots.values()) == tree.count(shapes)
    assert len(slots) == TENSORS.get(name, {}).get(layout, len(slots))
    assert set(slots) <= set(expand(lm_tables.readable(config), shapes))


@pytest.mark.parametrize(("layout", "tensors"), [("mimi", 318), ("mimi-fused", 318), ("mimi-hf", 350)])
def test_mimi_layouts_name_every_weight_exactly_once(layout, tensors):
    config = load_codec("mimi")
    shapes = tree.shapes(tree.abstract(config))
    slots = expand(mimi_tables.written(config, layout), shapes)
    assert all(np.all(count == 1) for count in covered(slots, shapes).values())
    assert len(slots) == tensors
    assert tree.count(shapes) == 96_151_393
    assert set(slots) <= set(expand(mimi_tables.readable(config), shapes))


def test_two_rules_with_one_key_are_refused():
    rules = [Rule("w.{k}", "w", "k"), Rule("w.0", "v")]
    with pytest.raises(ValueError, match=r"two rules give the key w\.0"):
        expand(rules, {"w": (2,), "v": ()})


def test_a_fold_that_does_not_fit_its_array_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        expand([Rule("w", "w", fold=(2, 1))], {"w": (2, 3)})


F32 = np.dtype(np.float32)
RULES = [Rule("a.{k}", "a", "k"), Rule("a", "a"), Rule("b", "b", fold=(1, 1))]
SHAPES = {"a": (2, 3), "b": (4, 5)}
FULL = {"a.0": TensorInfo((3,), F32), "a.1": TensorInfo((3,), F32), "b": TensorInfo((4, 5), F32)}

MISFITS = {
    "missing": ({"a.1": None}, [r"missing: a\.1 \[3\]"]),
    "unknown": ({"c": TensorInfo((1,), F32)}, [r"unknown: c \[1\]"]),
    "out of range": (
        {"a.2": TensorInfo((3,), F32)},
        [r"unknown: a\.2 \[3\] \(outside the model: k 2 of 2\)"],
    ),
    "wrong shape": ({"b": TensorInfo((5, 4), F32)}, [r"wrong shape: b is \[5, 4\], expected \[4, 5\]"]),
    "wrong dtype": ({"b": TensorInfo((4, 5), np.dtype(np.int8))}, ["wrong dtype: b is int8"]),
    "twice": ({"a": TensorInfo((2, 3), F32)}, [r"given more than once: a, a\.0, a\.1"]),
    "all at once": (
        {"a.1": None, "b": TensorInfo((5,), F32), "c": TensorInfo((), F32)},
        ["missing", "unknown", "wrong shape"],
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits_come_as_one_list(name):
    change, messages = MISFITS[name]
    infos = {key: info for key, info in (FULL | change).items() if info is not None}
    with pytest.raises(InputError) as caught:
        match(infos, RULES, [RULES[0], RULES[2]], SHAPES, "file")
    assert len(caught.value.problems) == len(messages)
    for message, problem in zip(sorted(messages), caught.value.problems, strict=True):
        assert re.match(message, problem), problem


def test_a_damaged_checkpoint_lists_every_key_of_the_layout_it_was_in(tmp_path):
    tensors, config = golden("kame")
    fused = fuse(tensors)
    for key in ("transformer.layers.1.self_attn.in_proj_weight", "oracle_emb.weight", "linears.7.weight"):
        del fused[key]
    fused["oracle_emb.out1.weight"] = np.zeros((2, 2), np.float32)
    fused["emb.3.weight"] = fused["emb.3.weight"][:-1]
    fused["transformer.layers.2.norm1.alpha"] = np.ones((1, 1, 24), np.float32)
    with pytest.raises(InputError) as caught:
        open_checkpoint(write(tmp_path / "bad", fused, config))
    assert caught.value.problems == (
        "missing: linears.7.weight [24, 12]",
        "missing: oracle_emb.weight [41, 24]",
        "missing: transformer.layers.1.self_attn.in_proj_weight [72, 24]",
        "unknown: oracle_emb.out1.weight [2, 2] (this model has no oracle_emb.out1.weight)",
        "unknown: transformer.layers.2.norm1.alpha [1, 1, 24] (outside the model: l 2 of 2)",
        "wrong shape: emb.3.weight is [24, 24], expected [25, 24]",
    )
