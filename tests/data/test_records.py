"""A dialogue becomes one record of tokens, whoever will be the model, and survives the disk."""

import dataclasses
import errno

import numpy as np
import pytest

from kame_jax.data.dialogue import read_dialogues, read_stereo
from kame_jax.data.events import FIELDS
from kame_jax.data.records import load_record, load_records, record_columns, record_from_columns, save_record
from kame_jax.demo.dialogues import ROOT, TOKENIZER
from kame_jax.errors import InputError, WorkError
from kame_jax.make import tokens
from kame_jax.make.tokens import Settings, merge_text, tokenize
from kame_jax.oracle.text import decode_text, load_tokenizer
from tests.bundled import copy_dialogues


def loudness(recordings):
    """A codec of two codebooks: how loud a frame is, and which recording it belongs to."""
    cut = [np.pad(audio, (0, -len(audio) % 1920)).reshape(-1, 1920) for audio in recordings]
    return [
        np.stack([(np.abs(frames).mean(axis=1) > 0.003).astype(np.int32), np.full(len(frames), i, np.int32)])
        for i, frames in enumerate(cut)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def dialogues():
    return read_dialogues(ROOT, ["d000", "d001", "d002"])


def tokenized(names, folder):
    """The records of some bundled dialogues."""
    root = copy_dialogues(folder / "dialogues", names)
    tokenize(root, folder / "records", Settings(TOKENIZER, "none", codebooks=2), loudness, "none")
    return load_records(folder / "records")


@pytest.fixture(scope="module")
def built(dialogues, tmp_path_factory):
    return tokenized([dialogue.id for dialogue in dialogues], tmp_path_factory.mktemp("built"))


def test_rows_are_text_and_codes_of_each_speaker_over_the_audio_frames(built, dialogues, tokenizer):
    for i, (record, dialogue) in enumerate(zip(built, dialogues)):
        frames = -(-read_stereo(dialogue).shape[1] // 1920)
        assert record.frames == frames
        for side, speaker in enumerate("AB"):
            tokens = record.tokens[speaker]
            assert tokens.shape == (3, frames)
            assert tokens.dtype == np.int32
            assert (tokens[2] == 2 * i + side).all()
            said = " ".join(w.word for w in dialogue.words if w.speaker == speaker)
            assert decode_text(tokenizer, tokens[0]) == said


def test_a_spoken_word_sounds_in_its_frames(built, dialogues):
    for record, dialogue in zip(built, dialogues):
        for w in dialogue.words:
            loud = record.tokens[w.speaker][1, int(w.start * 12.5) : int(w.end * 12.5) + 1]
            assert loud.any(), w


def test_events_lie_on_the_frame_of_their_arrival(built, dialogues):
    for record, dialogue in zip(built, dialogues):
        arrivals = [int(r["timestamp_ms"] * 12.5 / 1000) for r in dialogue.oracle if r["channel"] == 0]
        assert record.events["A"].frame_pos.tolist() == arrivals


def test_long_audio_is_encoded_in_pieces_from_a_fresh_state(dialogues, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK_SECONDS", 1)
    record = tokenized(["d000"], tmp_path)[0]
    pieces = -(-read_stereo(dialogues[0]).shape[1] // 24_000)
    assert sorted(set(record.tokens["A"][2])) == list(range(pieces))
    assert sorted(set(record.tokens["B"][2])) == list(range(pieces, 2 * pieces))


def test_text_is_cut_or_filled_to_the_audio():
    codes = np.zeros((1, 4), np.int32)
    assert merge_text([7, 8], codes, 3)[0].tolist() == [7, 8, 3, 3]
    assert merge_text([7, 8, 9, 10, 11], codes, 3)[0].tolist() == [7, 8, 9, 10]


def test_a_record_survives_the_disk(built, tmp_path):
    for record in built:
        save_record(tmp_path, record)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d000.npz", "d001.npz", "d002.npz"]
    for record, again in zip(built, load_records(tmp_path)):
        assert again.id == record.id
        for side in "AB":
            np.testing.assert_array_equal(again.tokens[side], record.tokens[side])
            for field in dataclasses.fields(record.events[side]):
                mine, theirs = (getattr(r.events[side], field.name) for r in (record, again))
                np.testing.assert_array_equal(theirs, mine)
                assert theirs.dtype == mine.dtype


def test_a_failed_write_leaves_nothing(built, tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(WorkError, match="disk full"):
        save_record(tmp_path, built[0])
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_records_come_as_one_list(built, tmp_path):
    with pytest.raises(InputError, match="no records"):
        load_records(tmp_path)
    whole = save_record(tmp_path, built[0]).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "pickled.npz", A=np.array([len], object), B=np.zeros((3, 4)))
    np.savez(tmp_path / "other.npz", A=np.zeros((3, 4)))
    np.savez(
        tmp_path / "uneven.npz", **(dict(np.load(tmp_path / "d000.npz")) | {"A": np.zeros((3, 4), np.int32)})
    )
    with pytest.raises(InputError) as error:
        load_records(tmp_path)
    assert len(error.value.problems) == 5
    assert "pickled.npz: not a record that can be read: Object arrays cannot be loaded" in str(error.value)
    assert "other.npz: not a record, it lacks B" in str(error.value)
    with pytest.raises(InputError, match="none.npz: no such file, expected a record"):
        load_record(tmp_path / "none.npz")


def test_a_record_with_one_bit_flipped_is_read_right_or_refused(built, tmp_path):
    whole = save_record(tmp_path, built[0]).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for place in rng.choice(len(whole), 200, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        (tmp_path / "d.npz").write_bytes(damaged)
        try:
            record = load_record(tmp_path / "d.npz")
        except InputError:
            refused += 1
            continue
        for side in "AB":
            np.testing.assert_array_equal(record.tokens[side], built[0].tokens[side])
            for field in FIELDS:
                mine, theirs = (getattr(r.events[side], field) for r in (record, built[0]))
                np.testing.assert_array_equal(theirs, mine)
    assert refused > 100


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"A": np.full((3, 4), 2**40)}, "A: holds a value that is not of type int32"),
        ({"A": np.full((3, 4), np.nan)}, "A: holds a value that is not of type int32"),
        ({"A": np.full((3, 4), 0.5)}, "A: holds a value that is not of type int32"),
        ({"A": np.full((3, 4), "x")}, "A: holds <U1, expected numbers"),
        ({"A": [[1, 2], [3]]}, "A: rows of different lengths"),
        ({"A": np.zeros((0, 4)), "B": np.zeros((0, 4))}, "expected .1 . codebooks, frames"),
        ({"A_oracle_event_ratio": [np.inf]}, "a ratio that is not a finite number"),
        ({"A_oracle_event_frame_pos": 3}, "a column is not a list"),
    ],
)
def test_a_value_that_is_no_token_is_refused_and_never_converted(built, columns, expected):
    whole = record_columns(built[0])
    single = {name: values[:1] for name, values in whole.items() if "event" in name}
    single |= {name: values[:0] for name, values in whole.items() if name.endswith("values")}
    single |= {name: np.zeros(2, np.int64) for name in whole if name.endswith("offsets")}
    grids = {side: whole[side][:, :4].astype(np.float64) for side in "AB"}
    record = record_from_columns("d", single | grids)
    assert record.tokens["A"].dtype == np.int32
    with pytest.raises(InputError, match=expected):
        record_from_columns("d", single | grids | columns)
