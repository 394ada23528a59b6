"""Finding a checkpoint: files, folders, repositories; its configuration; and one clear line when that fails."""

import json
import pickle
import shutil

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors as hub_errors
from safetensors.numpy import save_file

from kame_jax.config import load_model
from kame_jax.errors import InputError
from kame_jax.interop import lm_tables, load_checkpoint, open_checkpoint
from kame_jax.interop.layouts import detect
from kame_jax.interop.table import expand
from kame_jax.model import tree
from tests.interop.files import GOLDEN, adapters, expose, fuse, golden, mimi, quantize, write


def test_layouts_are_told_by_keys_and_not_by_names(tmp_path):
    moshi, _ = golden("user_stream")
    kame, _ = golden("kame")
    found = {
        "moshi-fused": fuse(moshi),
        "moshi": moshi,
        "kame": kame,
        "finetune": expose(kame),
        "lora": adapters(moshi, 2),
        "moshi-q8": quantize(moshi),
        "mimi-fused": mimi(),
        "huggingface": ["decoder.model.layers.0.mlp.fc1.weight"],
        "mlx": ["depformer.slices.0.linear_in.weight", "text_emb.weight"],
        "candle": ["depformer.0.linear_in.weight", "transformer.layers.0.norm1.alpha"],
        None: ["model.embed_tokens.weight"],
    }
    for layout, keys in found.items():
        assert detect(keys) == layout


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ["decoder.model.layers.0.mlp.fc1.weight"],
            "this is Moshi of Hugging Face transformers .* not read; readable",
        ),
        (["audio_embs.0.weight"], "this is moshi_mlx"),
        (["h.0.attn.weight"], r"no known layout \(it has h\.0\.attn\.weight\)"),
        ([], "no tensor at all"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path, keys, message):
    path = tmp_path / "model.safetensors"
    save_file({key: np.zeros(1, np.float32) for key in keys}, path)
    with pytest.raises(InputError, match=message):
        open_checkpoint(path)


def test_a_folder_is_searched_for_the_model_the_codec_and_adapters(tmp_path):
    tensors, config = golden("user_stream")
    folder = write(tmp_path / "a", tensors, config | {"moshi_name": "b.safetensors"}, "b.safetensors")
    write(folder, mimi(), None, "codec.safetensors")
    assert open_checkpoint(folder).provenance["files"] == ["b.safetensors"]
    write(folder, tensors, None, "c.safetensors")
    assert open_checkpoint(folder).provenance["files"] == ["b.safetensors"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"several files of weights \(b\.safetensors, c\.safetensors\): name one"
    ):
        open_checkpoint(folder)


