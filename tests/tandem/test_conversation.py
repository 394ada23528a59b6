"""The tandem: when it asks, whose answer stands, and that nothing a back end does can reach the sound."""

import asyncio
import contextlib
import json
import math
from collections import deque

import jax
import numpy as np
import pytest

from kame_jax.assets import TINY
from kame_jax.config import LLMConfig, TandemConfig, TriggerConfig
from kame_jax.decode import slots as device
from kame_jax.decode.offline import read_oracle_log
from kame_jax.decode.session import Session
from kame_jax.llm import LLMError, Usage
from kame_jax.oracle import OracleSchedule
from kame_jax.oracle.text import decode_text, load_tokenizer
from kame_jax.tandem import Conversation, Embedded, Heard, LanguageModel, TimedTranscript
from kame_jax.tandem.backend import json_line
from tests.decode.small import CONFIG
from tests.llm.server import Server, Turn

TOKENIZER = load_tokenizer(TINY / "tokenizer.model")
SILENCE = np.zeros(1920, np.float32)
START, PAD = CONFIG.text_card, CONFIG.text_padding_id
SCHEDULE = OracleSchedule(START, PAD)
READ = jax.jit(lambda *args: device._oracle(SCHEDULE, *args))
WORDS = [("Where", 0.1, 0.3), ("did", 0.3, 0.5), ("my", 0.5, 0.7), ("umbrella", 0.8, 1.2), ("go", 1.2, 1.4)]


class FakeEngine:
    """An engine whose model is silent: only the oracle's line is real, from the same code that the device runs."""

    def __init__(self):
        self.config, self.tokenizer = CONFIG, TOKENIZER
        self.schedule = SCHEDULE
        self.state = self.schedule.initial()
        self.idle = device.SlotInputs(*map(np.asarray, device.idle_inputs(CONFIG, 1, 1920)))
        self.says = deque()

    def join(self):
        return Session(self.config, self.tokenizer, 0, self.push, lambda session: None)

    def push(self, session, heard):
        inputs = device.SlotInputs(*(a.copy() for a in self.idle))
        inputs.running[0] = inputs.hears[0] = True
        session.fill(inputs)
        row = jax.tree.map(lambda a: a[0], inputs)
        token, self.state = READ(self.state, session.frames, row)
        counts = np.array([[int(getattr(self.state, name)) for name in device.COUNTS]])
        tokens = np.array([[self.says.popleft() if self.says else PAD, 0, 0]])
        out = device.SlotOutputs(
            tokens, np.ones(1, bool), SILENCE[None], np.array([int(token)]), counts, np.zeros((1, 0, 6))
        )
        return session.take(out, 0, 0.01)


class Script:
    """A back end whose answers are written down: for each question its pieces, with frames to wait in between."""

    immediate = False

    def __init__(self, *answers):
        self.answers, self.questions, self.closed, self.tick = list(answers), [], [], asyncio.Event

    @contextlib.asynccontextmanager
    async def ask(self, question):
        self.questions.append(question)
        number = len(self.questions) - 1

        async def pieces():
            for piece in self.answers[min(number, len(self.answers) - 1)]:
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, int):
                    until = self.frames() + piece
                    while self.frames() < until:
                        await asyncio.sleep(0)
                else:
                    yield piece

        try:
            yield pieces()
        finally:
            self.closed.append(number)

    async def close(self):
        """Nothing is open."""

    def usage(self):
        return Usage(), 0.0


def talk(backend, seconds=4.0, words=WORDS, config=TandemConfig(), log=None, says=(), say=lambda line: None):
    """A conversation on the frame clock; gives the oracle row that was read, and the conversation."""
    engine = FakeEngine()
    engine.says.extend(says)
    session = engine.join()
    if isinstance(backend, Script):
        backend.frames = lambda: session.frames
    source = TimedTranscript(words) if isinstance(words, list) else words
    conversation = Conversation(session, source, backend, config, log, say)

    async def main():
        return await conversation.run([SILENCE] * round(seconds / 0.08))

    frames = asyncio.run(asyncio.wait_for(main(), 60))
    return [frame.oracle for frame in frames], conversation


