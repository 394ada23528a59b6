"""The engine: many conversations on one compiled step, each as if it were alone."""

import asyncio
import functools
import json

import jax
import numpy as np
import pytest

from kame_jax.codec import mimi as codec
from kame_jax.codec.recording import decode_recording, encode_recording
from kame_jax.config import TandemConfig, TriggerConfig
from kame_jax.decode import greedy, sampling
from kame_jax.decode.engine import Engine, EngineOptions
from kame_jax.decode.offline import reply
from kame_jax.errors import InputError
from kame_jax.interop import load_checkpoint
from kame_jax.llm import LLMError
from kame_jax.oracle import OracleOp, OracleSchedule
from kame_jax.tandem import Conversation, TimedTranscript
from tests.decode import small
from tests.golden.read import LM_FILES, QUICK, outputs
from tests.tandem.test_conversation import WORDS, Script

FRAMES = 30
SCHEDULE = OracleSchedule(small.CONFIG.text_card, small.CONFIG.text_padding_id)


@functools.cache
def shared() -> Engine:
    """One engine of sound for all tests that leave it as they found it."""
    return small.engine(slots=3)


@functools.cache
def of_codes() -> Engine:
    """One of codes, with one slot."""
    return small.engine(sound=False)


def converse(session, audio, changes=(), others=lambda frame: {}):
    """Streams `audio`; `changes` are oracle changes by frame, `others` what other sessions hear at the same time."""
    frames = []
    for index, samples in enumerate(audio):
        for change in changes:
            if change.step == index:
                session.change(change)
        frames.append(shared().step({session: samples} | others(index))[session])
    return frames


def sound_and_tokens(frames):
    assert all(frame.samples is not None for frame in frames)
    return np.stack([f.samples for f in frames]), np.stack([f.tokens for f in frames])


CHANGES = (OracleOp(4, "replace", (20, 21, 22)), OracleOp(5, "append", (30, 31)), OracleOp(20, "clear"))


def test_a_wav_streamed_frame_by_frame_is_what_the_offline_driver_says():
    audio = small.voice(FRAMES)
    with shared().join(settings=greedy(1)) as session:
        heard = converse(session, audio, CHANGES)
    sound, tokens = sound_and_tokens(heard)
    model, mimi = small.model(), codec.prepare(small.mimi())
    user = encode_recording(mimi, audio.reshape(1, -1), codebooks=2)
    oracle, _ = SCHEDULE.play(CHANGES, FRAMES)
    keys = jax.random.split(jax.random.key(0), 1)
    expected = reply(model, user, np.zeros(2, np.int32), oracle[None], greedy(1), keys)[0]
    np.testing.assert_array_equal(tokens.T, expected)
    assert [frame.oracle for frame in heard] == oracle.tolist()
    # Sums of one frame and of many in another order: float32 roundings through a dozen layers.
    whole = decode_recording(mimi, expected[None, 1:])[0]
    np.testing.assert_allclose(sound.ravel(), whole, atol=1e-5 * np.abs(whole).max())


def test_a_conversation_does_not_hear_its_neighbours_bit_for_bit():
    audio, noise = small.voice(FRAMES), small.voice(FRAMES, seed=7)
    with shared().join(seed=5) as session:
        alone = sound_and_tokens(converse(session, audio, CHANGES))
    first = shared().join(seed=1)
    with shared().join(seed=5) as session:
        second = None

        def others(frame):
            """One neighbour pauses now and then, the other comes, talks over an oracle of its own, and goes."""
            nonlocal second
            if frame == 6:
                second = shared().join(seed=9, settings=sampling(1, text_temperature=1.5))
                second.replace([7] * 40)
            if frame == 18:
                second.leave()
            beside = {first: noise[frame]} if frame % 3 else {}
            return beside | ({second: noise[-frame]} if 6 <= frame < 18 else {})

        among = sound_and_tokens(converse(session, audio, CHANGES, others))
    first.leave()
    for a, b in zip(alone, among):
        np.testing.assert_array_equal(a, b)


