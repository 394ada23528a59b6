"""Adapters in any place, on any layers, of any rank: added, or refused; never dropped."""

import json
import math

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors as hub_errors
from safetensors.numpy import load_file

from kame_jax.errors import InputError
from kame_jax.interop import open_checkpoint
from kame_jax.interop.export import export
from tests.interop.files import adapters, fuse, golden, is_linear, write

TENSORS, CONFIG = golden("user_stream")
LORA = adapters(TENSORS, rank=3)


def split(folder, tensors, parts=3):
    """The tensors over several files with an index."""
    keys, index = sorted(tensors), {}
    for part in range(parts):
        name = f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        some = keys[part::parts]
        write(folder, {key: tensors[key] for key in some}, None, name)
        index |= dict.fromkeys(some, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def merged(lora, scaling):
    """What the weights must be."""
    out = dict(TENSORS)
    for key in filter(is_linear, TENSORS):
        stem = key.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in lora:
            low, high = (lora[f"{stem}.lora_{side}.weight"] for side in "AB")
            out[key] = TENSORS[key] + np.float32(scaling) * (high @ low)
    return out


def assert_merged(source, tmp_path, lora, scaling, **options):
    checkpoint = open_checkpoint(source, **options)
    export(checkpoint, tmp_path / "merged", "moshi")
    got = load_file(tmp_path / "merged" / "model.safetensors")
    for key, value in merged(lora, scaling).items():
        # A sum of a few products, in another order.
        np.testing.assert_allclose(got[key], value, rtol=1e-5, atol=1e-5, err_msg=key)
    return checkpoint


@pytest.mark.parametrize("named", [{}, {"lora_name": "lora.safetensors"}])
def test_adapters_beside_a_split_base_are_added(tmp_path, named):
    folder = split(tmp_path / "split", TENSORS)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"lora": True, "lora_scaling": 1.5} | named))
    write(folder, LORA, None, "lora.safetensors")
    assert_merged(folder, tmp_path, LORA, 1.5)


def test_a_split_checkpoint_is_read_without_its_index_and_beside_a_whole_one_as_the_configuration_says(
    tmp_path,
):
    folder = split(tmp_path, TENSORS)
    other = {key: value + 1 for key, value in TENSORS.items()}
    write(folder, other, CONFIG, "consolidated.safetensors")
    both = open_checkpoint(folder)
    assert len(both.provenance["files"]) == 3
    assert both.notes == ["the split checkpoint is read, not consolidated.safetensors"]
    (folder / "config.json").write_text(json.dumps(CONFIG | {"moshi_name": "consolidated.safetensors"}))
    assert open_checkpoint(folder).provenance["files"] == ["consolidated.safetensors"]
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors.index.json").rename(folder / "model.index.json.old")
    (folder / "consolidated.safetensors").unlink()
    assert len(open_checkpoint(folder).provenance["files"]) == 3
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match="a split checkpoint of 3 files lacks number 2"):
        open_checkpoint(folder)


BAD_INDICES = {
    "{": "not valid JSON",
    "[]": "expected a JSON object",
    '{"metadata": {}}': "expected a weight_map from tensor names to files",
    '{"weight_map": [1, 2]}': "expected a weight_map from tensor names to files",
    '{"weight_map": {"a": 3}}': "expected a weight_map from tensor names to files",
    '{"weight_map": {}}': "its weight_map is empty",
    '{"weight_map": {"a": "gone.safetensors"}}': r"lists files that are not there: gone\.safetensors",
}


@pytest.mark.parametrize("content", BAD_INDICES)
def test_a_bad_index_is_named(tmp_path, content):
    folder = write(tmp_path, TENSORS, CONFIG, "part.safetensors")
    (folder / "consolidated.safetensors.index.json").write_text(content)
    for spec in (folder, folder / "consolidated.safetensors.index.json"):
        with pytest.raises(
            InputError, match=rf"consolidated\.safetensors\.index\.json: {BAD_INDICES[content]}"
        ):
            open_checkpoint(spec)


