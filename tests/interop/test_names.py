"""Tensors under names that are not the model's own: wrapped, tied away when they were saved, or an optimizer's."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from kame_jax.checkpoint.weights import whole
from kame_jax.errors import InputError
from kame_jax.interop import open_checkpoint
from kame_jax.interop.names import plain
from tests.interop.files import adapters, golden, mimi, write

TENSORS, CONFIG = golden("user_stream")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    weights = open_checkpoint(write(tmp_path_factory.mktemp("plain"), TENSORS, CONFIG)).weights
    return {path: whole(weights, path) for path in weights.shapes}


def inner(key):
    return key.replace("transformer.layers", "transformer._orig_mod.layers")


PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "_fsdp_wrapped_module.",
    "lm.",
    "model.module._orig_mod.",
    "net.lm_model.",
)
WRAPPED = {prefix: lambda key, prefix=prefix: prefix + key for prefix in PREFIXES} | {
    "inside": inner,
    "checkpointed": lambda key: key.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_names_are_read_without_what_wrapped_the_model(tmp_path, expected, name):
    wrapped = {WRAPPED[name](key): value for key, value in TENSORS.items()}
    checkpoint = open_checkpoint(write(tmp_path, wrapped, CONFIG))
    assert any("names are read without" in note for note in checkpoint.notes)
    for path, array in expected.items():
        assert whole(checkpoint.weights, path).tobytes() == array.tobytes()


def test_names_of_the_layouts_are_left_as_they_are():
    for key in [
        *TENSORS,
        *mimi(),
        *adapters(TENSORS, 2),
        "decoder.model.layers.0.mlp.fc1.weight",
        "h.0.attn.weight",
    ]:
        assert plain(key) == ("", key)


def test_two_copies_of_a_model_in_one_file_are_told_apart_and_refused(tmp_path):
    both = {f"{prefix}.{key}": value for prefix in ("model", "ema") for key, value in TENSORS.items()}
    with pytest.raises(InputError, match="no safetensors file of a language model"):
        open_checkpoint(write(tmp_path / "both", both, None))
    twice = TENSORS | {"module.emb.0.weight": TENSORS["emb.0.weight"]}
    with pytest.raises(InputError, match=r"emb\.0\.weight are one tensor of the model twice"):
        open_checkpoint(write(tmp_path / "twice", twice, CONFIG))


@pytest.mark.parametrize("prefix", ["exp_avg.", "grad.", "optimizer.state."])
def test_what_an_optimizer_keeps_is_not_taken_for_weights(tmp_path, prefix):
    kept = {prefix + key: value for key, value in TENSORS.items()}
    folder = write(write(tmp_path, kept, None, "optimizer.safetensors"), TENSORS, CONFIG)
    assert open_checkpoint(folder).provenance["files"] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("alias", "kept"), [("text_emb.weight", "oracle_emb.weight"), ("oracle_emb.weight", "text_emb.weight")]
)
def test_tied_tensors_come_back_whichever_of_them_was_kept(tmp_path, alias, kept):
    tensors = TENSORS | {"oracle_emb.weight": TENSORS["text_emb.weight"]}
    del tensors[alias]
    folder = write(tmp_path, {}, CONFIG, "none.safetensors")
    (folder / "none.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt", alias: kept})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.oracle == "separate"
    for path in ("text_emb.weight", "oracle_emb.weight"):
        np.testing.assert_array_equal(whole(checkpoint.weights, path), TENSORS["text_emb.weight"])
    assert any(re.search(f"{alias} was tied to {kept}", note) for note in checkpoint.notes)
    assert checkpoint.provenance["metadata"] == {"format": "pt"}


def test_parts_that_zero_3_has_not_gathered_are_named(tmp_path):
    empty = {key: value if "norm" in key else value[:0].reshape(0) for key, value in TENSORS.items()}
    with pytest.raises(InputError) as caught:
        open_checkpoint(write(tmp_path, empty, CONFIG))
    assert any("ZeRO-3 has not gathered" in problem for problem in caught.value.problems)