def test_a_paused_session_continues_where_it_stopped():
    audio = small.voice(FRAMES)
    with shared().join(seed=5) as session:
        straight = sound_and_tokens(converse(session, audio))
    with shared().join(seed=5) as session, shared().join() as other:
        parts = converse(session, audio[:10])
        for samples in audio[:5]:
            other.push(samples)
        parts += converse(session, audio[10:])
    for a, b in zip(straight, sound_and_tokens(parts)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "answer",
    [
        [10**9],
        [LLMError("timeout", "x")],
        ["one two three four ", 2, LLMError("cut", "x")],
        ["one two three four five six "],
    ],
    ids=["never answers", "fails", "is cut", "answers"],
)
def test_whatever_a_back_end_does_no_sample_is_missing_and_the_log_gives_the_same_sound(answer):
    audio, backend = small.voice(FRAMES), Script(answer)
    config = TandemConfig(trigger=TriggerConfig(new_words=9, end_of_turn=False))
    with shared().join(seed=5) as session:
        backend.frames = lambda: session.frames
        conversation = Conversation(session, TimedTranscript(WORDS), backend, config)
        live, log = sound_and_tokens(asyncio.run(conversation.run(list(audio)))), session.log
    assert conversation.events["asked"] == 1
    assert live[0].shape == audio.shape
    with shared().join(seed=5) as session:
        again = sound_and_tokens(converse(session, audio, log))
    with shared().join(seed=5) as session:
        without = sound_and_tokens(converse(session, audio))
    for a, b in zip(live, again):
        np.testing.assert_array_equal(a, b)
    told = any(op.op == "replace" for op in log)
    assert told == isinstance(answer[0], str)
    assert told or (live[0] == without[0]).all()


def test_a_freed_slot_keeps_nothing_of_the_conversation():
    with shared().join(seed=3) as session:
        converse(session, small.voice(FRAMES), CHANGES)
        assert session.slot == 0
        used = first_rows(shared())
    left = first_rows(shared())
    shared().join(seed=8).leave()
    fresh = first_rows(shared())
    assert sum((a != b).any() for a, b in zip(used, fresh)) > len(fresh) / 2
    for now, before in zip(left, fresh, strict=True):
        np.testing.assert_array_equal(now, before)


def first_rows(engine):
    """What the first slot of an engine holds."""
    state = engine.state
    state = state._replace(lm=state.lm._replace(keys=jax.random.key_data(state.lm.keys)))
    return [np.array(a[0]) for a in jax.tree.leaves(state)]


def test_nothing_compiles_after_the_start():
    compiled = []

    def listen(event, duration, **more):
        if "backend_compile" in event:
            compiled.append(event)

    engine, audio = shared(), small.voice(6)
    settings = [None, greedy(1), sampling(1, text_top_k=3)]
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for choice in settings:
            with engine.join(settings=choice, seed=9) as session, engine.join() as other:
                session.replace("It is in the blue box.")
                converse(session, audio, CHANGES, lambda frame, other=other: {other: audio[0]})
                session.replace(list(range(4, 200)))
                session.push(audio[0])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


def test_an_answer_longer_than_a_frame_carries_is_read_whole():
    answer = [4 + i % 300 for i in range(70)]
    with shared().join() as session:
        session.replace(answer[:50])
        session.append(answer[50:])
        read = [session.push(samples).oracle for samples in np.resize(small.voice(4), (75, small.FRAME))]
        assert read == [512, *answer, 3, 3, 3, 3]
        assert session.counts == {"read": 71, "erased": 0, "late": 0, "overflow": 0}


