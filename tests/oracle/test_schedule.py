"""The oracle clock: reference behaviour by name, and the mode that loses nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kame_jax.oracle import OracleOp, OracleSchedule

START, PAD = 90, 3
FIFO = OracleSchedule(START, PAD)
LIVE = OracleSchedule(START, PAD, late="drop")
COLLATOR = OracleSchedule(START, PAD, tail="keep")


class ReferenceLive:
    """The released server's buffer, said again in ten lines: index = steps since the last reset."""

    def __init__(self):
        self.tokens, self.since = None, 0

    def change(self, op, step):
        if op.op == "replace" or self.tokens is None:
            self.tokens, self.since = [START], step
        self.tokens += op.tokens

    def read(self, step):
        index = step - self.since
        return self.tokens[index] if self.tokens and 0 <= index < len(self.tokens) else PAD


def test_a_complete_answer_is_read_one_token_a_step():
    row, state = FIFO.play([OracleOp(2, "replace", (11, 12, 13))], 8)
    assert row.tolist() == [PAD, PAD, START, 11, 12, 13, PAD, PAD]
    assert (int(state.read), int(state.erased), int(state.late)) == (4, 0, 0)


def test_late_tokens_are_lost_in_reference_mode_and_kept_first_in_first_out():
    ops = [OracleOp(0, "replace", (11,)), OracleOp(4, "append", (12, 13))]
    lost, lost_state = LIVE.play(ops, 8)
    kept, kept_state = FIFO.play(ops, 8)
    assert lost.tolist() == [START, 11, PAD, PAD, PAD, PAD, PAD, PAD]
    assert kept.tolist() == [START, 11, PAD, PAD, 12, 13, PAD, PAD]
    assert (int(lost_state.late), int(kept_state.late)) == (2, 0)


def test_training_collator_keeps_the_stale_tail_and_the_clearing_mode_removes_it():
    positions, answers = [1, 4], [(11, 12, 15, 16, 17, 18), (21, 22)]
    assert COLLATOR.row(positions, answers, 9).tolist() == [PAD, START, 11, 12, START, 21, 22, 18, PAD]
    assert FIFO.row(positions, answers, 9).tolist() == [PAD, START, 11, 12, START, 21, 22, PAD, PAD]


def test_clear_silences_the_oracle_and_the_next_append_starts_a_new_one():
    ops = [OracleOp(0, "replace", (11, 12, 13)), OracleOp(2, "clear"), OracleOp(4, "append", (21,))]
    row, state = FIFO.play(ops, 7)
    assert row.tolist() == [START, 11, PAD, PAD, START, 21, PAD]
    assert int(state.erased) == 2


def test_tokens_beyond_the_capacity_are_counted():
    _, state = FIFO.play([OracleOp(0, "replace", tuple(range(10, 30)))], 4, capacity=8)
    assert int(state.overflow) == 13


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.sampled_from(["replace", "append"]),
            st.lists(st.integers(10, 80), max_size=9),
        ),
        max_size=8,
    )
)
def test_live_modes_equal_the_reference_and_a_plain_queue(raw):
    ops = [OracleOp(step, op, tuple(tokens)) for step, op, tokens in sorted(raw, key=lambda r: r[0])]
    live, fifo = LIVE.play(ops, 48, capacity=64)[0], FIFO.play(ops, 48, capacity=64)[0]
    reference, queue, started = ReferenceLive(), [], False
    at = 0
    for step in range(48):
        while at < len(ops) and ops[at].step <= step:
            reference.change(ops[at], step)
            if ops[at].op == "replace" or not started:
                queue, started = [START], True
            queue += ops[at].tokens
            at += 1
        assert live[step] == reference.read(step)
        assert fifo[step] == (queue.pop(0) if queue else PAD)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(0, 39), st.lists(st.integers(10, 80), max_size=20), max_size=6))
def test_training_rows_equal_live_play_of_the_same_answers(events):
    positions = sorted(events)
    row = FIFO.row(positions, [events[p] for p in positions], 40)
    played, _ = FIFO.play([OracleOp(p, "replace", tuple(events[p])) for p in positions], 40, capacity=64)
    np.testing.assert_array_equal(row, played)


@pytest.mark.parametrize("bad", [[OracleOp(0, "push")], [OracleOp(3, "clear"), OracleOp(1, "clear")]])
def test_bad_changes_are_refused(bad):
    with pytest.raises(ValueError, match="oracle change"):
        FIFO.play(bad, 4)
