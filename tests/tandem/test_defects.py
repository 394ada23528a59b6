"""Defects I1 to I8 of the reference's live loop: each claim holds here, and fails for a model of the reference's way.

The reference is SakanaAI/kame `models/lm.py` and `server_oracle.py`; its ways are written anew in a few lines each.
"""

import contextlib
import queue

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.assets import TINY
from kame_jax.config import LLMConfig, TandemConfig, TriggerConfig
from kame_jax.decode import slots as device
from kame_jax.decode.words import TextStream
from kame_jax.oracle import OracleOp, OracleSchedule
from kame_jax.oracle.text import load_tokenizer
from kame_jax.tandem import Question
from kame_jax.tandem.backend import Turn, messages
from kame_jax.tandem.speech import SpokenTokens
from tests.decode.small import CONFIG
from tests.tandem.test_conversation import PAD, SCHEDULE, START, FakeEngine, Script, answers_in, talk

TOKENIZER = load_tokenizer(TINY / "tokenizer.model")
READ, APPLY = jax.jit(SCHEDULE.read), jax.jit(SCHEDULE.apply)


def fails(claim, *arguments):
    """The claim does not hold for the reference's way."""
    with pytest.raises(AssertionError):
        claim(*arguments)


def test_i1_tokens_that_come_late_are_read():
    ops = [OracleOp(0, "replace", (10, 11)), OracleOp(9, "append", (12, 13))]

    def claim(late):
        row, _ = OracleSchedule(START, PAD, late=late).play(ops, 20)
        assert [token for token in row if token not in (PAD, START)] == [10, 11, 12, 13]

    claim("queue")
    fails(claim, "drop")  # the reference's index is the number of frames since the answer began


def test_i2_the_next_caller_never_reads_the_last_ones_oracle():
    def claim(hand_over):
        state = APPLY(
            SCHEDULE.initial(), 0, 0, np.arange(10, 10 + device.TOKENS_A_FRAME), device.TOKENS_A_FRAME
        )
        read = []
        for step in range(3):
            token, state = READ(state, step)
            read.append(int(token))
        assert read == [START, 10, 11]
        state = hand_over(state)
        for step in range(12):
            token, state = READ(state, step)
            assert int(token) == PAD

    def freed(state):
        """As `Engine.leave` and `join` do with every array of a slot."""
        stacked, fresh = (jax.tree.map(lambda a: a[None], s) for s in (state, SCHEDULE.initial()))
        return jax.tree.map(lambda a: a[0], device.put_slot(stacked, fresh, 0, 1))

    claim(freed)
    fails(claim, lambda state: state)  # the reference resets the frame counter and keeps the tokens


@pytest.mark.parametrize(
    "pieces", [["It is four", ".", " Y", "es"], list("It is four. Yes"), ["It is four. Yes"]]
)
def test_i3_ids_are_those_of_the_whole_text_however_it_is_cut(pieces):
    def claim(ids):
        assert ids == TOKENIZER.encode("It is four. Yes")

    answer = SpokenTokens(TOKENIZER)
    claim([token for piece in pieces for token in answer.push(piece)] + answer.finish())
    if len(pieces) > 1:
        fails(claim, [token for piece in pieces for token in TOKENIZER.encode(piece.strip())])


def test_i4_no_change_of_the_oracle_is_ever_dropped():
    changes = [
        ("replace", [10] * 40),
        *(("append", [11]) for _ in range(50)),
        ("replace", [20, 21]),
        ("append", [22]),
    ]

    def claim(row):
        text = "".join("|" if token == START else f" {token}" for token in row if token != PAD)
        assert text.split("|")[-1].split() == ["20", "21", "22"]
        assert "10" not in text.split("|")[-1]

    engine = FakeEngine()
    session = engine.join()
    for op, tokens in changes:
        getattr(session, op)(tokens)
    claim([session.push(np.zeros(1920, np.float32)).oracle for _ in range(30)])

    waiting = queue.Queue(maxsize=16)
    for change in changes:
        with contextlib.suppress(queue.Full):  # as the reference, which says so in a log line
            waiting.put_nowait(change)
    ops = [OracleOp(0, *waiting.get()) for _ in range(waiting.qsize())]
    fails(claim, SCHEDULE.play(ops, 90)[0].tolist())


