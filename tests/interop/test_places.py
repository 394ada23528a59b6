"""What a checkpoint names stays inside it, what cannot be read is named, and neither takes time or memory."""

import json
import os
import socket
import struct
import time

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import errors as hub_errors

from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint, load_mimi, open_checkpoint
from kame_jax.interop.beside import find_beside, find_codec, find_tokenizer
from kame_jax.interop.safetensors_file import SafetensorsFile
from kame_jax.model import tree
from kame_jax.oracle.text import load_tokenizer
from tests.interop.files import GOLDEN, golden, mimi, write

TENSORS, CONFIG = golden("user_stream")
CODEC = json.loads((GOLDEN / "mimi" / "config.json").read_text())
TOKENIZER = GOLDEN.parent.parent / "kame_jax" / "assets" / "tiny" / "tokenizer.model"


@pytest.fixture
def folder(tmp_path):
    """A model with its tokenizer and codec, and something secret above it."""
    (tmp_path / "secret").write_text("{}")
    path = write(tmp_path / "model", TENSORS, CONFIG)
    (path / "tokenizer.model").write_bytes(TOKENIZER.read_bytes())
    write(path, mimi(), None, "codec.safetensors")
    (path / "mimi_config.json").write_text(json.dumps(CODEC))
    return path


def configure(folder, **settings):
    (folder / "config.json").write_text(json.dumps(CONFIG | settings))


def test_a_model_takes_its_tokenizer_and_codec_along(folder, tmp_path):
    beside = find_beside(folder, open_checkpoint(folder))
    beside.copy(tmp_path)
    assert beside.sources == {
        "tokenizer": str(folder / "tokenizer.model"),
        "codec": str(folder / "codec.safetensors"),
    }
    assert load_tokenizer(tmp_path / beside.names["tokenizer_name"]).vocab_size() > 0
    assert (
        load_mimi(tmp_path / beside.names["mimi_name"]).config
        == load_mimi(folder / "codec.safetensors").config
    )
    alone = write(tmp_path / "alone", TENSORS, CONFIG)
    missing = find_beside(alone, open_checkpoint(alone)).missing
    assert [text for text in missing if "hf://kyutai/moshiko-pytorch-bf16/" in text] == list(missing)
    assert len(missing) == 2


@pytest.mark.parametrize("key", ["tokenizer_name", "mimi_config_name", "mimi_name", "moshi_name"])
@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "file:///etc/passwd", "a/../../secret", "link", "x\0y"]
)
def test_a_name_that_leads_out_of_the_checkpoint_is_refused(folder, key, name):
    (folder / "link").symlink_to(folder.parent / "secret")
    configure(folder, **{key: name})
    with pytest.raises(InputError, match=r"not a file of this folder|a link that leads out of its folder"):
        find_beside(folder, open_checkpoint(folder))


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "link.safetensors"])
def test_an_index_that_leads_out_of_the_checkpoint_is_refused(folder, name):
    (folder / "link.safetensors").symlink_to(folder.parent / "secret")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"emb.0.weight": name}}))
    for spec in (folder, folder / "model.safetensors.index.json"):
        with pytest.raises(
            InputError, match=r"not a file of this folder|a link that leads out of its folder"
        ):
            open_checkpoint(spec)


def test_links_within_a_checkpoint_and_within_the_hubs_cache_are_followed(folder, tmp_path):
    (folder / "spm").symlink_to("tokenizer.model")
    configure(folder, tokenizer_name="spm")
    assert find_tokenizer(folder).read_bytes() == TOKENIZER.read_bytes()
    cache = tmp_path / "models--org--repo"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    configure(
        folder,
        tokenizer_name="tokenizer.model",
        moshi_name="model.safetensors",
        mimi_name="codec.safetensors",
    )
    for file in folder.iterdir():
        (cache / "blobs" / file.name).write_bytes(file.read_bytes())
        (cache / "snapshots" / "abc" / file.name).symlink_to(f"../../blobs/{file.name}")
    snapshot = cache / "snapshots" / "abc"
    assert len(find_beside(snapshot, open_checkpoint(snapshot)).sources) == 2


def test_only_a_tokenizer_is_copied_as_one(folder):
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.model").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        find_beside(folder, open_checkpoint(folder))


@pytest.mark.parametrize("named", [{}, {"moshi_name": "model.safetensors"}])
def test_a_broken_link_is_not_passed_over_for_the_codec(folder, named):
    configure(folder, **named)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/gone")
    with pytest.raises(InputError, match="a link to ../../blobs/gone, which does not exist"):
        open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"describes a language model, but only the codec is there \(codec"):
        open_checkpoint(folder)
    assert find_codec(folder) == str(folder)


def fifo(path):
    os.mkfifo(path)


def bound(path):
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))


