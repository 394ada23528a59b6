"""The figures of a data set are what they say."""

import numpy as np

from kame_jax.data.events import pack_events
from kame_jax.data.records import Record
from kame_jax.data.statistics import describe, statistics

EMPTY = pack_events([], [], [], [], [])


def record(events, frames=20, text=((2, 5), (4, 6), (10, 7))):
    tokens = {s: np.full((3, frames), 3, np.int32) for s in "AB"}
    for frame, token in text:
        tokens["A" if frame > 8 else "B"][0, frame] = token
    return Record("d", tokens, {"A": events, "B": EMPTY})


def test_tokens_read_and_left_standing_are_counted():
    events = pack_events(
        [1, 4, 12], [0.4, 0.7, 1.0], [0, 1, 1], [[5] * 8, [6] * 2, [7]], [[], [9], [8, 8, 8]]
    )
    figures = statistics([record(events)])
    assert figures["oracle_events_by_level"] == [1, 0, 1, 0, 0, 1]
    assert figures["oracle_events_showing_the_hint"] == 1
    assert figures["oracle_tokens"] == 8 + 2 + 3
    # Two of the first answer before the second comes at 4, both of the second, all of the third.
    assert figures["oracle_tokens_read"] == (2 + 2 + 3) / 13
    # The first answer's steps 7 to 9 would stand behind the second's two tokens.
    assert figures["tail_leftover_tokens"] == 3
    assert figures["turns_with_tail_leftovers"] == 0.5


def test_turns_and_lengths():
    figures = statistics([record(EMPTY), record(EMPTY, frames=45_000)])
    assert figures["turns"] == 4
    assert figures["dialogues"] == 2
    assert abs(figures["hours"] - 45_020 / 45_000) < 1e-12
    assert figures["text_tokens"] == {"A": 2, "B": 4}
    assert figures["oracle_tokens_read"] is None
    assert "ever read               -" in describe(figures)


def test_nothing_is_figures_too():
    assert statistics([])["dialogues"] == 0
    assert "dialogues" in describe(statistics([]))