def answers_in(row):
    """The texts of the answers in an oracle row, in order, as far as they were read."""
    text = " ".join("|" if token == START else str(token) for token in row)
    return [decode_text(TOKENIZER, map(int, part.split())) for part in text.split("|")[1:]]


ENTRIES = [("Where did my umbrella go", "In the blue box"), ("Where did my parcel go", "To Oslo with Emily")]


def test_the_embedded_back_end_tells_the_oracle_before_the_user_has_finished():
    row, conversation = talk(Embedded(ENTRIES))
    assert answers_in(row)[-1] == "In the blue box"
    told = len(row) - row[::-1].index(START) - 1
    assert told * 0.08 < 1.5
    report = conversation.report()
    assert report["events"]["adopted"] == 1
    assert report["word_to_oracle_seconds_p50"] < 0.3
    assert report["oracle_read_fraction"] > 0.5
    assert report["llm_questions"] == report["events"]["asked"]


def test_it_runs_the_same_way_every_time_and_its_log_replays_it(tmp_path):
    runs, lines = [], []
    for _ in range(2):
        lines.clear()
        runs.append(talk(Embedded(ENTRIES), log=lambda event: lines.append(json.dumps(event)))[0])
    assert runs[0] == runs[1]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    ops = read_oracle_log(tmp_path / "log.jsonl", None, START)
    assert OracleSchedule(START, PAD).play(ops, len(runs[0]))[0].tolist() == runs[0]


def test_questions_come_with_new_words_after_the_interval_and_at_the_end_of_the_turn():
    backend = Script([])
    talk(backend, config=TandemConfig(trigger=TriggerConfig(interval=0.5, new_words=2)))
    asked = [(question.partial, question.final) for question in backend.questions]
    assert asked == [("Where", False), ("Where did my", False), ("Where did my umbrella go", False)]
    backend = Script([])
    talk(backend, config=TandemConfig(trigger=TriggerConfig(interval=0.5, new_words=9)))
    assert [(q.partial, q.final) for q in backend.questions] == [
        ("Where", False),
        ("Where did my umbrella go", True),
    ]


def test_the_rate_of_questions_is_limited():
    backend = Script([])
    _, conversation = talk(
        backend,
        config=TandemConfig(trigger=TriggerConfig(interval=0.0, new_words=1), max_questions_a_minute=2),
    )
    assert len(backend.questions) == 2
    assert conversation.events["limited"] > 0


TWO = TandemConfig(trigger=TriggerConfig(interval=0.0, new_words=3, end_of_turn=False))


def test_a_new_answer_replaces_the_old_one_only_when_it_has_begun():
    """Defect I7: the reference cancels first, and reads nothing until the new answer begins."""
    backend = Script(["one two three four five six seven eight "], [12, "nine ten eleven twelve "])
    row, conversation = talk(backend, config=TWO)
    first, second = answers_in(row)
    assert first.startswith("one two three four")
    assert second == "nine ten eleven twelve"
    assert PAD not in row[row.index(START) : row.index(START) + 12]
    assert conversation.events["adopted"] == 2
    gap, _ = talk(
        Script(["one two three four five six seven eight "], [12, "nine ten eleven twelve "]),
        config=TandemConfig(trigger=TWO.trigger, adopt="at_once"),
    )
    assert sum(token == PAD for token in gap[gap.index(START) : 30]) > 8


def test_tokens_that_come_late_are_read_next():
    """Defect I1: the reference counts frames since the answer began, and never reads what comes after a pause."""
    once = TandemConfig(trigger=TriggerConfig(new_words=9, end_of_turn=False))
    row, _ = talk(Script(["in blue with red in Rome ", 16, "with Emily in green "]), seconds=6, config=once)
    assert answers_in(row) == ["in blue with red in Rome with Emily in green"]
    first = row[row.index(START) :]
    assert PAD in first[: first.index(TOKENIZER.encode("green")[-1])]


