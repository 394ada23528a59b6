"""Folders of dialogues become folders of records: bad ones are reported and left out, and nothing is made twice."""

import json
import math
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx

from kame_jax.codec import mimi as codec
from kame_jax.config import MimiConfig, QuantizerConfig, SeanetConfig, TransformerConfig
from kame_jax.data.records import load_record
from kame_jax.data.words import Word, words_to_json
from kame_jax.demo.dialogues import TOKENIZER
from kame_jax.errors import InputError, WorkError
from kame_jax.make import tokens
from kame_jax.make.encoding import batch_encoder, fingerprint
from kame_jax.make.rules import PRESETS
from kame_jax.make.tokens import SETTINGS, Settings, tokenize

TEXT = [
    Word("B", "where", 0.2, 0.5),
    Word("B", "from", 0.5, 0.9),
    Word("A", "from", 1.2, 1.5),
    Word("A", "Rome", 1.5, 2.0),
]
RATE = 16_000


def loudness(recordings):
    """A codec of two codebooks: how loud a frame is, and its number."""
    return [
        np.stack([np.zeros(n, np.int32), np.arange(n, dtype=np.int32)])
        for n in (-(-len(r) // 1920) for r in recordings)
    ]


def write(root, name, words=TEXT, audio=None, oracle=None, rate=RATE, suffix=".wav"):
    for folder in ("audio", "text", "oracle_raw"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if audio is None:
        audio = np.random.default_rng(0).normal(0, 0.1, (3 * rate, 2))
    soundfile.write(root / "audio" / f"{name}{suffix}", audio, rate)
    items = words if isinstance(words, str) else json.dumps(words_to_json(words))
    (root / "text" / f"{name}.json").write_text(items)
    if oracle is not None:
        (root / "oracle_raw" / f"{name}.json").write_text(
            oracle if isinstance(oracle, str) else json.dumps(oracle)
        )


def settings(**changes):
    return Settings(TOKENIZER, "none", codebooks=2, card=64, **changes)


def run(root, out, encode=loudness, **options):
    return tokenize(root, out, options.pop("settings", settings()), encode, "w", **options)


BAD = {
    "broken_json": ({"words": "[{"}, "text/broken_json.json: not valid JSON"),
    "broken_oracle": ({"oracle": "nothing"}, "oracle_raw/broken_oracle.json: not valid JSON"),
    "mono": ({"audio": np.ones(RATE * 3) * 0.1}, "has 1 channels, expected 2"),
    "one_side_only": (
        {"audio": np.stack([np.ones(RATE * 3) * 0.1, np.zeros(RATE * 3)], 1)},
        "channel 1, speaker B, is all zero",
    ),
    "wrong_rate": ({"rate": 4000}, "4000 samples a second, expected at least 8000"),
    "no_sound": ({"audio": np.zeros((0, 2))}, "no sample"),
    "unknown_speaker": ({"words": [*TEXT, Word("C", "hi", 2.0, 2.1)]}, "speakers ['A', 'B', 'C']"),
    "one_speaker": ({"words": TEXT[:2]}, "no word of speaker A"),
    "empty_turn": ({"words": [*TEXT[:2], Word("A", " ", 1.2, 1.5)]}, "no word of speaker A"),
    "backwards": (
        {"words": [*TEXT, Word("A", "now", 2.5, 2.4)]},
        "0 <= start <= end: 'now' (A, 2.5 to 2.4 s)",
    ),
    "beyond": ({"words": [*TEXT, Word("A", "later", 9.0, 9.4)]}, "begin after the audio of 3.00 s: 'later'"),
    "half_pair": ({"words": json.dumps(words_to_json([*TEXT, Word("A", "\ud800", 2.0, 2.1)]))}, "surrogate"),
    "many_digits": ({"words": f'[{{"start": {"1" * 5000}}}]'}, "text/many_digits.json: not valid JSON"),
    "deep": ({"words": "[" * 100_000}, "text/deep.json: not valid JSON"),
    "no_word": ({"words": '[{"speaker": "A", "word": null, "start": 0, "end": 1}]'}, "expected text for"),
    "no_number": ({"words": '[{"speaker": "A", "word": "x", "start": true, "end": 1}]'}, "word 0: "),
    "no_object": ({"words": "[3]"}, "word 0: 3: expected speaker, word, start and end in seconds"),
    "endless": ({"words": [Word("B", "x", 0.1, math.inf), *TEXT]}, "word 0: "),
    "not_a_number": ({"words": [Word("B", "x", math.nan, 0.2), *TEXT]}, "word 0: "),
    "huge": ({"words": f'[{{"speaker": "A", "word": "x", "start": 0, "end": {"9" * 4000}}}]'}, "word 0: "),
    "milliseconds": (
        {"words": [Word(w.speaker, w.word, w.start * 1000, w.end * 1000) for w in TEXT]},
        "words last 350 s at the median: are these milliseconds? expected seconds",
    ),
    "clock": (
        {"words": [Word(w.speaker, w.word, w.start + 1.7e9, w.end + 1.7e9) for w in TEXT]},
        "word 0: 'where' begins at 1.7e+09, expected seconds from the beginning of the recording",
    ),
    "endless_channel": (
        {"oracle": '[{"channel": Infinity, "timestamp_ms": 5, "hint": "x"}]'},
        "oracle record 0: channel inf, expected 0 or 1",
    ),
    "third_channel": (
        {"oracle": [{"channel": 2, "timestamp_ms": 5, "hint": "x"}]},
        "oracle record 0: channel 2, expected 0 or 1",
    ),
    "huge_event": (
        {"oracle": f'[{{"timestamp_ms": {"9" * 400}, "hint": "x"}}]'},
        "oracle record 0: timestamp_ms 999",
    ),
    "event_in_words": ({"oracle": [{"timestamp_ms": 5, "hint": ["x"]}]}, "hint ['x'], expected text"),
    "bad_event": ({"oracle": [{"timestamp_ms": "soon"}]}, "oracle record 0: timestamp_ms 'soon'"),
    "bad_choice": ({"oracle": [{"timestamp_ms": 5, "hint": "x", "use_hint": 3}]}, "use_hint 3"),
}


def test_each_bad_dialogue_is_one_line_with_its_name_and_the_others_are_made(tmp_path):
    write(tmp_path / "in", "good")
    write(tmp_path / "in", "whole", oracle=[{"timestamp_ms": 1000, "prediction": "from Rome", "channel": 0}])
    for name, (what, _) in BAD.items():
        write(tmp_path / "in", name, **what)
    (tmp_path / "in" / "audio" / "mute.wav").write_bytes(b"not sound")
    (tmp_path / "in" / "text" / "mute.json").write_text(json.dumps(words_to_json(TEXT)))
    (tmp_path / "in" / "text" / "silent.json").write_text("[]")
    said = []
    report = run(tmp_path / "in", tmp_path / "out", say=said.append)
    assert report.made == 2
    assert sorted(p.stem for p in (tmp_path / "out").glob("*.npz")) == ["good", "whole"]
    assert said == report.problems
    lines = {line.split(": ")[0].removeprefix("dialogue "): line for line in said}
    assert set(lines) == {*BAD, "mute", "silent"}
    assert all("\n" not in line for line in said)
    for name, (_, expected) in BAD.items():
        assert expected in lines[name], lines[name]
    assert len(load_record(tmp_path / "out" / "whole.npz").events["A"]) == 1


def test_what_is_no_file_or_has_no_usable_name_is_one_line(tmp_path):
    folder = tmp_path / "in"
    for name in (
        "good",
        "n" * 240,
        "sound_is_a_folder",
        "sound_is_a_pipe",
        "text_is_a_pipe",
        "oracle_is_a_folder",
    ):
        write(folder, name)
    for place in ("audio/sound_is_a_folder.wav", "audio/sound_is_a_pipe.wav", "text/text_is_a_pipe.json"):
        (folder / place).unlink()
    (folder / "audio" / "sound_is_a_folder.wav").mkdir()
    os.mkfifo(folder / "audio" / "sound_is_a_pipe.wav")
    os.mkfifo(folder / "text" / "text_is_a_pipe.json")
    (folder / "oracle_raw" / "oracle_is_a_folder.json").mkdir()
    for name in (".hidden", "two\nlines", "\udcff"):
        (folder / "text" / f"{name}.json").write_text("[]")
    for left in ("text/._good.json", "audio/._good.wav", "text/.DS_Store", "audio/.DS_Store"):
        (folder / left).write_text("left by macOS")
    report = run(folder, tmp_path / "out")
    assert report.made == 2
    lines = sorted(line.removeprefix("dialogue ") for line in report.problems)
    expected = [
        ".hidden: its name begins with a dot",
        "oracle_is_a_folder: oracle_raw/oracle_is_a_folder.json: is a folder",
        "sound_is_a_folder: ",
        "sound_is_a_pipe: ",
        "text_is_a_pipe: text/text_is_a_pipe.json: is a named pipe",
        "two lines: its name holds a character that cannot be printed",
        "\udcff: its name holds a character that cannot be printed",
    ]
    assert [line.startswith(start) for line, start in zip(lines, expected, strict=True)] == [True] * 7
    assert ["is a folder" in lines[2], "is a named pipe" in lines[3]] == [True, True]


def test_an_error_that_nobody_expected_names_its_dialogue_and_a_full_disk_ends_the_job(tmp_path, monkeypatch):
    for name in "ab":
        write(tmp_path / "in", name)
    real = tokens.check_dialogue
    calls = iter(range(9))
    monkeypatch.setattr(
        tokens, "check_dialogue", lambda *a, **k: 1 / 0 if next(calls) == 0 else real(*a, **k)
    )
    report = run(tmp_path / "in", tmp_path / "out", threads=1)
    assert (report.problems, report.made) == (["dialogue a: ZeroDivisionError: division by zero"], 1)

    def full(*parts, **arrays):
        raise WorkError("disk full")

    monkeypatch.setattr(tokens, "save_record", full)
    with pytest.raises(WorkError, match="disk full"):
        run(tmp_path / "in", tmp_path / "out")


def test_what_can_be_mended_is_mended_and_said(tmp_path):
    write(tmp_path / "in", "unsorted", words=[TEXT[2], TEXT[0], TEXT[1], TEXT[3]])
    write(tmp_path / "in", "overlap", words=[Word("B", "where", 0.2, 0.9), *TEXT[1:]])
    write(tmp_path / "in", "long", words=[*TEXT[:3], Word("A", "Rome", 2.5, 4.0)])
    write(tmp_path / "in", "event", oracle=[{"timestamp_ms": 9000, "prediction": "late"}])
    write(tmp_path / "in", "blank", words=[*TEXT, Word("A", "", 2.0, 2.1)])
    report = run(tmp_path / "in", tmp_path / "out")
    assert not report.problems
    assert report.notes == [
        "dialogue blank: 1 words without text, left out",
        "dialogue event: 1 oracle records are outside the audio of 3.00 s: record 0 at 9000 ms",
        "dialogue long: 1 words run past the audio of 3.00 s: 'Rome' (A, 2.5 to 4 s)",
        "dialogue overlap: 1 words run into the same speaker's next: 'where' (B, 0.2 to 0.9 s)",
        "dialogue unsorted: 1 words out of order, sorted by their end",
    ]
    assert len(load_record(tmp_path / "out" / "event.npz").events["A"]) == 0


def test_a_second_run_makes_only_what_is_missing_or_changed(tmp_path):
    for name in "abc":
        write(tmp_path / "in", name)
    counted = []

    def counting(recordings):
        counted.append(len(recordings))
        return loudness(recordings)

    assert run(tmp_path / "in", tmp_path / "out", counting).made == 3
    assert sum(counted) == 6
    (tmp_path / "out" / "b.npz").unlink()
    (tmp_path / "out" / ".c.npz.1.part").write_bytes(b"half")
    again = run(tmp_path / "in", tmp_path / "out", counting)
    assert (again.made, again.kept, sum(counted)) == (1, 2, 8)

    write_words = tmp_path / "in" / "text" / "a.json"
    write_words.write_text(json.dumps(words_to_json(TEXT[:3])))
    third = run(tmp_path / "in", tmp_path / "out", counting)
    assert (third.made, third.kept, sum(counted)) == (1, 2, 8), "the codes of unchanged audio are kept"
    (tmp_path / "out" / "c.npz").write_bytes(b"broken")
    assert run(tmp_path / "in", tmp_path / "out", counting).made == 1


def test_processes_share_the_work_and_make_the_same_records(tmp_path):
    for name in "abcde":
        write(tmp_path / "in", name)
    run(tmp_path / "in", tmp_path / "whole")
    made = [run(tmp_path / "in", tmp_path / "parts", shard=(i, 2)).made for i in range(2)]
    assert made == [3, 2]
    for file in (tmp_path / "whole").glob("*.npz"):
        one, other = load_record(file), load_record(tmp_path / "parts" / file.name)
        assert all((one.tokens[s] == other.tokens[s]).all() for s in "AB")


def test_records_made_with_other_settings_are_not_mixed(tmp_path):
    write(tmp_path / "in", "a")
    run(tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out" / SETTINGS).read_text())["rules"]["exact_frames"] is True
    with pytest.raises(InputError, match="made with other settings") as error:
        run(tmp_path / "in", tmp_path / "out", settings=settings(rules=PRESETS["reference"]))
    assert "rules" in error.value.problems[0]


def test_text_lands_on_frames_by_exact_arithmetic_or_as_in_the_reference(tmp_path):
    write(tmp_path / "in", "a", words=[Word("A", "Rome", 0.24, 0.4), Word("B", "red", 0.48, 0.6)])
    frames = {}
    for name, rules in PRESETS.items():
        run(tmp_path / "in", tmp_path / name, settings=settings(rules=rules))
        row = load_record(tmp_path / name / "a.npz").tokens["A"][0]
        frames[name] = int(np.flatnonzero((row != 3) & (row != 0))[0])
    assert frames == {"kame-jax": 3, "reference": 2}


def test_batches_of_any_shape_give_the_codes_of_each_recording_alone(monkeypatch):
    monkeypatch.setattr(codec, "CHUNK_FRAMES", 4)
    config = MimiConfig(
        seanet=SeanetConfig(dim=8, filters=2),
        transformer=TransformerConfig(
            dim=8, num_heads=1, num_layers=1, ffn_dim=8, context=250, gating="none", norm="layer_norm"
        ),
        quantizer=QuantizerConfig(dim=4, n_q=3, bins=16),
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: codec.Mimi(nnx.Rngs(0), config))
    mimi = jax.tree.map(lambda weight: jnp.asarray(rng.normal(size=weight.shape), weight.dtype), shapes)
    recordings = [rng.normal(0, 0.1, n).astype(np.float32) for n in (1920 * 3, 1000, 1920 * 4, 1920 * 3 - 5)]
    together = batch_encoder(mimi, 2, rows=2)(recordings)
    assert [codes.shape for codes in together] == [(2, 3), (2, 1), (2, 4), (2, 3)]
    alone = batch_encoder(mimi, 2, rows=1)
    for recording, codes in zip(recordings, together):
        assert (alone([recording])[0] == codes).all()
    assert fingerprint(mimi) != fingerprint(jax.tree.map(lambda a: a + 1, mimi))


def test_records_go_where_a_folder_can_be(tmp_path):
    write(tmp_path / "in", "a")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file: no folder can be made here: File exists"):
        run(tmp_path / "in", tmp_path / "file")


def test_a_folder_that_is_no_dialogues_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folder of dialogues"):
        run(tmp_path, tmp_path / "out")
    for folder in ("audio", "text"):
        (tmp_path / folder).mkdir()
    with pytest.raises(InputError, match="no dialogue in it"):
        run(tmp_path, tmp_path / "out")
    shutil.rmtree(tmp_path / "text")