def test_i5_each_row_has_its_own_oracle_and_its_own_clock():
    first, second = {0: [10, 11, 12, 13, 14, 15]}, {3: [20, 21, 22]}

    def alone(changes, frames):
        return SCHEDULE.play([OracleOp(s, "replace", tuple(t)) for s, t in changes.items()], frames)[
            0
        ].tolist()

    def claim(rows):
        assert rows[0] == alone(first, 8)
        # The second conversation began two frames later, and counts its own.
        assert rows[1] == alone(second, 6)

    step = jax.jit(jax.vmap(lambda *row: device._oracle(SCHEDULE, *row)))
    state = jax.tree.map(lambda a: jnp.repeat(a[None], 2, axis=0), SCHEDULE.initial())
    rows, clocks = ([], []), np.zeros(2, np.int32)
    for frame in range(8):
        running = np.array([True, frame >= 2])
        idle = device.idle_inputs(CONFIG, 2, None)
        op, count = np.full(2, device.NO_CHANGE, np.int32), np.zeros(2, np.int32)
        tokens = np.zeros((2, device.TOKENS_A_FRAME), np.int32)
        for row, changes in enumerate((first, second)):
            new = changes.get(int(clocks[row])) if running[row] else None
            if new:
                op[row], count[row] = 0, len(new)
                tokens[row, : len(new)] = new
        inputs = idle._replace(running=running, op=op, tokens=tokens, count=count)
        read, state = step(state, clocks, inputs)
        for row in range(2):
            if running[row]:
                rows[row].append(int(read[row]))
        clocks = clocks + running
    claim(rows)

    # The reference: one buffer and one host counter for the batch; a row that starts sets it back for all.
    shared, since, both = [], 0, ([], [])
    for frame in range(8):
        if frame == 2:
            since = 0
        for row, changes in enumerate((first, second)):
            clock = frame - 2 * row
            if clock in changes:
                shared, since = [START, *changes[clock]], 0
        token = shared[since] if since < len(shared) else PAD
        since += 1
        both[0].append(token)
        if frame >= 2:
            both[1].append(token)
    fails(claim, both)


def test_i6_more_oracle_changes_no_shape_and_compiles_nothing():
    def claim(append, state, read):
        shapes = {str(jax.tree.map(jnp.shape, state))}
        for step in range(6):
            state = append(state, step)
            read(state, step)
            shapes.add(str(jax.tree.map(jnp.shape, state)))
        assert len(shapes) == 1
        assert read._cache_size() == 1

    apply = jax.jit(SCHEDULE.apply)
    tokens = np.zeros(device.TOKENS_A_FRAME, np.int32)
    claim(
        lambda state, step: apply(state, step, int(step > 0), tokens, 1 + step),
        SCHEDULE.initial(),
        jax.jit(SCHEDULE.read),
    )
    assert apply._cache_size() == 1
    # And one transfer of a few hundred bytes carries a frame's change, however long the answer.
    idle = device.idle_inputs(CONFIG, 1, 1920)
    assert sum(part.nbytes for name, part in zip(idle._fields, idle) if name != "heard") < 300

    fails(
        claim,
        lambda tokens, step: jnp.concatenate([tokens, jnp.zeros(1 + step, jnp.int32)]),
        jnp.zeros(1, jnp.int32),
        jax.jit(lambda tokens, step: tokens[step]),
    )


def test_i7_the_old_answer_stands_until_the_new_one_begins():
    answers = ["one two three four five six seven eight "], [12, "nine ten eleven twelve "]

    def claim(adopt):
        trigger = TriggerConfig(interval=0.0, new_words=3, end_of_turn=False)
        row, _ = talk(Script(*answers), config=TandemConfig(trigger=trigger, adopt=adopt))
        assert answers_in(row)[-1] == "nine ten eleven twelve"
        assert PAD not in row[row.index(START) : row.index(START) + 12]

    claim("first_token")
    fails(claim, "at_once")


def test_i8_a_language_model_reads_what_was_said_in_its_order_and_in_bounds():
    pieces = TOKENIZER.encode("In the purple xylophone")

    def claim(said, chat):
        assert said == "In the purple xylophone"
        assert [m["role"] for m in chat] == ["system", "user", "assistant", "user"]
        assert [m["content"] for m in chat[1:]] == ["Where is it", said, "Thank you"]
        assert sum(len(m["content"]) for m in chat[1:]) <= 60

    words = TextStream(TOKENIZER)
    for token in pieces:
        words.push(token)
    turns = [
        Turn("user", "Old. " * 50, 0.1),
        Turn("user", "Where is it", 2.0),
        Turn("assistant", words.text, 3.0),
    ]
    question = Question((*turns, Turn("user", "Thank you", 5.0)), "Thank you", False, 5.0)
    claim(words.text, messages(question, TandemConfig(context_chars=45), LLMConfig(model="m")))

    # The reference: pieces stripped and joined by spaces, what was said after the reply to it, all of it, always.
    joined = " ".join(TOKENIZER.id_to_piece(token).replace("▁", " ").strip() for token in pieces)
    late = [turns[0], Turn("assistant", joined, 3.0), turns[1], Turn("user", "Thank you", 5.0)]
    fails(
        claim,
        joined,
        [{"role": "system", "content": ""}, *({"role": t.role, "content": t.text} for t in late)],
    )
    assert joined != words.text