def test_several_changes_of_one_frame_are_what_the_schedule_makes_of_them():
    changes = [
        OracleOp(1, "append", (10, 11)),
        OracleOp(3, "append", (12,)),
        OracleOp(3, "clear"),
        OracleOp(3, "append", (13, 14)),
        OracleOp(4, "replace", (15, 16)),
        OracleOp(4, "replace", (17, 18)),
        OracleOp(4, "append", (19,)),
        OracleOp(9, "append", ()),
        OracleOp(10, "append", (20,)),
    ]
    row, state = SCHEDULE.play(changes, 14)
    with shared().join() as session:
        frames = converse(session, small.voice(14), changes)
    assert [frame.oracle for frame in frames] == row.tolist()
    assert session.log == changes
    assert session.counts["read"] == int(state.read)


def test_a_prompt_is_said_as_given():
    prompt = np.full((3, 5), -2)
    prompt[0] = [40, 41, 42, 43, 44]
    prompt[2, :3] = [1, 2, 3]
    with shared().join(settings=greedy(1), prompt=prompt) as session:
        _, tokens = sound_and_tokens(converse(session, small.voice(8)))
    assert tokens[:5, 0].tolist() == [40, 41, 42, 43, 44]
    assert tokens[:3, 2].tolist() == [1, 2, 3]


def test_text_comes_with_its_spaces_as_it_is_said():
    words = small.tokenizer().encode("It is in the blue box")
    prompt = np.full((3, 2 * len(words)), -2)
    prompt[0] = 3
    prompt[0, ::2] = words
    with shared().join(prompt=prompt) as session:
        said = [frame.text for frame in converse(session, small.voice(2 * len(words)))]
    assert "".join(said) == "It is in the blue box" == session.words.text


def test_what_does_not_fit_is_refused():
    engine = of_codes()
    session = engine.join()
    with pytest.raises(InputError, match="all 1 session slots are taken"):
        engine.join()
    with pytest.raises(ValueError, match=r"shape \[2\], got \[1920\]"):
        session.push(small.voice(1)[0])
    with pytest.raises(ValueError, match="are outside"):
        session.replace([512])
    session.leave()
    session.leave()
    with pytest.raises(ValueError, match="has left"):
        session.push(np.zeros(2, np.int32))
    with pytest.raises(InputError, match="guided=True"):
        engine.join(guidance=2.0)


@pytest.mark.parametrize("slots", [1, 8])
def test_1000_greedy_frames_equal_the_reference_while_rows_come_and_go_and_pause(slots):
    golden = outputs("kame", "stream_long")
    steps = len(golden["oracle"])
    assert steps == 1000
    events = [json.loads(line) for line in (LM_FILES / "kame" / "oracle_long.jsonl").read_text().splitlines()]
    changes = {(e["row"], e["frame"]): OracleOp(e["frame"], e["op"], tuple(e["tokens"])) for e in events}
    engine = Engine(
        load_checkpoint(LM_FILES / "kame")[1],
        options=EngineOptions(slots=slots, late="drop"),
        compiler_options=QUICK,
    )
    rng = np.random.default_rng(0)
    # Every slot has had another conversation before, of any length.
    before = {engine.join(seed=slot): int(rng.integers(5, 60)) for slot in range(slots)}
    waiting, rows_of, said = list(range(slots)), {}, {row: [] for row in range(slots)}
    while waiting or rows_of:
        if waiting and engine.free and rng.random() < 0.1:
            rows_of[engine.join(settings=greedy(1))] = waiting.pop(0)
        heard = {session: golden["user"][session.frames, 0].astype(np.int32) for session in before}
        for session, row in rows_of.items():
            if rng.random() < 0.9:
                heard[session] = golden["user"][session.frames, row].astype(np.int32)
                if (row, session.frames) in changes:
                    session.change(changes[row, session.frames])
        for session, frame in engine.step(heard).items():
            if session in before:
                if session.frames == before[session]:
                    session.leave()
                    del before[session]
                continue
            row = rows_of[session]
            assert frame.oracle == golden["oracle"][frame.index, row]
            said[row].append(np.full(9, -2) if frame.tokens is None else frame.tokens)
            if session.frames == steps:
                session.leave()
                del rows_of[session]
    for row in range(slots):
        np.testing.assert_array_equal(np.stack(said[row]), golden["tokens"][:, row])