def test_a_split_checkpoint_is_read_through_its_index(tmp_path):
    tensors, config = golden("user_stream")
    folder = tmp_path / "split"
    keys = sorted(tensors)
    parts = {"one.safetensors": keys[::2], "two.safetensors": keys[1::2]}
    for name, some in parts.items():
        write(folder, {key: tensors[key] for key in some}, config, name)
    index = {"weight_map": {key: name for name, some in parts.items() for key in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = tree.leaves(load_checkpoint(GOLDEN / "lm" / "user_stream")[1])
    for path, array in tree.leaves(load_checkpoint(folder)[1]).items():
        np.testing.assert_array_equal(array, whole[path])


def test_the_configuration_may_lie_beside_be_given_or_follow_from_the_sizes(tmp_path):
    tensors, config = golden("user_stream")
    beside = open_checkpoint(write(tmp_path / "beside", tensors, config)).config
    bare = write(tmp_path / "bare", tensors) / "model.safetensors"
    given = tmp_path / "given.json"
    given.write_text(json.dumps(config))
    assert open_checkpoint(bare, config=given).config == open_checkpoint(bare, config=beside).config == beside
    (tmp_path / "lm" / "x").mkdir(parents=True)
    kept = write(tmp_path / "kwargs", tensors)
    (kept / "moshi_lm_kwargs.json").write_text(json.dumps(config))
    assert open_checkpoint(kept / "model.safetensors").config == beside
    with pytest.raises(InputError, match="dim 12, 1 layers, n_q 16, dep_q 16.*give a config"):
        open_checkpoint(bare)


def test_a_file_alone_takes_the_ready_configuration_of_its_sizes(tmp_path):
    ready = load_model("moshi_test_asset")
    model = tree.abstract(ready)
    slots = expand(lm_tables.written(ready, "moshi-fused"), tree.shapes(model))
    tensors = {key: np.zeros(slot.shape, np.float32) for key, slot in slots.items()}
    checkpoint = open_checkpoint(write(tmp_path / "x", tensors))
    assert checkpoint.config == ready
    assert checkpoint.notes == ["configuration taken from the ready one with these sizes: moshi_test_asset"]
    overlaid = open_checkpoint(
        write(tmp_path / "y", tensors, {"model_type": "moshi", "delays": [0, 2, 2, 2]})
    )
    assert overlaid.config.delays == (0, 2, 2, 2)


def test_hidden_widths_are_those_of_the_tensors(tmp_path):
    tensors, config = golden("user_stream")
    assert open_checkpoint(write(tmp_path / "x", tensors, config | {"hidden_scale": 3.5})).config == (
        open_checkpoint(write(tmp_path / "y", tensors, config)).config
    )


def pickled(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": 1}))


def broken_config(folder):
    write(folder, *golden("user_stream"))
    (folder / "config.json").write_text("{")


def list_config(folder):
    write(folder, *golden("user_stream"))
    (folder / "config.json").write_text("[]")


def truncated(folder):
    path = write(folder, *golden("user_stream")) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


BAD_FOLDERS = {
    "empty": (lambda folder: None, "no safetensors file of a language model, and no checkpoint of ours"),
    "only pickles": (pickled, r"only pickles \(pytorch_model\.bin\).*weights_only=True"),
    "broken config": (broken_config, r"config\.json: not valid JSON"),
    "list as config": (list_config, r"config\.json: expected a JSON object"),
    "truncated": (truncated, r"model\.safetensors: truncated"),
    "half a checkpoint of ours": (lambda folder: (folder / "params").mkdir(), "no safetensors file"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_folder_is_one_clear_error(tmp_path, name):
    make, message = BAD_FOLDERS[name]
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path)


def test_nothing_there_is_said():
    with pytest.raises(InputError, match="no such file or folder"):
        open_checkpoint("nowhere/at/all")


class FakeHub:
    """Repositories as folders; records what is asked for."""

    def __init__(self, root):
        self.root, self.asked = root, []

    def download(self, repo, name, revision=None):
        self.asked.append((repo, name, revision))
        if not (self.root / repo).is_dir():
            raise OSError("404: no such repository")  # what the hub's own error is, too
        path = self.root / repo / name
        if not path.is_file():
            raise hub_errors.EntryNotFoundError(f"no {name}")
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    monkeypatch.setattr("kame_jax.hub.check_reachable", lambda: None)
    return fake


def test_without_a_network_a_repository_is_refused_at_once(monkeypatch):
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **options: pytest.fail("was tried"))
    with pytest.raises(InputError, match=r"config\.json cannot be fetched: 127\.0\.0\.1 cannot be reached"):
        open_checkpoint("hf://org/repo")


def test_a_repository_gives_its_model_at_a_revision(tmp_path, hub):
    tensors, config = golden("user_stream")
    write(hub.root / "org" / "repo", tensors, config | {"moshi_name": "m.safetensors"}, "m.safetensors")
    config, _ = load_checkpoint("hf://org/repo@v1.0")
    assert config.dep_q == 16
    assert hub.asked == [("org/repo", "config.json", "v1.0"), ("org/repo", "m.safetensors", "v1.0")]


def test_a_repository_without_configuration_is_looked_through(hub):
    shutil.copytree(GOLDEN / "lm" / "user_stream", hub.root / "org" / "repo")
    (hub.root / "org" / "repo" / "config.json").rename(hub.root / "org" / "repo" / "moshi_lm_kwargs.json")
    assert open_checkpoint("hf://org/repo").config.dep_q == 16
    (hub.root / "org" / "repo" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"the repository has no model\.safetensors or consolidated"):
        open_checkpoint("hf://org/repo")


def test_a_configuration_may_point_to_a_file_of_another_repository(hub):
    tensors, config = golden("user_stream")
    write(hub.root / "org" / "weights", tensors, None, "w.safetensors")
    write(
        hub.root / "org" / "adapted",
        {},
        config | {"moshi_name": "hf://org/weights/w.safetensors"},
        "none.safetensors",
    )
    assert open_checkpoint("hf://org/adapted").config.dep_q == 16


def test_adapters_and_base_from_one_repository(hub):
    tensors, config = golden("user_stream")
    settings = config | {"lora": True, "lora_rank": 2, "lora_name": "l.safetensors"}
    write(hub.root / "org" / "repo", tensors, settings)
    write(hub.root / "org" / "repo", adapters(tensors, 2), None, "l.safetensors")
    assert open_checkpoint("hf://org/repo", lora="keep").config.lora.rank == 2


def test_what_the_hub_cannot_do_is_one_line(hub, monkeypatch):
    with pytest.raises(InputError, match="cannot be fetched: 404: no such repository"):
        open_checkpoint("hf://org/missing")
    with pytest.raises(InputError, match="expected hf://org/repo"):
        open_checkpoint("hf://repo")

    def offline(*args, **kwargs):
        raise hub_errors.LocalEntryNotFoundError("not cached\nand no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(
        InputError, match="not in the cache and the hub cannot be reached: not cached and no network"
    ):
        open_checkpoint("hf://org/repo")
