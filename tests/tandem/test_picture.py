"""The picture of a conversation: which answers there were, what of each was read, and that it can be drawn."""

import numpy as np

from kame_jax.decode.session import Frame
from kame_jax.picture import Mark
from kame_jax.tandem.picture import Version, figures, talk, versions, words
from tests.decode.small import CODEC, CONFIG
from tests.tandem.test_conversation import PAD, START, TOKENIZER

BOX, ROME = TOKENIZER.encode("in the box"), TOKENIZER.encode("in Rome")
EVENTS = [
    {"frame": 1, "event": "heard", "text": "Where is", "final": False, "time": 0.1},
    {"frame": 1, "event": "asked", "answer": 1, "text": "Where is", "final": False},
    {"frame": 2, "event": "adopted", "answer": 1},
    {"frame": 2, "op": "replace", "tokens": BOX[:1]},
    {"frame": 3, "op": "append", "tokens": BOX[1:]},
    {"frame": 4, "event": "heard", "text": "Where is my umbrella", "final": True, "time": 0.3},
    {"frame": 4, "event": "asked", "answer": 2, "text": "Where is my umbrella", "final": True},
    {"frame": 4, "event": "failed", "answer": 2, "kind": "cut"},
    {"frame": 4, "event": "asked", "answer": 3, "text": "Where is my umbrella", "final": True},
    {"frame": 5, "event": "adopted", "answer": 3},
    {"frame": 5, "op": "replace", "tokens": ROME},
    {"frame": 18, "op": "clear", "tokens": []},
]
ROW = [PAD, PAD, START, BOX[0], BOX[1], START, *ROME, *[PAD] * 20][:20]
REPORT = {
    "frame_ms_p50": 1.2,
    "frame_ms_p95": 2.0,
    "frame_ms_p99": 79.6,
    "first_word_seconds": -0.5,
    "llm_questions": 0,
    "llm_cost": 0.0,
}


def test_each_answer_knows_when_it_stood_and_what_of_it_was_read():
    assert versions(EVENTS, ROW, START, PAD) == [
        Version(2, BOX, final=False, read=2, read_at=4, end=5),
        Version(5, ROME, final=True, read=len(ROME), read_at=5 + len(ROME), end=18),
    ]


def test_pieces_become_words():
    pieces = [Mark(0.1, "In"), Mark(0.2, " the"), Mark(0.3, " bo"), Mark(0.4, "x."), Mark(0.5, " ")]
    assert words(pieces) == [Mark(0.1, "In"), Mark(0.2, "the"), Mark(0.3, "box.")]


def test_figures_that_were_not_measured_are_left_out():
    first, second = figures(REPORT | {"oracle_recall": 0.5, "first_sound_seconds": None}).split("\n")
    assert first == "frame p50 / p95 / p99 1 / 2 / 80 ms of 80   ·   first word -0.50 s"
    assert second == "content words said 50%   ·   questions 0"


def test_a_conversation_is_drawn_and_so_is_one_of_nothing(tmp_path):
    sound = np.sin(np.arange(CODEC.frame_size * 20) / 50).astype(np.float32)
    said = {7: "in", 8: " Rome"}
    frames = [
        Frame(i, None, np.array([PAD]), said.get(i, ""), token, np.zeros((0, 6)), 0.01)
        for i, token in enumerate(ROW)
    ]
    path = talk(tmp_path / "a", TOKENIZER, CODEC, CONFIG, sound, sound, frames, EVENTS, REPORT)
    assert path.read_bytes()[:4] == b"\x89PNG"
    empty = talk(tmp_path / "b", TOKENIZER, CODEC, CONFIG, sound[:0], sound[:0], [], [], {})
    assert empty.read_bytes()[:4] == b"\x89PNG"
