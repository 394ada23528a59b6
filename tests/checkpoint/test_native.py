"""Our own checkpoints: complete or not at all, readable by plain Orbax, and refused clearly when damaged."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from kame_jax.checkpoint.checksum import host_sum, sums
from kame_jax.checkpoint.native import Meta, NativeWeights, json_context, read_meta, save, v1
from kame_jax.checkpoint.weights import ArrayWeights, whole
from kame_jax.config import to_dict
from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint, open_checkpoint
from kame_jax.interop.export import export
from kame_jax.model import tree
from tests.interop.files import GOLDEN, golden, write

SOURCE = GOLDEN / "lm" / "user_stream"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    opened = open_checkpoint(SOURCE)
    path = tmp_path_factory.mktemp("native") / "checkpoint"
    save(path, opened.weights, Meta(opened.config, opened.provenance))
    return path


def test_plain_orbax_reads_params_and_meta(converted):
    items = v1.load_checkpointables(converted, {"params": None, "meta": None})
    expected = tree.leaves(load_checkpoint(SOURCE)[1])
    found = flatten_dict(items["params"], sep=".")
    assert found.keys() == expected.keys()
    for path, array in found.items():
        np.testing.assert_array_equal(array, expected[path])
    assert items["meta"]["format"] == "kame_jax"
    assert items["meta"]["model"] == json.loads(json.dumps(to_dict(open_checkpoint(SOURCE).config)))


def test_a_checkpoint_saved_together_with_training_state_is_read_for_its_params(tmp_path):
    config, model = load_checkpoint(SOURCE)
    params = unflatten_dict(tree.leaves(model), sep=".")
    with json_context():
        v1.save_checkpointables(
            tmp_path / "step", {"params": params, "opt": {"mu": params}, "meta": Meta(config).to_json()}
        )
    again, loaded = load_checkpoint(tmp_path / "step")
    assert again == config
    for path, array in tree.leaves(loaded).items():
        np.testing.assert_array_equal(array, tree.leaves(model)[path])


def test_a_model_without_a_second_codebook_has_an_empty_table_and_still_survives(tmp_path):
    config = open_checkpoint(SOURCE).config
    one = dataclasses.replace(config, n_q=1, dep_q=1, delays=(0, 0))
    shapes = tree.shapes(tree.abstract(one))
    arrays = {path: np.full(shape, 0.5, np.float32) for path, shape in shapes.items()}
    assert shapes["depth.audio_emb.weight"][0] == 0
    save(tmp_path / "one", ArrayWeights(arrays), Meta(one))
    config, model = load_checkpoint(tmp_path / "one")
    assert {path: leaf.shape for path, leaf in tree.leaves(model).items()} == shapes


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
def test_weights_load_in_the_dtype_asked_for_and_conditioners_in_float32(tmp_path, dtype):
    tensors, config = golden("dev_2b")
    halves = {k: v if k.startswith("condition") else v.astype(np.float16) for k, v in tensors.items()}
    source = write(tmp_path / "half", halves, config)
    checkpoint = open_checkpoint(source)
    save(tmp_path / "ours", checkpoint.weights, Meta(checkpoint.config))
    for spec in (source, tmp_path / "ours"):
        model = load_checkpoint(spec, dtype=dtype)[1]
        for path, leaf in tree.leaves(model).items():
            expected = "float32" if path.startswith("conditioners.") else dtype or "float16"
            assert leaf.dtype == expected, path
        assert model.dtype == (dtype or "float16")


def test_reading_regions_of_a_checkpoint_reads_the_array_once(converted):
    weights = NativeWeights(converted, read_meta(converted))
    path = "temporal.layers.attn_in.weight"
    full = whole(weights, path)
    box = tuple((0, max(1, size // 2)) for size in full.shape)
    low, high = weights.read(path, [box, box], np.dtype(np.float16))
    np.testing.assert_array_equal(low, full[tuple(slice(*extent) for extent in box)].astype(np.float16))
    assert low is not high


def test_a_failed_conversion_leaves_nothing_behind(tmp_path):
    opened = open_checkpoint(SOURCE)

    class Failing(ArrayWeights):
        def read(self, path, boxes, dtype=None):
            if path.startswith("temporal"):
                raise OSError("the disk went away")
            return super().read(path, boxes, dtype)

    arrays = {path: whole(opened.weights, path) for path in opened.weights.shapes}
    with pytest.raises(OSError, match="the disk went away"):
        save(tmp_path / "x", Failing(arrays), Meta(opened.config))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(converted, tmp_path):
    opened = open_checkpoint(SOURCE)
    with pytest.raises(InputError, match="exists already"):
        save(converted, opened.weights, Meta(opened.config))
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "file" / "below", opened.weights, Meta(opened.config))


def test_a_changed_bit_in_any_array_is_found_before_anything_is_made_of_it(converted, tmp_path):
    chunks = sorted(p for p in (converted / "params").rglob("*") if p.is_file() and p.parent.name != "params")
    chunks = [p for p in chunks if p.suffix != ".json" and p.stat().st_size]
    assert len(chunks) >= 20
    for number, chunk in enumerate(chunks[::2]):
        copy = tmp_path / str(number)
        shutil.copytree(converted, copy)
        damaged = copy / chunk.relative_to(converted)
        content = bytearray(damaged.read_bytes())
        content[number * 7 % len(content)] ^= 1 << number % 8
        damaged.write_bytes(bytes(content))
        with pytest.raises(InputError, match="damaged checkpoint"):
            load_checkpoint(copy)
        with pytest.raises(InputError, match="damaged checkpoint"):
            export(open_checkpoint(copy), tmp_path / "export", "moshi")
        assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("shape", [(), (0,), (9,), (3, 5, 7), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_the_hosts_sum_is_the_devices(shape, dtype):
    array = np.asarray(np.random.default_rng(0).normal(size=shape)).astype(dtype)
    assert sums([jnp.asarray(array)]) == ([host_sum(array)] if array.size else [])


def test_the_newest_step_is_taken_or_refused_and_never_passed_over(converted, tmp_path):
    for name in ("2", "10", "99999", "-5", "11.tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    for step in ("2", "10"):
        shutil.copytree(converted, tmp_path / "checkpoints" / step, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / "12").symlink_to("12")
    assert open_checkpoint(tmp_path).name.endswith("checkpoints/10")
    for lost in ("params/_METADATA", "meta/data.json"):
        copy = tmp_path / lost.replace("/", ".") / "checkpoints"
        shutil.copytree(tmp_path / "checkpoints", copy, symlinks=True)
        (copy / "10" / lost).unlink()
        with pytest.raises(InputError, match="checkpoints/10"):
            load_checkpoint(copy.parent)


def drop_array(path):
    shutil.rmtree(path / "params" / "text_emb.weight")


def cut_array(path):
    chunk = next(p for p in (path / "params" / "text_emb.weight" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-8])


def break_structure(path):
    (path / "params" / "_METADATA").write_text("{")


def edit_meta(**changes):
    def edit(path):
        file = path / "meta" / "data.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def other_model(path):
    file = path / "meta" / "data.json"
    value = json.loads(file.read_text())
    value["model"]["temporal"]["dim"] = 24
    file.write_text(json.dumps(value))


DAMAGE = {
    "an array is gone": (drop_array, "damaged checkpoint"),
    "an array is cut": (cut_array, "damaged checkpoint"),
    "the structure is unreadable": (break_structure, "damaged checkpoint"),
    "no description": (lambda path: shutil.rmtree(path / "meta"), r"no meta/data\.json"),
    "another program's description": (
        edit_meta(format="other"),
        "not the description of a kame_jax checkpoint",
    ),
    "a newer format": (edit_meta(format_version=99), "format 99 is newer than this program's 1"),
    "an unknown setting": (edit_meta(model={"n_q": 16}), "data.json: model"),
    "the description of another model": (
        other_model,
        r"wrong shape: audio_emb\.weight is \[16, 11, 12\], expected",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_one_clear_error(converted, tmp_path, name):
    damage, message = DAMAGE[name]
    copy = tmp_path / "copy"
    shutil.copytree(converted, copy)
    damage(copy)
    with pytest.raises(InputError, match=message):
        load_checkpoint(copy)