def test_named_adapters_that_are_not_there_are_an_error(tmp_path):
    folder = write(tmp_path, TENSORS, CONFIG | {"lora": True, "lora_name": "gone.safetensors"})
    with pytest.raises(InputError, match=r"names the adapters gone\.safetensors, which are not there"):
        open_checkpoint(folder)


@pytest.mark.parametrize("fused", [False, True])
def test_adapters_on_some_layers_and_of_several_ranks_are_filled_up_with_zeros(tmp_path, fused):
    some = {key: value for key, value in LORA.items() if "gating" in key or "out_proj" in key}
    low = {
        key: value[:1] if ".lora_A" in key else value[:, :1]
        for key, value in some.items()
        if "depformer" in key
    }
    given = some | low
    settings = CONFIG | {"lora": True, "lora_scaling": 0.5}
    folder = write(tmp_path / "some", TENSORS, settings)
    write(folder, fuse(given) if fused else given, None, "lora.safetensors")
    checkpoint = assert_merged(folder, tmp_path, given, 0.5)
    layers = sum(map(is_linear, fuse(TENSORS) if fused else TENSORS))
    assert any(f"of {layers} linear layers, of rank 1, 3: padded" in note for note in checkpoint.notes)
    assert open_checkpoint(folder, lora="keep").config.lora.rank == 3


@pytest.mark.parametrize("rslora", [False, True])
def test_adapters_of_peft_are_scaled_by_alpha_over_rank(tmp_path, rslora):
    some = {key: value for key, value in LORA.items() if "linear_in" in key}
    given = {f"base_model.model.{key}": value for key, value in some.items()}
    folder = write(tmp_path / "peft", TENSORS, CONFIG)
    write(folder, given, None, "adapter_model.safetensors")
    facts = {
        "peft_type": "LORA",
        "r": 3,
        "lora_alpha": 12,
        "use_rslora": rslora,
        "bias": "none",
        "alpha_pattern": {},
    }
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    assert_merged(folder, tmp_path, some, 12 / math.sqrt(3) if rslora else 4)
    alone = write(tmp_path / "alone", given, None, "adapter_model.safetensors")
    (alone / "adapter_config.json").write_text(json.dumps(facts | {"use_dora": True, "lora_alpha": 0}))
    with pytest.raises(InputError, match="these adapters are not read") as caught:
        open_checkpoint(alone, base=tmp_path / "peft" / "model.safetensors")
    assert len(caught.value.problems) == 2


def test_half_an_adapter_and_one_of_another_layer_are_refused(tmp_path):
    key = "text_linear.lora_{}.weight"
    half = {name: value for name, value in LORA.items() if name != key.format("B")}
    other = LORA | {key.format("A"): LORA[key.format("A")][:, :-1]}
    uneven = LORA | {key.format("B"): LORA[key.format("B")][:, :1]}
    for given, problem in (
        (half, "missing: text_linear.lora_B"),
        (other, "wrong shape"),
        (uneven, "wrong shape"),
    ):
        folder = write(tmp_path, TENSORS, CONFIG | {"lora": True})
        write(folder, given, None, "lora.safetensors")
        with pytest.raises(InputError) as caught:
            open_checkpoint(folder)
        assert problem in caught.value.problems[0]


def test_adapters_and_split_weights_of_a_repository_are_read(tmp_path, monkeypatch):
    folder = split(tmp_path / "org" / "repo", TENSORS)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"lora": True, "lora_scaling": 1.5}))
    write(folder, LORA, None, "lora.safetensors")

    def download(repo, name, revision=None):
        if not (path := tmp_path / repo / name).is_file():
            raise hub_errors.EntryNotFoundError(f"no {name}")
        return str(path)

    monkeypatch.setattr("kame_jax.hub.check_reachable", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    checkpoint = assert_merged("hf://org/repo", tmp_path, LORA, 1.5)
    assert checkpoint.provenance["files"][-1] == "lora.safetensors"
    settings = {"lora": True, "lora_name": "gone.safetensors"}
    (folder / "config.json").write_text(json.dumps(CONFIG | settings))
    with pytest.raises(InputError, match=r"names the adapters gone\.safetensors"):
        open_checkpoint("hf://org/repo")