@pytest.mark.parametrize("make", [fifo, bound, os.mkdir])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "mimi_config.json", "tokenizer.model"])
def test_what_is_no_regular_file_is_refused_at_once(folder, monkeypatch, make, name):
    monkeypatch.chdir(folder)  # a socket's path is short
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(InputError, match=f"{name}: is a (named pipe|socket|folder)"):
        find_beside(folder, open_checkpoint(folder))


def test_a_repository_that_names_itself_or_leads_out_is_refused_after_a_few_requests(tmp_path, monkeypatch):
    asked = []

    def download(repo, name, revision=None):
        asked.append(name)
        if not (path := tmp_path / repo / name).is_file():
            raise hub_errors.EntryNotFoundError(f"no {name}")
        return str(path)

    monkeypatch.setattr("kame_jax.hub.check_reachable", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    folder = write(tmp_path / "org" / "repo", TENSORS, CONFIG, "w.safetensors")
    for name in (
        "hf://org/repo",
        "hf://org/repo@main",
        "file:///etc/passwd",
        "../../etc/passwd",
        "/etc/passwd",
    ):
        configure(folder, moshi_name=name)
        with pytest.raises(InputError, match=r"names a repository|not a file of the repository"):
            open_checkpoint("hf://org/repo")
    configure(folder, moshi_name="hf://org/repo/w.safetensors", tokenizer_name="t.model")
    assert open_checkpoint("hf://org/repo").config.dep_q == 16
    (folder / "tokenizer.model").write_bytes(TOKENIZER.read_bytes())
    assert (
        load_tokenizer("hf://org/repo").vocab_size()
        == load_tokenizer("hf://org/repo/tokenizer.model").vocab_size()
    )
    assert len(asked) < 30


def test_a_configuration_is_compared_with_the_tensors_before_anything_is_made_of_it(tmp_path):
    start = time.monotonic()
    # A list of delays bounds n_q and dep_q; a schedule may still ask for any number of weight sets.
    huge = {"num_layers": 10**9, "depformer_num_layers": 10**9, "dim": 10**30, "card": 10**12}
    huge["depformer_weights_per_step_schedule"] = [10**9] * 16
    for key, value in huge.items():
        with pytest.raises(InputError):
            open_checkpoint(write(tmp_path, TENSORS, CONFIG | {key: value}))
    codec = CODEC | {"seanet": CODEC["seanet"] | {"n_residual_layers": 10**9}}
    layers = CODEC | {"transformer": CODEC["transformer"] | {"num_layers": 10**9}}
    books = CODEC | {"quantizer": CODEC["quantizer"] | {"n_q": 10**9}}
    stages = CODEC | {"seanet": CODEC["seanet"] | {"ratios": [1] * 100_000}}
    for config in (codec, layers, books, stages):
        with pytest.raises(InputError):
            open_checkpoint(write(tmp_path / "codec", mimi(), config))
    assert time.monotonic() - start < 30


def test_a_header_of_nothing_but_names_or_dimensions_is_refused_at_once(tmp_path):
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    headers = {
        "not a safetensors file": {f"a{i}": empty for i in range(200_000)},
        "a shape of 300,000 dimensions": {"a": empty | {"shape": [1] * 299_999 + [0]}},
    }
    start = time.monotonic()
    for message, header in headers.items():
        raw = json.dumps(header).encode()
        (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
        with pytest.raises(InputError, match="corrupt safetensors header|not a safetensors file") as caught:
            open_checkpoint(tmp_path / "x.safetensors")
        assert message in str(caught.value)
    many = {f"transformer.layers.{i}.x.weight": empty for i in range(20_000)}
    raw = json.dumps(many).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    with pytest.raises(InputError) as caught:
        open_checkpoint(
            tmp_path / "x.safetensors", config=open_checkpoint(GOLDEN / "lm" / "user_stream").config
        )
    assert "and 19,939 more" in str(caught.value)
    assert str(caught.value).count("\n") < 300
    assert time.monotonic() - start < 30


def test_float8_is_held_in_bfloat16_and_computed_in_float32(tmp_path):
    short = jnp.float8_e4m3fn
    given = {key: np.asarray(value).astype(short) for key, value in TENSORS.items()}
    config, model = load_checkpoint(write(tmp_path / "fp8", given, CONFIG))
    exact = load_checkpoint(
        write(tmp_path / "f32", {key: value.astype(np.float32) for key, value in given.items()}, CONFIG)
    )[1]
    assert model.dtype == jnp.float32
    for path, leaf in tree.leaves(model).items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), tree.leaves(exact)[path])
    codes = jnp.ones((1, config.num_rows, 3), jnp.int32)
    forward = jax.jit(lambda model: model(codes, None).text_logits)
    np.testing.assert_array_equal(forward(model), forward(exact))


def test_a_file_is_closed_when_nothing_refers_to_it(folder):
    file = SafetensorsFile(folder / "model.safetensors")
    number = file._fd
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
