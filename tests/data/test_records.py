"""A dialogue becomes one record of tokens, whoever will be the model, and survives the disk."""

import dataclasses
import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kame_jax.codec import mimi as codec
from kame_jax.config import MimiConfig, QuantizerConfig, SeanetConfig, TransformerConfig
from kame_jax.data.dialogue import read_dialogues, read_stereo
from kame_jax.data.records import load_record, load_records, save_record
from kame_jax.data.words import Word
from kame_jax.demo.dialogues import ROOT, TOKENIZER
from kame_jax.errors import InputError, WorkError
from kame_jax.make import whole
from kame_jax.make.tokens import merge_text
from kame_jax.make.whole import build_records, mimi_encoder
from kame_jax.oracle.text import decode_text, load_tokenizer


def loudness(recordings):
    """A codec of two codebooks: how loud a frame is, and which recording it belongs to."""
    for i, audio in enumerate(recordings):
        frames = np.pad(audio, (0, -len(audio) % 1920)).reshape(-1, 1920)
        yield np.stack(
            [(np.abs(frames).mean(axis=1) > 0.003).astype(np.int32), np.full(len(frames), i, np.int32)]
        )


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def dialogues():
    return read_dialogues(ROOT, ["d000", "d001", "d002"])


@pytest.fixture(scope="module")
def built(dialogues, tokenizer):
    return build_records(dialogues, tokenizer, loudness)


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


def test_progress_counts_recordings(dialogues, tokenizer):
    seen = []
    build_records(dialogues, tokenizer, loudness, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 6) for i in range(6)]


def test_long_audio_is_encoded_in_pieces_from_a_fresh_state(dialogues, tokenizer, monkeypatch):
    monkeypatch.setattr(whole, "CHUNK_SECONDS", 1)
    record = build_records(dialogues[:1], tokenizer, loudness)[0]
    pieces = -(-read_stereo(dialogues[0]).shape[1] // 24_000)
    assert sorted(set(record.tokens["A"][2])) == list(range(pieces))
    assert sorted(set(record.tokens["B"][2])) == list(range(pieces, 2 * pieces))


def test_text_is_cut_or_filled_to_the_audio():
    codes = np.zeros((1, 4), np.int32)
    assert merge_text([7, 8], codes, 3)[0].tolist() == [7, 8, 3, 3]
    assert merge_text([7, 8, 9, 10, 11], codes, 3)[0].tolist() == [7, 8, 9, 10]


def test_what_is_wrong_is_said_with_the_dialogue_before_anything_is_encoded(dialogues, tokenizer):
    crowded = dataclasses.replace(
        dialogues[0], words=(Word("A", "x" * 20, 0.0, 0.01), Word("B", "red", 0.0, 1.0))
    )
    missing = dataclasses.replace(dialogues[1], audio=dialogues[1].audio.with_name("none.wav"))
    with pytest.raises(InputError) as error:
        build_records([crowded, dialogues[2], missing], tokenizer, lambda audio: pytest.fail("encoded"))
    first, second = error.value.problems
    assert first.startswith("dialogue d000: speaker A: ")
    assert second.startswith("dialogue d001: ")
    late = dataclasses.replace(dialogues[2], oracle=({"timestamp_ms": "soon"},))
    with pytest.raises(InputError, match="dialogue d002: oracle record 0"):
        build_records([late], tokenizer, loudness)


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
    np.savez(tmp_path / "other.npz", A=np.zeros((3, 4)))
    np.savez(
        tmp_path / "uneven.npz", **(dict(np.load(tmp_path / "d000.npz")) | {"A": np.zeros((3, 4), np.int32)})
    )
    with pytest.raises(InputError) as error:
        load_records(tmp_path)
    assert len(error.value.problems) == 4
    assert "other.npz: no record, it lacks B" in str(error.value)
    with pytest.raises(InputError, match="not a record that can be read"):
        load_record(tmp_path / "none.npz")


def test_codes_of_a_short_recording_do_not_depend_on_what_fills_its_row():
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
    long, other = rng.normal(size=(2, 1920 * 3)).astype(np.float32)
    encode = mimi_encoder(mimi, 2)
    filled, whole = encode([long, other[: 1920 * 2]]), encode([long, other])
    np.testing.assert_array_equal(next(filled), next(whole))
    short = next(filled)
    assert short.shape == (2, 2)
    assert len(np.unique(short)) > 1
    np.testing.assert_array_equal(short, next(whole)[:, :2])
    assert list(encode([])) == []
