"""Mimi's files: both attention spellings, older names, Hugging Face's form; moving averages kept for the way back."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kame_jax.checkpoint.native import Meta, save
from kame_jax.config import MimiConfig
from kame_jax.errors import InputError
from kame_jax.interop import load_mimi, mimi_kwargs, open_checkpoint
from kame_jax.interop.export import export
from kame_jax.interop.layouts import MIMI_LAYOUTS
from kame_jax.model import tree
from tests.interop.files import GOLDEN, assert_same_bytes, cast, mimi, write

CONFIG = json.loads((GOLDEN / "mimi" / "config.json").read_text())
ALIASES = [("_initialized", "inited"), ("cluster_usage", "cluster_size"), ("embedding_sum", "embed_avg")]


def split(tensors):
    """The current attention names."""
    renames = [
        ("self_attn.in_proj_weight", "self_attn.in_projs.0.weight"),
        ("out_proj.weight", "out_projs.0.weight"),
    ]
    return {rename(key, renames): value for key, value in tensors.items()}


def rename(key, renames):
    for old, new in renames:
        key = key.replace(old, new)
    return key


def huggingface(tensors):
    """The renames of transformers' own converter, in its order."""
    renames = [
        ("conv.conv.conv", "conv"), ("convtr.convtr.convtr", "conv"), ("conv.conv", "conv"), ("convtr.convtr", "conv"),
        ("quantizer.rvq_first.vq", "quantizer.semantic_residual_vector_quantizer"),
        ("quantizer.rvq_first", "quantizer.semantic_residual_vector_quantizer"),
        ("quantizer.rvq_rest.vq", "quantizer.acoustic_residual_vector_quantizer"),
        ("quantizer.rvq_rest", "quantizer.acoustic_residual_vector_quantizer"),
        ("_codebook", "codebook"), ("_initialized", "initialized"), ("embedding_sum", "embed_sum"),
        ("encoder.model", "encoder.layers"), ("decoder.model", "decoder.layers"),
        ("encoder_transformer.transformer", "encoder_transformer"),
        ("decoder_transformer.transformer", "decoder_transformer"),
        ("linear1", "mlp.fc1"), ("linear2", "mlp.fc2"), ("self_attn.out_proj", "self_attn.o_proj"),
        ("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm"),
        ("layer_scale_1", "self_attn_layer_scale"), ("layer_scale_2", "mlp_layer_scale"),
    ]  # fmt: skip
    out = {}
    for key, value in tensors.items():
        key = rename(key, renames)
        if "in_proj_weight" not in key:
            out[key] = value
            continue
        heads = CONFIG["transformer"]["num_heads"]
        for name, rows in zip("qkv", np.split(value, 3), strict=True):
            if name != "v":
                pairs = rows.reshape(heads, len(rows) // heads // 2, 2, -1)
                rows = pairs.swapaxes(1, 2).reshape(rows.shape)
            out[key.replace("in_proj_weight", f"{name}_proj.weight")] = rows
    return out


def in_memory(tensors):
    """Names of a `state_dict()` of transformers 5."""
    renames = [
        ("encoder.layers.", "encoder.encoder_seanet.layers."), ("decoder.layers.", "decoder.decoder_seanet.layers."),
        ("encoder_transformer.", "encoder.encoder_transformer."),
        ("decoder_transformer.", "decoder.decoder_transformer."),
        ("downsample.", "encoder.downsample."), ("upsample.", "decoder.upsample."),
    ]  # fmt: skip
    out = {}
    for key, value in huggingface(tensors).items():
        out[next((new + key.removeprefix(old) for old, new in renames if key.startswith(old)), key)] = value
    return out


def exported(checkpoint, folder, layout):
    files = export(checkpoint, folder, layout)
    return load_file(next(path for path in files if path.suffix == ".safetensors"))


FORMS = {
    "mimi-fused": mimi(),
    "mimi": split(mimi()),
    "mimi-hf": huggingface(mimi()),
}


@pytest.mark.parametrize("layout", MIMI_LAYOUTS)
def test_every_form_turns_into_every_other_byte_for_byte(tmp_path, layout):
    source = write(tmp_path / "source", FORMS[layout])
    (source / "mimi_config.json").write_text(json.dumps(CONFIG))
    opened = open_checkpoint(source)
    assert opened.layout == layout
    for target in MIMI_LAYOUTS:
        assert_same_bytes(exported(opened, tmp_path / target, target), FORMS[target])


def test_through_our_own_checkpoint_the_codec_comes_back_byte_for_byte(tmp_path):
    opened = open_checkpoint(GOLDEN / "mimi")
    save(tmp_path / "ours", opened.weights, Meta(opened.config, opened.provenance))
    ours = open_checkpoint(tmp_path / "ours")
    assert_same_bytes(exported(ours, tmp_path / "back", "mimi-fused"), mimi())


@pytest.mark.parametrize("old", [True, False])
def test_names_of_older_files_and_of_modules_in_memory_are_read(tmp_path, old):
    if old:
        tensors = {rename(key, ALIASES): value for key, value in mimi().items()}
    else:
        tensors = in_memory(mimi())
    source = write(tmp_path / "source", tensors, CONFIG)
    plain = tree.leaves(load_mimi(GOLDEN / "mimi"))
    for path, array in tree.leaves(load_mimi(source)).items():
        np.testing.assert_array_equal(array, plain[path], err_msg=path)


def test_a_codec_in_a_short_dtype_computes_in_float32_and_is_written_as_it_was(tmp_path):
    tensors = cast(mimi(), np.dtype(np.float16))
    source = write(tmp_path / "source", tensors, CONFIG)
    assert all(leaf.dtype == np.float32 for leaf in tree.leaves(load_mimi(source)).values())
    assert_same_bytes(exported(open_checkpoint(source), tmp_path / "back", "mimi-fused"), tensors)


def test_the_codec_is_found_beside_a_model_and_by_name(tmp_path):
    folder = write(
        tmp_path / "both",
        mimi(),
        {"mimi_name": "codec.safetensors", "mimi_config_name": "c.json"},
        "codec.safetensors",
    )
    (folder / "c.json").write_text(json.dumps(CONFIG))
    model = load_file(GOLDEN / "lm" / "no_positions" / "model.safetensors")
    save_file(model, folder / "model.safetensors")
    assert load_mimi(folder).config == load_mimi(folder / "codec.safetensors").config
    with pytest.raises(InputError, match="this is a language model, expected the codec"):
        load_mimi(GOLDEN / "lm" / "no_positions" / "model.safetensors")


def test_the_released_configuration_is_the_default_and_survives_both_ways():
    released = mimi_kwargs.to_kwargs(MimiConfig())
    assert mimi_kwargs.from_kwargs(released, "released") == MimiConfig()
    assert mimi_kwargs.to_kwargs(mimi_kwargs.from_kwargs(CONFIG, "tiny")) == CONFIG


def test_options_of_other_codecs_are_named(tmp_path):
    odd = CONFIG | {
        "seanet": CONFIG["seanet"] | {"norm": "weight_norm", "pad_mode": "reflect"},
        "quantizer": None,
    }
    with pytest.raises(InputError) as caught:
        mimi_kwargs.from_kwargs(odd, "odd.json")
    assert caught.value.problems == (
        "seanet.norm 'weight_norm' is not supported, only 'none'",
        "seanet.pad_mode 'reflect' is not supported, only 'constant'",
        "quantizer: missing",
    )


@pytest.mark.parametrize("form", FORMS)
def test_an_encoder_alone_encodes_and_says_that_it_does_not_decode(tmp_path, form, caplog):
    whole = load_mimi(GOLDEN / "mimi")
    left = ("decoder", "upsample")
    half = {k: v for k, v in FORMS[form].items() if not k.startswith(left) and "output_proj" not in k}
    source = write(tmp_path / "half", half, None)
    (source / "mimi_config.json").write_text(json.dumps(CONFIG))
    found = tree.leaves(load_mimi(source))
    assert "without the decoder" in caplog.text
    for path, array in tree.leaves(whole).items():
        if not path.startswith(("decoder", "upsample")) and "output_proj" not in path:
            np.testing.assert_array_equal(found[path], array)
    assert np.isnan(found["decoder.first.weight"]).all()
    opened = open_checkpoint(source)
    with pytest.raises(InputError, match="holds all of a model"):
        save(tmp_path / "ours", opened.weights, Meta(opened.config))


def test_a_damaged_codec_lists_what_is_missing(tmp_path):
    tensors = mimi()
    del tensors["quantizer.rvq_rest.vq.layers.3._codebook.cluster_usage"]
    with pytest.raises(InputError) as caught:
        load_mimi(write(tmp_path / "x", tensors, CONFIG))
    assert caught.value.problems == ("missing: quantizer.rvq_rest.vq.layers.3._codebook.cluster_usage [48]",)
