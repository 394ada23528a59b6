"""Sources of partial transcripts: what was said comes when it was said, and a turn ends once."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from kame_jax.assets.dialogues import __file__ as dialogues
from kame_jax.codec.audio import read_audio
from kame_jax.errors import InputError
from kame_jax.tandem import Heard, TimedTranscript
from kame_jax.tandem.transcript import PocketSphinx

WORDS = [("are", 0.3, 0.5), ("Where", 0.1, 0.25), ("you", 0.5, 0.74), ("Now", 2.4, 2.8), ("tell", 2.9, 3.1)]


def play(source, seconds):
    frames = [(0.08 * (i + 1)) for i in range(round(seconds / 0.08))]
    return [heard for time in frames for heard in source.push(np.zeros(1920, np.float32), time)]


def test_words_are_heard_when_they_end_and_a_turn_ends_after_a_pause():
    assert play(TimedTranscript(WORDS), 5) == [
        Heard("Where", False, 0.25),
        Heard("Where are", False, 0.5),
        Heard("Where are you", False, 0.74),
        Heard("Where are you", True, 0.74),
        Heard("Now", False, 2.8),
        Heard("Now tell", False, 3.1),
        Heard("Now tell", True, 3.1),
    ]


def test_a_long_word_does_not_end_its_turn():
    heard = play(TimedTranscript([("a", 0.0, 0.1), ("looooong", 0.3, 2.0)]), 4)
    assert [h.final for h in heard] == [False, False, True]
    assert heard[-1].text == "a looooong"


def test_a_file_of_words_is_read_for_one_speaker(tmp_path):
    file = tmp_path / "t.json"
    items = [
        {"speaker": "A", "word": "no", "start": 0, "end": 1},
        {"speaker": "B", "word": "yes", "start": 0, "end": 1},
    ]
    file.write_text(json.dumps(items))
    assert play(TimedTranscript.read(file, "B"), 1.2)[0].text == "yes"
    with pytest.raises(InputError, match="no word of speaker C"):
        TimedTranscript.read(file, "C")
    wrong = [
        *({"word": "a", "start": 0, "end": end} for end in (-1, float("inf"), float("nan"), None, "1", True)),
        {"word": None, "start": 0, "end": 1},
        {"word": "a", "start": -1, "end": 1},
    ]
    for text in (
        "nonsense",
        "[1]",
        "[" * 100_000,
        '[{"word": "a"}]',
        *(json.dumps([item]) for item in wrong),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match="cannot be read as a transcript"):
            TimedTranscript.read(file)
    with pytest.raises(InputError):
        TimedTranscript.read(tmp_path / "nowhere.json")


def test_pocketsphinx_hears_a_recording_and_never_blocks():
    folder = Path(dialogues).parent
    audio = read_audio(folder / "audio" / "d000.ogg", 24_000, "right")[: 24_000 * 3]
    source, heard = PocketSphinx(24_000), []
    for i in range(len(audio) // 1920):
        heard += source.push(audio[i * 1920 : (i + 1) * 1920], 0.08 * (i + 1))
    for future in source._waiting:
        heard += future.result()
    source.close()
    assert heard
    assert heard[-1].text
    assert all(a.time <= b.time for a, b in itertools.pairwise(heard))
