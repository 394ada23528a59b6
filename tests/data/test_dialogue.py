"""Dialogues are read from kame_finetune's layout; what is wrong with one is reported with its name."""

import json

import numpy as np
import pytest
import soundfile

from kame_jax.data.dialogue import dialogue_ids, read_dialogue, read_dialogues, read_stereo
from kame_jax.errors import InputError

WORDS = [
    {"speaker": "B", "word": "who", "start": 0.1, "end": 0.3},
    {"speaker": "A", "word": "Martha", "start": 0.5, "end": 0.9},
]


@pytest.fixture
def root(tmp_path):
    """Two dialogues at 16 kHz: a tone on A's channel for the first half, on B's for the second."""
    for folder in ("audio", "text", "oracle_raw"):
        (tmp_path / folder).mkdir()
    tone = 0.5 * np.sin(np.arange(16_000) * 0.2)
    stereo = np.stack([tone * (np.arange(16_000) < 8000), tone * (np.arange(16_000) >= 8000)], axis=1)
    soundfile.write(tmp_path / "audio" / "one.wav", stereo, 16_000)
    soundfile.write(tmp_path / "audio" / "two.flac", stereo, 16_000)
    for name in ("one", "two"):
        (tmp_path / "text" / f"{name}.json").write_text(json.dumps(WORDS))
    (tmp_path / "oracle_raw" / "one.json").write_text(
        json.dumps([{"timestamp_ms": 300, "prediction": "Martha"}])
    )
    return tmp_path


def test_any_rate_and_any_file_kind_becomes_24_khz_with_a_left(root):
    one, two = read_dialogues(root)
    assert (one.id, two.id) == ("one", "two")
    assert [w.word for w in one.words] == ["who", "Martha"]
    assert one.oracle == ({"timestamp_ms": 300, "prediction": "Martha"},)
    assert two.oracle is None
    for dialogue in (one, two):
        audio = read_stereo(dialogue)
        assert audio.shape == (2, 24_000)
        assert audio.dtype == np.float32
        loud = np.abs(audio).reshape(2, 2, -1).mean(axis=2)
        assert loud[0, 0] > 50 * loud[0, 1]
        assert loud[1, 1] > 50 * loud[1, 0]


def test_files_without_their_counterpart_come_as_one_list(root):
    (root / "audio" / "one.wav").rename(root / "audio" / "three.wav")
    with pytest.raises(InputError) as error:
        dialogue_ids(root)
    assert error.value.problems == (
        "dialogue one: no audio/one.wav (or .flac, .ogg, .opus)",
        "dialogue three: no text/three.json",
    )


def test_a_folder_that_is_none_of_dialogues_is_named(tmp_path):
    with pytest.raises(InputError, match="expected audio/ and text/"):
        dialogue_ids(tmp_path)
    (tmp_path / "audio").mkdir()
    (tmp_path / "text").mkdir()
    with pytest.raises(InputError, match="no dialogue in it"):
        dialogue_ids(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "dialogue one: text/one.json: not valid JSON"),
        ("{}", "dialogue one: text/one.json: expected a JSON list"),
        ('[{"speaker": "A", "word": "x", "start": 0}]', "dialogue one: text/one.json: word 0"),
        (json.dumps([{**WORDS[0], "speaker": "C"}]), r"dialogue one: speakers \['C'\]"),
        (json.dumps(WORDS[:1]), "dialogue one: no word of speaker A"),
    ],
)
def test_broken_text_is_named(root, text, message):
    (root / "text" / "one.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_dialogue(root, "one")


def test_everything_wrong_comes_as_one_list(root):
    (root / "text" / "one.json").write_text("[{")
    (root / "oracle_raw" / "two.json").write_text("nothing")
    with pytest.raises(InputError) as error:
        read_dialogues(root)
    assert [p.split(":")[0] for p in error.value.problems] == ["dialogue one", "dialogue two"]


def test_audio_that_cannot_be_used_is_named(root):
    soundfile.write(root / "audio" / "one.wav", np.zeros(100), 24_000)
    with pytest.raises(InputError, match=r"dialogue one: one.wav has 1 channels, expected 2"):
        read_stereo(read_dialogue(root, "one"))
    (root / "audio" / "one.wav").write_bytes(b"RIFF but not really")
    with pytest.raises(InputError, match="dialogue one: .*cannot be read as a sound file"):
        read_stereo(read_dialogue(root, "one"))
    (root / "audio" / "one.wav").unlink()
    (root / "audio" / "one.wav").mkdir()
    with pytest.raises(InputError, match="dialogue one: .*is a folder, expected a sound file"):
        read_stereo(read_dialogue(root, "one"))


def test_the_case_of_a_suffix_does_not_matter(root):
    (root / "audio" / "one.wav").rename(root / "audio" / "one.WAV")
    (root / "audio" / "two.flac").rename(root / "audio" / "two.Flac")
    assert dialogue_ids(root) == ["one", "two"]
    assert [dialogue.audio.name for dialogue in read_dialogues(root)] == ["one.WAV", "two.Flac"]