def test_what_an_answer_has_that_cannot_be_spoken_is_counted():
    once = TandemConfig(trigger=TriggerConfig(new_words=9, end_of_turn=False))
    row, conversation = talk(Script(["in blue ```x = 1``` with red "]), seconds=6, config=once)
    assert answers_in(row) == ["in blue with red"]
    assert conversation.events["unspoken_code"] == 1


def test_the_older_of_two_answers_never_overtakes_the_newer_one():
    row, conversation = talk(Script([14, "old old old "], ["new new new "]), config=TWO)
    assert "old" not in " ".join(answers_in(row))
    assert conversation.events["cancelled"] == 1


def test_at_most_max_streams_answers_are_under_way():
    backend = Script([100, "never "])
    many = TandemConfig(trigger=TriggerConfig(interval=0.0, new_words=1), max_streams=2)
    _, conversation = talk(backend, config=many)
    assert len(backend.questions) == 5
    assert sorted(backend.closed) == [0, 1, 2, 3, 4]
    assert conversation.events["cancelled"] == 5


def test_answers_that_take_longer_than_questions_are_apart_still_come():
    backend = Script([30, "in the blue box "])
    many = TandemConfig(trigger=TriggerConfig(interval=0.0, new_words=1), max_streams=2)
    row, conversation = talk(backend, seconds=6, config=many)
    # The first question's answer is there 30 frames later, and in the end stands the answer to the last.
    assert row.index(START) == pytest.approx(WORDS[0][2] / 0.08 + 30, abs=2)
    assert len(answers_in(row)) == 2
    assert conversation.events["cancelled"] == 3


@pytest.mark.parametrize("error", [LLMError("cut", "x"), LLMError("timeout", "x"), ValueError("x")])
def test_after_a_failure_there_is_no_oracle_and_it_is_counted(error):
    row, conversation = talk(
        Script(["one two three four five six seven eight nine ten "], ["no ", error]), config=TWO
    )
    kind = error.kind if isinstance(error, LLMError) else "ValueError"
    assert conversation.events[f"failed_{kind}"] >= 1
    assert set(row[20:]) == {PAD}
    kept, _ = talk(
        Script(["one two three four five six seven eight nine ten "], ["no ", error]),
        config=TandemConfig(trigger=TWO.trigger, on_failure="keep"),
    )
    assert answers_in(kept)[-1].startswith("one two three four five six seven eight nine ten")


def test_an_answer_of_100_000_words_enters_only_as_far_as_it_is_wanted():
    """Defect I4: a full queue drops changes; here an answer ends where it is too long, and changes are never lost."""
    row, conversation = talk(Script(["word "] * 100_000), config=TandemConfig(max_words=6))
    assert answers_in(row)[-1] == "word word word word word word"
    assert conversation.events["cut_long"] >= 1


def test_what_the_model_said_is_told_in_whole_words_at_its_place():
    backend = Script([])
    said = [PAD] * 25 + TOKENIZER.encode("In the box")
    later = [("Thank", 3.5, 3.7), ("you", 3.7, 3.8)]
    talk(backend, seconds=6, words=WORDS + later, says=said)
    turns = backend.questions[-1].turns
    assert [(turn.role, turn.text) for turn in turns] == [
        ("user", "Where did my umbrella go"),
        ("assistant", "In the box"),
        ("user", "Thank you"),
    ]


def test_the_first_word_before_the_end_of_the_turn_is_a_negative_latency():
    early = talk(None, says=[PAD] * 10 + TOKENIZER.encode("In"))[1].report()["first_word_seconds"]
    late = talk(None, says=[PAD] * 30 + TOKENIZER.encode("In"))[1].report()["first_word_seconds"]
    assert early == pytest.approx(0.8 - 1.4, abs=0.1)
    assert late == pytest.approx(2.4 - 1.4, abs=0.1)


def heard_as(*texts):
    """A source of transcripts that says these texts, one every half second; the last one ends the turn."""
    ends = [0.5 * (number + 1) for number in range(len(texts))]
    source = TimedTranscript([("x", 0.0, 0.1)])
    source.push = lambda samples, time: [
        Heard(text, number == len(texts) - 1, time)
        for number, (text, end) in enumerate(zip(texts, ends))
        if end <= time < end + 0.08
    ]
    return source


