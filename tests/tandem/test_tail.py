"""How long a conversation lasts after its recording: until the model has finished speaking, and no longer."""

from types import SimpleNamespace

import numpy as np
import pytest

from kame_jax.decode.session import Frame
from kame_jax.oracle import OracleOp
from kame_jax.tandem.tail import LONGEST, QUIET, REPLY_WAIT, Tail

PAD, SIZE, SECOND = 3, 4, 12.5
LOUD, SILENT = np.full(SIZE, 0.3, np.float32), np.zeros(SIZE, np.float32)
HEARD = np.stack([LOUD] * 10 + [SILENT] * 5)
"""A user who speaks in ten frames of fifteen."""


def frames_until_the_end(says=lambda index: "", oracle=lambda index: PAD, waits=0, delay=0, **options):
    """Lets a model speak that says `says(index)` at each frame, and is silent otherwise; every frame with its tail."""
    conversation = SimpleNamespace(
        session=SimpleNamespace(config=SimpleNamespace(text_padding_id=PAD, max_delay=delay)), waiting=False
    )
    tail, frames = Tail(conversation, HEARD, **options), []
    while len(frames) < len(HEARD) or tail(frames) is not None:
        index = len(frames)
        conversation.waiting = index < waits
        text = says(index)
        frames.append(Frame(index, LOUD if text else SILENT, None, text, oracle(index), np.zeros(0), 0.0))
    return frames, tail


def test_a_reply_is_heard_out_and_what_is_written_ends_with_its_sound():
    frames, tail = frames_until_the_end(says=lambda index: "word" if 20 <= index < 40 else "")
    assert len(frames) == 39 + np.ceil(QUIET * SECOND)
    assert tail.reply_frames(frames) == 40


def test_without_a_word_a_reply_is_waited_for_and_nothing_is_added():
    frames, tail = frames_until_the_end()
    assert len(frames) == pytest.approx(9 + REPLY_WAIT * SECOND, abs=1)
    assert tail.reply_frames(frames) == len(HEARD)


def test_a_model_that_never_stops_is_stopped():
    frames, tail = frames_until_the_end(says=lambda index: "word")
    assert len(frames) == len(HEARD) + LONGEST * SECOND == tail.reply_frames(frames)


def test_answers_that_are_still_to_come_or_to_be_read_are_waited_for():
    quick, _ = frames_until_the_end(says=lambda index: "word" if index == 12 else "")
    assert len(quick) < 40
    answered = {"says": lambda index: "word" if index == 12 else ""}
    assert len(frames_until_the_end(**answered, waits=200)[0]) == 201
    assert len(frames_until_the_end(**answered, oracle=lambda index: 7 if index < 90 else PAD)[0]) == 91
    assert len(frames_until_the_end(**answered, ops=[OracleOp(100, "replace", (5,))])[0]) == 101


@pytest.mark.parametrize("seconds", [0.0, 0.8])
def test_a_tail_of_so_many_seconds_is_just_that_long(seconds):
    frames, tail = frames_until_the_end(says=lambda index: "word", seconds=seconds, delay=3)
    assert tail.reply_frames(frames) == len(HEARD) + seconds * SECOND
    assert len(frames) == tail.reply_frames(frames) + 2  # what later delays hold back
