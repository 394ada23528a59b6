"""The figures of a conversation, each from a small log written by hand whose answer is plain arithmetic."""

from types import SimpleNamespace

import numpy as np
import pytest

from kame_jax.llm import Usage
from kame_jax.oracle import OracleOp
from kame_jax.tandem import Heard
from kame_jax.tandem.report import ConversationReport

PAD, START = 3, 512
LOUD, QUIET = np.full(1920, 0.1, np.float32), np.zeros(1920, np.float32)


def report(measures, frame_ms=(10.0,), usage=None, cost=0.0):
    for ms in frame_ms:
        measures.stepped(ms / 1e3)
    return measures.figures(SimpleNamespace(silenced=0, counts={"read": 0}), usage, cost)


def play(ops, row):
    """Measures of oracle changes and the row that was read."""
    measures = ConversationReport(PAD, START)
    for frame, token in enumerate(row):
        for op in ops:
            if op.step == frame:
                measures.changed(op)
        measures.read(token, frame)
    return measures


def test_steps_and_frames_are_timed_apart():
    measures = ConversationReport(PAD, START)
    # Sound every 80 ms; the first frame takes 50 ms, the second waits a second for the event loop, the third is
    # late for that and takes 20 ms itself.
    for came, ended in ((0.0, 0.05), (0.08, 1.08), (0.16, 1.1)):
        measures.frame(came, ended)
    found = report(measures, frame_ms=[*range(1, 100), 101])
    assert found["frame_ms_p50"] == pytest.approx(50)
    assert found["frame_ms_max"] == pytest.approx(1000)
    assert found["frames_over_80_ms"] == 1
    assert found["step_ms_p50"] == pytest.approx(50.5)
    assert found["step_ms_p95"] == pytest.approx(95.05)
    assert found["step_ms_p99"] == pytest.approx(99.02)
    assert found["steps_over_80_ms"] == 20


def test_tokens_are_read_erased_or_wasted_and_the_three_make_one():
    ops = [
        OracleOp(2, "replace", (10, 11, 12, 13)),
        OracleOp(5, "replace", (20, 21)),
        OracleOp(6, "append", (22, 23)),
        OracleOp(8, "clear"),
        OracleOp(9, "replace", (30, 31)),
    ]
    #        0    1    2      3   4   5      6   7   8    9      10
    row = [PAD, PAD, START, 10, 11, START, 20, 21, PAD, START, 30]
    found = report(play(ops, row))
    assert found["oracle_tokens_given"] == 10
    assert found["oracle_read_fraction"] == 0.5  # 10 11 20 21 30
    assert found["oracle_erased_fraction"] == 0.4  # 12 13, 22 23
    assert found["oracle_wasted_fraction"] == pytest.approx(0.1)  # 31


def test_a_tokens_age_is_how_long_it_waited():
    found = report(
        play([OracleOp(0, "replace", (10, 11)), OracleOp(1, "append", (12,))], [START, 10, 11, 12])
    )
    # Start mark 0 frames, then 1, 2, and 12 came a frame later: 2.
    assert found["oracle_age_seconds_p50"] == pytest.approx(1.5 * 0.08)
    assert found["oracle_age_seconds_p95"] == pytest.approx(2 * 0.08)


def test_a_spoken_word_is_known_with_the_first_token_behind_the_start_mark():
    measures = ConversationReport(PAD, START)
    measures.adopted(0.10)
    measures.changed(OracleOp(2, "replace", (10, 11)))
    for frame, token in ((2, START), (3, 10), (4, 11)):
        measures.read(token, frame)
    assert report(measures)["word_to_oracle_seconds_p50"] == pytest.approx(4 * 0.08 - 0.10)


def test_speech_follows_an_answer_by_its_content_words():
    measures = ConversationReport(PAD, START)
    measures.said("the box", 0.5)  # before the answer came: does not count
    measures.adopted(0.0)
    measures.completed("It is in the blue box in Rome.")
    measures.said(" blue", 1.0)
    measures.said(" box here", 1.1)
    measures.adopted(2.0)
    measures.completed("Ask Emily")
    measures.said(" ask Emily", 3.0)
    assert report(measures)["oracle_recall"] == pytest.approx((2 / 3 + 1) / 2)


def test_first_word_and_first_sound_are_signed_from_the_end_of_the_turn():
    measures = ConversationReport(PAD, START)
    for heard in (
        Heard("a", False, 0.5),
        Heard("a b", True, 1.0),
        Heard("c", False, 5.0),
        Heard("c", True, 5.0),
    ):
        measures.heard(heard)
    for frame in range(100):
        time = frame * 0.08
        measures.sounded(LOUD if 0.8 <= time < 1.5 or 5.6 <= time < 6 else QUIET, time)
    measures.sounded(None, 9.0)
    measures.said("early", 0.9)
    measures.said(" and", 1.4)  # no pause before it: the same turn
    measures.said(" late", 5.5)
    found = report(measures)
    assert found["first_word_seconds"] == pytest.approx(-0.1)
    assert found["first_word_seconds_p50"] == pytest.approx((-0.1 + 0.5) / 2)
    assert found["first_sound_seconds"] == pytest.approx(-0.2)
    assert found["first_sound_seconds_p50"] == pytest.approx((-0.2 + 0.6) / 2)


def test_what_was_asked_and_what_it_cost():
    found = report(
        ConversationReport(PAD, START), usage=Usage(2, 3, input_tokens=40, output_tokens=7), cost=0.5
    )
    names = ("questions", "tries", "input_tokens", "output_tokens", "cost")
    assert [found[f"llm_{name}"] for name in names] == [2, 3, 40, 7, 0.5]


def test_where_there_was_nothing_there_is_no_figure():
    found = report(ConversationReport(PAD, START))
    assert {value for name, value in found.items() if name.startswith(("first", "word"))} == {None}
    assert found["oracle_recall"] is found["oracle_read_fraction"] is found["oracle_wasted_fraction"] is None
