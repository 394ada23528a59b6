"""`kame-jax codec encode | decode` on a tiny Mimi."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from kame_jax.cli.main import main

GOLDEN = Path(__file__).parents[1] / "golden" / "mimi"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "outputs.safetensors")


def run(*args):
    return main(["codec", *map(str, args), "--codec", str(GOLDEN)])


def test_sound_to_codes_and_back_whole_and_frame_by_frame(tmp_path, golden, capsys):
    stereo = golden["audio"].astype(np.float32).T
    soundfile.write(tmp_path / "in.wav", stereo, 24000, subtype="FLOAT")
    assert run("encode", tmp_path / "in.wav", tmp_path / "a.npz", "--channel", "left", "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["codebooks"], result["frames"]) == (8, 12)
    assert run("encode", tmp_path / "in.wav", tmp_path / "b.npz", "--channel", "0", "--streaming") == 0
    for name in ("a", "b"):
        codes = np.load(tmp_path / f"{name}.npz")["user_audio"]
        assert codes.dtype == np.int32
        np.testing.assert_array_equal(codes, golden["codes"][0])

    assert run("decode", tmp_path / "a.npz", tmp_path / "a.wav", "--json") == 0
    clipped = json.loads(capsys.readouterr().out.splitlines()[-1])["clipped"]
    assert clipped == np.count_nonzero(np.abs(golden["decoded"][0]) > 1)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 24000
    # 16 bits a sample, rounded either way.
    np.testing.assert_allclose(samples, golden["decoded"][0].clip(-1, 1), rtol=0, atol=2**-14)


def test_bad_input_is_one_line_exit_2_and_no_output(tmp_path, capsys):
    soundfile.write(tmp_path / "good.wav", np.zeros(3000), 24000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 24000)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    np.savez(tmp_path / "none.npz", tokens=np.zeros((8, 3), np.int32))
    np.savez(tmp_path / "high.npz", codes=np.full((8, 3), 48, np.int32))
    np.savez(tmp_path / "many.npz", codes=np.zeros((9, 3), np.int32))
    np.savez(tmp_path / "real.npz", codes=np.zeros((8, 3)))
    before = sorted(tmp_path.iterdir())
    cases = [
        ("encode", "empty.wav", "o.npz", [], "holds no samples"),
        ("encode", "good.wav", "o.npz", ["--codebooks", "9"], "has 8 codebooks"),
        ("encode", "good.wav", "o.npz", ["--channel", "1"], "has 1 channel,"),
        ("encode", "good.wav", "o.wav", [], "must end in .npz"),
        ("encode", "good.wav", "no/o.npz", [], "folder does not exist"),
        ("decode", "junk.npz", "o.wav", [], "cannot be read as an npz file"),
        ("decode", "none.npz", "o.wav", [], "found tokens"),
        ("decode", "high.npz", "o.wav", [], "expected 0 to 47"),
        ("decode", "many.npz", "o.wav", [], "has 8 codebooks"),
        ("decode", "real.npz", "o.wav", [], "must be integers"),
        ("decode", "high.npz", "o.wav", ["--codebooks", "0"], "between 1 and 8"),
    ]
    for action, source, output, options, message in cases:
        assert run(action, tmp_path / source, tmp_path / output, *options) == 2, source
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert not captured.out
    assert sorted(tmp_path.iterdir()) == before
