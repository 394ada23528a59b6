"""A released weight is bytes: import, through our own checkpoint, then export gives every tensor back as it was."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from kame_jax.checkpoint.native import Meta, save
from kame_jax.errors import InputError
from kame_jax.interop import open_checkpoint
from kame_jax.interop.export import export
from tests.interop.files import (
    BFLOAT16,
    LM_CASES,
    adapters,
    assert_same_bytes,
    cast,
    expose,
    fuse,
    golden,
    is_linear,
    write,
)

FLOATS = {"float32": np.dtype(np.float32), "bfloat16": BFLOAT16, "float16": np.dtype(np.float16)}


CASES = list(zip(LM_CASES, [*FLOATS.values()] * len(LM_CASES), strict=False))


def layout_of(tensors):
    return "kame" if any(key.startswith("oracle_emb") for key in tensors) else "moshi"


def through_ours(source, folder):
    """The checkpoint after a conversion to Orbax."""
    opened = open_checkpoint(source, lora="keep")
    save(folder, opened.weights, Meta(opened.config, opened.provenance))
    return open_checkpoint(folder, lora="keep")


@pytest.mark.parametrize(("case", "dtype"), CASES)
def test_split_fused_and_exposed_files_turn_into_each_other_byte_for_byte(tmp_path, case, dtype):
    tensors, config = golden(case)
    tensors = cast(tensors, dtype)
    plain = layout_of(tensors)
    files = {plain: tensors, "finetune": expose(tensors), f"{plain}-fused": fuse(tensors)}
    opened = {
        layout: open_checkpoint(write(tmp_path / layout, given, config | {"lora": False}))
        for layout, given in files.items()
    }
    gated = config["gating"] != "none" or config.get("depformer_gating", "none") != "none"
    assert opened["finetune"].layout == ("finetune" if config["gating"] != "none" else plain)
    assert opened[f"{plain}-fused"].layout == f"{plain}-fused"
    assert gated or files["finetune"].keys() == tensors.keys()
    for source, checkpoint in opened.items():
        for target in files:
            export(checkpoint, tmp_path / f"{source}.{target}", target)
            written = load_file(tmp_path / f"{source}.{target}" / "model.safetensors")
            assert_same_bytes(written, files[target])


@pytest.mark.parametrize(("case", "dtype"), CASES)
def test_through_our_own_checkpoint_every_tensor_comes_back_byte_for_byte(tmp_path, case, dtype):
    tensors, config = golden(case)
    tensors = cast(tensors, dtype)
    ours = through_ours(write(tmp_path / "source", tensors, config | {"lora": False}), tmp_path / "ours")
    assert ours.provenance["source_layout"] == layout_of(tensors)
    export(ours, tmp_path / "back", layout_of(tensors))
    assert_same_bytes(load_file(tmp_path / "back" / "model.safetensors"), tensors)


@pytest.mark.parametrize("case", ["kame", "dev_2b"])
def test_every_tensor_keeps_its_own_dtype(tmp_path, case):
    tensors, config = golden(case)
    rng = np.random.default_rng(0)
    mixed = {key: value.astype(rng.choice(list(FLOATS.values()))) for key, value in tensors.items()}
    layout = layout_of(tensors)
    ours = through_ours(write(tmp_path / "mixed", mixed, config), tmp_path / "ours")
    export(ours, tmp_path / "back", layout)
    assert_same_bytes(load_file(tmp_path / "back" / "model.safetensors"), mixed)


def test_a_fused_tensor_of_mixed_sets_takes_the_dtype_that_holds_them_all(tmp_path):
    tensors, config = golden("user_stream")
    key = "depformer.layers.0.self_attn.in_projs.{}.weight"
    mixed = tensors | {key.format(k): tensors[key.format(k)].astype(np.float16) for k in range(3)}
    export(open_checkpoint(write(tmp_path / "mixed", mixed, config)), tmp_path / "fused", "moshi-fused")
    fused = load_file(tmp_path / "fused" / "model.safetensors")["depformer.layers.0.self_attn.in_proj_weight"]
    expected = np.concatenate([mixed[key.format(k)].astype(np.float32) for k in range(16)])
    np.testing.assert_array_equal(fused, expected)


def test_strange_numbers_survive_even_where_dtypes_are_mixed(tmp_path):
    tensors, config = golden("user_stream")
    key = "emb.0.weight"
    bits = np.arange(tensors[key].size, dtype=np.uint32).astype(np.uint16) * np.uint16(251)
    strange = bits.view(ml_dtypes.bfloat16).reshape(
        tensors[key].shape
    )  # NaN payloads, infinities, subnormals
    mixed = tensors | {key: strange}
    ours = through_ours(write(tmp_path / "strange", mixed, config), tmp_path / "ours")
    export(ours, tmp_path / "back", "moshi")
    assert_same_bytes(load_file(tmp_path / "back" / "model.safetensors"), mixed)


@pytest.mark.parametrize("case", [case for case in LM_CASES if case != "lora"])
def test_the_exported_configuration_describes_the_same_model(tmp_path, case):
    tensors, config = golden(case)
    first = open_checkpoint(write(tmp_path / "source", tensors, config))
    bare = open_checkpoint(write(tmp_path / "bare", tensors), config=first.config)
    for name, checkpoint in (("kept", first), ("made", bare)):
        export(checkpoint, tmp_path / name, layout_of(tensors))
        assert open_checkpoint(tmp_path / name).config == first.config
    kept = json.loads((tmp_path / "kept" / "config.json").read_text())
    assert {key: kept[key] for key in config} == config
    export(first, tmp_path / "finetune", "finetune")
    assert open_checkpoint(tmp_path / "finetune").config == first.config


def test_loader_keys_of_the_source_are_written_again(tmp_path):
    tensors, config = golden("user_stream")
    config |= {
        "model_type": "moshi",
        "tokenizer_name": "t.model",
        "lm_gen_config": {"temp": 0.5},
        "moshi_name": "x",
    }
    ours = through_ours(write(tmp_path / "source", tensors, config), tmp_path / "ours")
    export(ours, tmp_path / "back", "moshi")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config | {
        "moshi_name": "model.safetensors"
    }
    export(ours, tmp_path / "finetune", "finetune")
    bare = json.loads((tmp_path / "finetune" / "moshi_lm_kwargs.json").read_text())
    assert not {"model_type", "tokenizer_name", "lm_gen_config", "moshi_name"} & set(bare)


def test_a_cast_leaves_conditioners_in_float32(tmp_path):
    tensors, config = golden("dev_2b")
    export(open_checkpoint(write(tmp_path / "a", tensors, config)), tmp_path / "b", "kame", dtype=BFLOAT16)
    for key, value in load_file(tmp_path / "b" / "model.safetensors").items():
        assert value.dtype == (np.float32 if key.startswith("condition_provider.") else BFLOAT16)


@pytest.mark.parametrize("fused_base", [False, True])
@pytest.mark.parametrize("fused_adapters", [False, True])
def test_kept_adapters_come_back_byte_for_byte_beside_their_base(tmp_path, fused_base, fused_adapters):
    tensors, config = golden("user_stream")
    lora = adapters(tensors, rank=3)
    base = write(tmp_path / "base", fuse(tensors) if fused_base else tensors, config)
    given = fuse(lora) if fused_adapters else lora
    source = write(tmp_path / "lora", given, config | {"lora": True, "lora_rank": 3}, "lora.safetensors")
    opened = open_checkpoint(source, base=base, lora="keep")
    save(tmp_path / "ours", opened.weights, Meta(opened.config, opened.provenance))
    ours = open_checkpoint(tmp_path / "ours", lora="keep")
    layout = "moshi-fused" if fused_adapters else "moshi"
    export(ours, tmp_path / "back", layout)
    assert_same_bytes(load_file(tmp_path / "back" / "lora.safetensors"), given)
    expected = fuse(tensors) if fused_adapters else tensors
    assert_same_bytes(load_file(tmp_path / "back" / "model.safetensors"), expected)
    assert open_checkpoint(tmp_path / "back", lora="keep").config == ours.config
    with pytest.raises(InputError, match="kame_finetune has no LoRA"):
        export(ours, tmp_path / "finetune", "finetune")


def test_an_export_never_overwrites_and_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    tensors, config = golden("user_stream")
    checkpoint = open_checkpoint(write(tmp_path / "source", tensors, config))
    with pytest.raises(InputError, match="exists already"):
        export(checkpoint, tmp_path / "source", "moshi")
    with pytest.raises(InputError, match="cannot hold"):
        export(checkpoint, tmp_path / "x", "mimi")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("kame_jax.interop.export.slot_value", fail)
    with pytest.raises(OSError, match="disk full"):
        export(checkpoint, tmp_path / "x", "moshi")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_linear_layers_are_told_from_tables():
    tensors, _ = golden("dev_2b")
    assert not any(is_linear(key) for key in tensors if key.endswith("emb.weight") or ".norm" in key)
