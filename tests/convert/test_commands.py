"""The converter commands: what they promise to people and scripts."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert import inspect, to_jax, to_torch, verify
from kame_jax.config import load_model
from kame_jax.errors import InputError, WorkError
from kame_jax.files import building, settle
from kame_jax.interop import load_checkpoint, load_mimi, open_checkpoint
from kame_jax.interop.beside import find_codec, find_tokenizer
from tests.interop.files import BFLOAT16, GOLDEN, adapters, assert_same_bytes, cast, golden, mimi, write

ROOT = Path(__file__).parent.parent.parent
RELEASED = Path(__file__).parent / "released"
ASSETS = ROOT / "kame_jax" / "assets" / "tiny"
BESIDE = {"tokenizer": "tokenizer.model", "codec": "mimi.safetensors"}


def run(capsys, command, *args):
    """Exit status, the JSON result (if any), and what was said on stderr."""
    status = command.main([*map(str, args), "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]) if out else None, err


def test_there_and_back_again(tmp_path, capsys):
    tensors, config = golden("kame")
    source = write(tmp_path / "source", cast(tensors, BFLOAT16), config)
    status, result, _ = run(capsys, to_jax, source, tmp_path / "ours")
    assert status == 0
    assert result["layout"] == "kame"
    assert result["parameters"] == sum(value.size for value in tensors.values())
    status, result, _ = run(capsys, to_torch, tmp_path / "ours", tmp_path / "back", "--layout", "kame")
    assert status == 0
    assert result["files"] == ["config.json", "model.safetensors"]
    assert_same_bytes(load_file(tmp_path / "back" / "model.safetensors"), cast(tensors, BFLOAT16))


def test_options_reach_the_conversion(tmp_path, capsys):
    tensors, config = golden("user_stream")
    base = write(tmp_path / "base", tensors, config)
    lora = write(tmp_path / "lora", adapters(tensors, 2), config | {"lora": True}, "lora.safetensors")
    options = ("--base", base, "--lora", "keep", "--oracle", "identity")
    assert run(capsys, to_jax, lora, tmp_path / "ours", *options)[0] == 0
    ours = open_checkpoint(tmp_path / "ours", lora="keep")
    assert ours.config.lora.rank == 2
    assert ours.config.oracle == "separate"
    options = ("--layout", "moshi-fused", "--fold-oracle", "--dtype", "bfloat16")
    assert run(capsys, to_torch, tmp_path / "ours", tmp_path / "back", *options)[0] == 0
    written = load_file(tmp_path / "back" / "model.safetensors")
    assert "transformer.layers.0.self_attn.in_proj_weight" in written
    assert {value.dtype for value in written.values()} == {BFLOAT16}


def test_the_tokenizer_and_the_codec_go_along_and_are_found_there(tmp_path, capsys):
    status, result, err = run(capsys, to_jax, ASSETS, tmp_path / "ours")
    assert status == 0
    assert result["carried"] == {what: str(ASSETS / name) for what, name in BESIDE.items()}
    assert "tokenizer copied from" in err
    status, result, _ = run(capsys, to_torch, tmp_path / "ours", tmp_path / "back", "--layout", "kame")
    assert status == 0
    assert result["missing"] == []
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert [config[key] for key in ("tokenizer_name", "mimi_name")] == [
        "tokenizer.model",
        "tokenizer-e351c8d8-checkpoint125.safetensors",
    ]
    for place in (tmp_path / "ours", tmp_path / "back"):
        assert find_tokenizer(place).read_bytes() == (ASSETS / "tokenizer.model").read_bytes()
        assert load_mimi(find_codec(place)).config == load_mimi(ASSETS / "mimi.safetensors").config


def test_a_number_too_large_for_the_dtype_is_refused(tmp_path, capsys):
    tensors, config = golden("user_stream")
    tensors["text_linear.weight"][0, 0] = 1e5
    source = write(tmp_path / "source", tensors, config)
    options = ("--layout", "moshi", "--dtype", "float16")
    status, _, err = run(capsys, to_torch, source, tmp_path / "x", *options)
    assert status == 2
    assert "text_linear.weight: a weight of 100000 is too large for float16" in err
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="text_head.weight has numbers beyond float16"):
        load_checkpoint(source, dtype="float16")


def test_tensors_of_zeros_and_numbers_that_are_none_are_told(tmp_path, capsys):
    tensors, config = golden("user_stream")
    tensors["linears.3.weight"][:] = 0
    tensors["emb.1.weight"][2] = np.nan
    source = write(tmp_path / "source", tensors, config)
    report = run(capsys, inspect, source)[1]
    assert "nothing but zeros in linears.3.weight" in report["surprises"]
    assert "numbers that are infinite or NaN in emb.1.weight" in report["surprises"]
    assert run(capsys, inspect, source, "--headers")[1]["surprises"] == []
    result = run(capsys, to_jax, source, tmp_path / "ours")[1]
    assert result["notes"] == ["nothing but zeros in linears.3.weight"]


def test_what_a_file_says_does_not_reach_the_terminal_as_a_command(tmp_path, capsys):
    tensors, config = golden("user_stream")
    source = write(tmp_path, {}, config, "x.safetensors")
    (source / "x.safetensors").unlink()
    save_file(tensors, source / "model.safetensors", {"producer": "\x1b[2J\x9bred\u202e"})
    assert inspect.main([str(source)]) == 0
    assert "\\x1b[2J\\x9bred\\u202e" in capsys.readouterr().out
    save_file({"\x1b[31m": np.ones(1, np.float32)}, source / "model.safetensors")
    assert inspect.main([str(source / "model.safetensors")]) == 0
    assert to_jax.main([str(source / "model.safetensors"), str(tmp_path / "y")]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err


def test_a_full_disk_is_one_line_however_deep_it_was_met(tmp_path):
    wrapped = (
        "RESOURCE_EXHAUSTED: Error writing local file \"/a/b\": No space left on device [os_error_code='28']"
    )
    with (
        pytest.raises(WorkError, match=r"ours: cannot be written: No space left on device$"),
        building(tmp_path / "ours"),
    ):
        raise ValueError(wrapped)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_conversion_leaves_nothing_that_the_next_does_not_remove(tmp_path, capsys):
    source = GOLDEN / "lm" / "user_stream"
    left = tmp_path / ".ours.0123abcd.part"
    (left / "params").mkdir(parents=True)
    assert run(capsys, to_jax, source, tmp_path / "ours")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    with building(tmp_path / "other"):
        status, _, err = run(capsys, to_jax, source, tmp_path / "other")
    assert (status, err.splitlines()[-1]) == (2, f"kame-jax: {tmp_path}/other: another process is making it")
    with building(tmp_path / "late", alone=True) as scratch:
        (scratch / "inside").mkdir()
        write(tmp_path / "late", {}, {})
        with pytest.raises(InputError, match="made by another process in the meantime"):
            settle(scratch / "inside", tmp_path / "late")


def test_mimi_goes_there_and_back(tmp_path, capsys):
    assert run(capsys, to_jax, GOLDEN / "mimi", tmp_path / "ours")[0] == 0
    status, result, _ = run(capsys, to_torch, tmp_path / "ours", tmp_path / "back", "--layout", "mimi-fused")
    assert status == 0
    assert result["files"] == ["mimi_config.json", "tokenizer-e351c8d8-checkpoint125.safetensors"]
    assert_same_bytes(load_file(tmp_path / "back" / result["files"][1]), mimi())


def test_inspect_tells_what_a_file_is(tmp_path, capsys):
    tensors, config = golden("kame")
    source = write(tmp_path / "source", tensors, config)
    status, report, _ = run(capsys, inspect, source)
    assert status == 0
    assert (report["layout"], report["readable"], report["tensors"]) == ("kame", True, len(tensors))
    assert report["parameters"] == sum(report["parameters_by_group"].values())
    assert report["parameters_by_group"]["oracle embedding"] == tensors["oracle_emb.weight"].size
    assert report["parameters_by_dtype"] == {"float32": report["parameters"]}
    assert report["model"]["oracle"] == "separate"
    run(capsys, to_jax, source, tmp_path / "ours")
    ours = run(capsys, inspect, tmp_path / "ours")[1]
    assert ours["layout"] == "kame_jax"
    assert ours["parameters_by_group"] == report["parameters_by_group"]
    assert inspect.main([str(source)]) == 0
    assert "oracle embedding" in capsys.readouterr().out


def test_inspect_describes_what_cannot_be_read(tmp_path, capsys):
    tensors, config = golden("user_stream")
    lora = write(tmp_path / "lora", adapters(tensors, 2), config, "lora.safetensors")
    status, report, _ = run(capsys, inspect, lora)
    assert (status, report["layout"], report["readable"]) == (0, "lora", False)
    assert report["parameters_by_group"].keys() == {"LoRA adapters"}
    assert any("give it as base" in surprise for surprise in report["surprises"])
    write(tmp_path / "hf", {"decoder.model.layers.0.mlp.fc1.weight": np.ones((2, 2), np.float32)})
    status, report, _ = run(capsys, inspect, tmp_path / "hf" / "model.safetensors")
    assert (status, report["layout"], report["readable"]) == (0, "huggingface", False)
    del tensors["linears.3.weight"]
    status, report, _ = run(capsys, inspect, write(tmp_path / "damaged", tensors, config))
    assert status == 0
    assert "missing: linears.3.weight [10, 12]" in report["surprises"]


def test_the_released_assets_pass_as_they_are(capsys):
    status, result, err = run(
        capsys, verify, RELEASED / "test_lm_model.safetensors", RELEASED / "test_lm_out.safetensors"
    )
    assert status == 0
    assert result["ok"]
    assert [head["name"] for head in result["heads"]] == ["text", "audio 0", "audio 1", "audio 2"]
    assert all(head["max_error"] < 1e-6 and head["same_argmax"] == 1 for head in result["heads"])
    assert "moshi_test_asset" in err
    config = load_model("moshi_test_asset")
    assert open_checkpoint(RELEASED / "test_lm_model.safetensors").config == config


def test_golden_outputs_pass_with_and_without_an_oracle(tmp_path, capsys):
    case = GOLDEN / "lm" / "kame"
    outputs = load_file(case / "forward.safetensors")
    plain = {name: outputs[f"{name}_no_oracle"] for name in ("text_logits", "logits", "text_mask", "mask")}
    save_file(plain | {"codes": outputs["codes"]}, tmp_path / "plain.safetensors")
    for reference in (case / "forward.safetensors", tmp_path / "plain.safetensors"):
        status, result, _ = run(capsys, verify, case, reference)
        assert status == 0
        assert len(result["heads"]) == 9


def test_wrong_logits_fail_with_status_1(tmp_path, capsys):
    reference = load_file(RELEASED / "test_lm_out.safetensors") | load_file(
        RELEASED / "test_lm_codes.safetensors"
    )
    reference["logits"][:, 1] += 1e-3
    reference["mask"][0, 2, 0] ^= True
    save_file(reference, tmp_path / "reference.safetensors")
    status, result, _ = run(
        capsys, verify, RELEASED / "test_lm_model.safetensors", tmp_path / "reference.safetensors"
    )
    assert status == 1
    assert [head["name"] for head in result["heads"] if not head["ok"]] == ["audio 1", "audio 2"]
    assert (
        verify.main([str(RELEASED / "test_lm_model.safetensors"), str(tmp_path / "reference.safetensors")])
        == 1
    )
    assert "FAILED: other positions count" in capsys.readouterr().out
    loose = run(
        capsys,
        verify,
        RELEASED / "test_lm_model.safetensors",
        tmp_path / "reference.safetensors",
        "--atol",
        "0.01",
    )
    assert [head["ok"] for head in loose[1]["heads"]] == [True, True, True, False]


def nothing(folder):
    return folder / "none"


def pickled(folder):
    path = folder / "model.pt"
    path.write_bytes(pickle.dumps({"w": 1}))
    return path


def truncated(folder):
    path = write(folder / "cut", *golden("user_stream")) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return path


def incomplete(folder):
    tensors, config = golden("user_stream")
    del tensors["text_emb.weight"]
    return write(folder / "incomplete", tensors, config)


def foreign(folder):
    return write(folder / "foreign", {"h.0.attn.weight": np.ones(2, np.float32)}) / "model.safetensors"


BAD_SOURCES = {
    nothing: "no such file or folder",
    pickled: "pickle.*only safetensors is read|Only safetensors is read",
    truncated: "truncated",
    incomplete: r"missing: text_emb\.weight \[17, 12\]",
    foreign: "no known layout",
}


@pytest.mark.parametrize("make", BAD_SOURCES)
@pytest.mark.parametrize("command", [to_jax, to_torch])
def test_bad_input_is_status_2_one_clear_error_and_nothing_written(tmp_path, capsys, make, command):
    source = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    options = ["--layout", "moshi"] if command is to_torch else []
    status, result, err = run(capsys, command, source, tmp_path / "dest", *options)
    assert status == 2
    assert result is None
    assert re.search(BAD_SOURCES[make], err)
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_usage_is_status_2(tmp_path, capsys):
    assert to_torch.main([str(tmp_path), str(tmp_path / "x")]) == 2
    assert "--layout" in capsys.readouterr().err
    assert to_jax.main([str(GOLDEN / "lm" / "kame"), str(GOLDEN)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert to_torch.main([str(GOLDEN / "lm" / "kame"), str(tmp_path / "x"), "--layout", "moshi"]) == 2
    assert "fold" in capsys.readouterr().err
    assert (
        verify.main(
            [str(RELEASED / "test_lm_model.safetensors"), str(RELEASED / "test_lm_codes.safetensors")]
        )
        == 2
    )
    assert "needs codes and text_logits or logits" in capsys.readouterr().err


def test_failing_at_work_is_status_1(tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kame_jax.checkpoint.native.whole", full)
    status, _, err = run(capsys, to_jax, GOLDEN / "lm" / "user_stream", tmp_path / "x")
    assert status == 1
    assert "No space left on device" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["to_jax", "to_torch", "inspect", "verify"])
def test_each_command_runs_as_a_script_from_anywhere(tmp_path, name):
    """The folder holds an `inspect.py`; as a script's own folder it would hide Python's."""
    script = ROOT / "convert" / f"{name}.py"
    result = subprocess.run(
        [sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "--json" in result.stdout