def test_punctuation_and_notes_are_never_asked():
    backend = Script([])
    _, conversation = talk(backend, words=heard_as(".", "...", "[Music]", "♪", ". ."))
    assert backend.questions == []
    assert conversation.unanswered is None


def test_a_language_without_spaces_is_asked_about_while_it_is_spoken():
    backend = Script([])
    talk(backend, words=heard_as("鍵は", "鍵はどれ", "鍵はどれです", "鍵はどれですか"))
    assert [(q.partial, q.final) for q in backend.questions] == [
        ("鍵は", False),
        ("鍵はどれです", False),
        ("鍵はどれですか", True),
    ]


def test_what_a_source_says_wrong_of_text_and_time_is_mended():
    backend, lines = Script([]), []
    source = heard_as("Where \ud800 is", "Where is it")
    said = source.push
    source.push = lambda samples, time: [told._replace(time=math.inf) for told in said(samples, time)]
    _, conversation = talk(backend, words=source, log=lines.append)
    assert [question.time for question in backend.questions] == [
        pytest.approx(t, abs=0.08) for t in (0.5, 1.0)
    ]
    "".join(map(json_line, lines)).encode()
    json.dumps(conversation.report()).encode()


def test_failures_are_told_once_and_who_never_answered_is_named():
    error, told = LLMError("refused", "status 401: no such key"), []
    error.who = "model m"
    backend = Script([error])
    _, conversation = talk(backend, say=told.append)
    assert conversation.events["failed_refused"] > 1
    assert told == ["model m: refused: status 401: no such key"]
    assert "never gave an answer: model m: refused" in conversation.unanswered
    assert conversation.report()["problems"][0].startswith("model m: refused (")
    assert talk(Script(["one two three "]))[1].unanswered is None


def test_a_recogniser_that_never_gave_a_word_is_named():
    source = heard_as(".")
    source.failures.add("speech-to-text at http://x", "connection", "refused")
    _, conversation = talk(Script([]), words=source)
    assert conversation.unanswered.startswith("no word of the user was ever understood: speech-to-text at")
    assert conversation.report()["unanswered"] == conversation.unanswered


WRONG = {
    "failed_rate_limit": Turn(status=429),
    "failed_server": Turn(status=503),
    "failed_cut": Turn(end="cut", text="a b c d e f g h i j k l m n o p"),
    "failed_malformed": Turn(end="malformed", text="a b c d e f g h i j k l m n o p"),
    "failed_timeout": Turn(delay=30.0),
    "cut_long": Turn(pieces=("word ",) * 100_000),
    "complete": Turn("one two three four five"),
}


def test_what_a_server_does_wrong_never_stops_the_frames():
    async def one(server, kind):
        llm = LLMConfig(
            model="m",
            base_url=server.url,
            retries=0,
            first_token_timeout=5.0 if "timeout" not in kind else 0.2,
        )
        config = TandemConfig(llm=llm, trigger=TriggerConfig(new_words=9, end_of_turn=False))
        backend = LanguageModel(config)
        conversation = Conversation(FakeEngine().join(), TimedTranscript(WORDS), backend, config)
        row = []
        while len(row) < 1000 and (not conversation.events[kind] or row[-12:] != [PAD] * 12):
            row.append((await conversation.step(SILENCE)).oracle)
            await asyncio.sleep(0.005)
        await conversation.close()
        await backend.close()
        return row, conversation

    async def main():
        for kind, turn in WRONG.items():
            with Server([turn]) as server:
                row, conversation = await one(server, kind)
            assert conversation.events[kind] == 1, kind
            assert row[-1] == PAD
            assert conversation.events["asked"] == conversation.report()["llm_questions"] == 1
            # What came before a failure is read, unless a frame was so slow that both came within it.
            if kind not in ("failed_cut", "failed_malformed"):
                assert (START in row) == (kind in ("cut_long", "complete")), kind

    asyncio.run(asyncio.wait_for(main(), 600))
