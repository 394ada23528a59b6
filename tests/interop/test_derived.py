"""What is made from a checkpoint on the way: merged adapters, dequantised layers, oracle tables given and folded."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from kame_jax.checkpoint.weights import ArrayWeights, whole
from kame_jax.config import LoRAConfig
from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint, open_checkpoint
from kame_jax.interop.checkpoint import add_oracle
from kame_jax.interop.export import export
from kame_jax.interop.weights import FoldedOracle, MergedLoRA
from tests.golden.read import distance
from tests.interop.files import BFLOAT16, adapters, cast, fuse, golden, is_linear, quantize, write
from tests.rounding import LOGITS

PAD = 3


def exported(checkpoint, folder, layout, **options):
    export(checkpoint, folder, layout, **options)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16])
@pytest.mark.parametrize("fused_base", [False, True])
def test_merged_adapters_are_w_plus_scaling_b_a_in_float32_rounded_once(tmp_path, dtype, fused_base):
    tensors, config = golden("user_stream")
    tensors = cast(tensors, dtype)
    lora = adapters(tensors, rank=3)
    embedding = np.asarray(np.random.default_rng(1).normal(size=tensors["text_emb.weight"].shape), dtype)
    base = write(tmp_path / "base", fuse(tensors) if fused_base else tensors, config)
    settings = config | {"lora": True, "lora_rank": 3, "lora_scaling": 1.5}
    source = write(tmp_path / "lora", lora | {"text_emb.weight": embedding}, settings, "lora.safetensors")
    merged = exported(open_checkpoint(source, base=base), tmp_path / "merged", "moshi")
    assert merged.keys() == tensors.keys()
    for key, weight in tensors.items():
        stem = key.removesuffix(".weight")
        if key == "text_emb.weight":
            expected = embedding  # ft_embed: whole tables inside the adapter file replace the base's
        elif is_linear(key):
            a, b = (lora[f"{stem}.lora_{side}.weight"].astype(np.float32) for side in "AB")
            expected = (weight.astype(np.float32) + 1.5 * (b @ a)).astype(dtype)
        else:
            expected = weight
        # The order of additions inside a matrix product is the library's: one unit in the last place.
        got, expected = merged[key].astype(np.float32), expected.astype(np.float32)
        eps = 2.0**-7 if dtype == BFLOAT16 else 2.0**-22
        np.testing.assert_allclose(got, expected, rtol=eps, atol=eps * np.abs(expected).max(), err_msg=key)


def test_a_region_of_a_merged_weight_is_the_region_of_the_whole(tmp_path):
    checkpoint = open_checkpoint(write_lora(tmp_path), lora="keep")
    merged = MergedLoRA(checkpoint.weights, 2.0)
    rng = np.random.default_rng(0)
    for path, shape in merged.shapes.items():
        full = whole(merged, path)
        box = tuple(sorted(rng.integers(0, size + 1, 2).tolist()) for size in shape)
        [part] = merged.read(path, [tuple(map(tuple, box))])
        # The same sums over the rank, in another order where the slice is narrower.
        np.testing.assert_allclose(part, full[tuple(slice(*extent) for extent in box)], rtol=1e-5, atol=1e-5)


def write_lora(tmp_path):
    tensors, config = golden("user_stream")
    settings = config | {"lora": True, "lora_rank": 2, "lora_name": "lora.safetensors"}
    folder = write(tmp_path / "both", tensors, settings)
    return write(folder, adapters(tensors, rank=2), None, "lora.safetensors")


def test_a_folder_with_base_and_adapters_needs_no_base_option(tmp_path):
    folder = write_lora(tmp_path)
    kept, merged = open_checkpoint(folder, lora="keep"), open_checkpoint(folder)
    assert kept.config.lora == LoRAConfig(2, 2.0)
    assert merged.config.lora is None
    assert merged.provenance["lora_merged"] == {"rank": 2, "scaling": 2.0}


def test_lora_in_the_configuration_without_adapters_means_merged(tmp_path):
    tensors, config = golden("user_stream")
    folder = write(
        tmp_path / "x", tensors, config | {"lora": True, "lora_rank": 128}, "consolidated.safetensors"
    )
    checkpoint = open_checkpoint(folder, lora="keep")
    assert checkpoint.config.lora is None
    assert any("taken as merged" in note for note in checkpoint.notes)


def test_adapters_alone_ask_for_their_base(tmp_path):
    tensors, config = golden("user_stream")
    folder = write(tmp_path / "x", adapters(tensors, rank=2), config, "lora.safetensors")
    with pytest.raises(InputError, match="give it as base"):
        open_checkpoint(folder)
    base = write(tmp_path / "base", tensors, config)
    with pytest.raises(InputError, match="there are none here"):
        open_checkpoint(base, base=base)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16])
@pytest.mark.parametrize("fused", [False, True])
def test_dequantised_layers_are_within_a_unit_of_the_formula(tmp_path, dtype, fused):
    tensors, config = golden("user_stream")
    tensors = cast(tensors, dtype)
    int8 = quantize(tensors)
    given = fuse_with_scales(int8) if fused else int8
    source = write(tmp_path / "q8", given, config | {"quantize": True}, "model.q8.safetensors")
    checkpoint = open_checkpoint(source)
    assert checkpoint.layout == "moshi-q8"
    plain = exported(checkpoint, tmp_path / "plain", "moshi")
    assert plain.keys() == tensors.keys()
    for key, value in plain.items():
        assert value.dtype == dtype
        if not is_linear(key):
            assert value.tobytes() == tensors[key].tobytes()
            continue
        exact = int8[key].astype(np.float64) * int8[f"{key}_scb"][:, None] / 127
        unit = np.spacing(np.abs(exact).astype(np.float32)) * (1 if dtype == np.float32 else 2**16)
        assert np.all(np.abs(value.astype(np.float64) - exact) <= unit), key
    assert "quantize" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def fuse_with_scales(int8):
    scales = {key.removesuffix("_scb"): value[:, None] for key, value in int8.items() if key.endswith("_scb")}
    fused = fuse({key: value for key, value in int8.items() if not key.endswith("_scb")})
    return fused | {f"{key}_scb": value[:, 0] for key, value in fuse(scales).items()}


@functools.partial(jax.jit, static_argnums=3)
def forward(model, codes, oracle, first="initial"):
    return model(codes, oracle, oracle_first=first)


def test_clone_copies_the_text_embedding_and_identity_changes_nothing_without_an_oracle(tmp_path):
    tensors, config = golden("no_positions")
    source = write(tmp_path / "moshi", tensors, config)
    clone = exported(open_checkpoint(source, oracle="clone"), tmp_path / "clone", "kame")
    assert clone["oracle_emb.weight"].tobytes() == tensors["text_emb.weight"].tobytes()
    identity = exported(open_checkpoint(source, oracle="identity"), tmp_path / "identity", "kame")
    expected = tensors["text_emb.weight"].copy()
    expected[[PAD, config["text_card"]]] = 0
    np.testing.assert_array_equal(identity["oracle_emb.weight"], expected)

    codes = jnp.asarray(np.random.default_rng(0).integers(0, 14, (1, 3, 6)), jnp.int32)
    idle = jnp.full((1, 6), PAD, jnp.int32)
    plain = forward(load_checkpoint(source)[1], codes, None)
    kame = forward(load_checkpoint(tmp_path / "identity")[1], codes, idle)
    np.testing.assert_array_equal(plain.text_logits, kame.text_logits)
    np.testing.assert_array_equal(plain.logits, kame.logits)


def test_a_folded_model_equals_the_idle_oracle(tmp_path):
    tensors, config = golden("kame")
    source = write(tmp_path / "kame", tensors, config)
    with pytest.raises(InputError, match="has no oracle embedding"):
        export(open_checkpoint(source), tmp_path / "moshi", "moshi")
    folded = exported(open_checkpoint(source), tmp_path / "moshi", "moshi", fold_oracle=True)
    assert "oracle_emb.weight" not in folded
    expected = tensors["text_emb.weight"] + tensors["oracle_emb.weight"][PAD]
    np.testing.assert_array_equal(folded["text_emb.weight"], expected)

    codes = jnp.asarray(np.random.default_rng(0).integers(0, 20, (2, 17, 8)), jnp.int32)
    idle = jnp.full((2, 8), PAD, jnp.int32)
    moshi = forward(load_checkpoint(tmp_path / "moshi")[1], codes, None)
    kame = forward(load_checkpoint(source)[1], codes, idle, "pad")
    # The same additions; where a compiler orders them otherwise, each is off by U, as every sum in the model is.
    assert distance(kame.text_logits, moshi.text_logits) <= LOGITS


def test_a_tied_oracle_is_written_as_a_copy_and_folds_its_own_row(tmp_path):
    tensors, config = golden("user_stream")
    checkpoint = open_checkpoint(write(tmp_path / "moshi", tensors, config))
    checkpoint = dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, oracle="tie"))
    for layout in ("kame", "finetune"):
        written = exported(checkpoint, tmp_path / layout, layout)
        assert written["oracle_emb.weight"].tobytes() == tensors["text_emb.weight"].tobytes()
    folded = exported(checkpoint, tmp_path / "folded", "moshi", fold_oracle=True)
    np.testing.assert_array_equal(
        folded["text_emb.weight"], tensors["text_emb.weight"] + tensors["text_emb.weight"][PAD]
    )


def test_oracle_options_that_do_not_apply_are_refused(tmp_path):
    tensors, config = golden("kame")
    kame = open_checkpoint(write(tmp_path / "kame", tensors, config))
    with pytest.raises(InputError, match="has an oracle embedding already"):
        add_oracle(kame, "clone")
    with pytest.raises(InputError, match="there is no oracle to fold"):
        export(kame, tmp_path / "x", "kame", fold_oracle=True)
    tensors, config = golden("user_stream")
    moshi = open_checkpoint(write(tmp_path / "moshi", tensors, config))
    with pytest.raises(InputError, match="needs an oracle embedding"):
        export(moshi, tmp_path / "x", "kame")
    with pytest.raises(InputError, match="must be one of clone, identity"):
        add_oracle(moshi, "zero")
    tensors, config = golden("norms")
    with pytest.raises(InputError, match="no identity oracle"):
        open_checkpoint(write(tmp_path / "norms", tensors, config), oracle="identity")
    demuxed = {"text_emb.weight": np.ones((5, 2)), "text_emb.out1.weight": np.ones((2, 2))}
    with pytest.raises(InputError, match=r"cannot be folded into a text embedding with text_emb\.out1"):
        FoldedOracle(ArrayWeights(demuxed), PAD)


def test_part_of_an_oracle_table_is_an_error(tmp_path):
    tensors, config = golden("dev_2b")
    del tensors["oracle_emb.out2.weight"]
    with pytest.raises(InputError) as caught:
        open_checkpoint(write(tmp_path / "x", tensors, config))
    assert caught.value.problems == ("missing: oracle_emb.out2.weight [16, 16]",)
