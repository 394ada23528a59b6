"""A conversation at its edges: keys stay secret, streams are closed, limits hold, models are routed."""

import asyncio
import json
import logging
import time

import pytest

from kame_jax.config import LLMConfig, TandemConfig, TriggerConfig
from kame_jax.tandem import Conversation, LanguageModel, TimedTranscript
from tests.llm.server import Server, Turn
from tests.tandem.test_conversation import PAD, SILENCE, START, WORDS, FakeEngine, Script

KEY = "sk-secret-0123456789"
EVERY_WORD = TriggerConfig(interval=0.0, new_words=1)


def converse(server, until, config=None, frames=2000):
    """A conversation with a real client and a server, `until(conversation)`; gives the row, the log, and the rest.

    With a `config`, each frame waits for what is asked, so that it does not depend on the machine.
    """
    waits = config is not None
    llm = LLMConfig(model="m", base_url=server.url, api_key_env="KAME_TEST_KEY", retries=0)
    config = config or TandemConfig(llm=llm, trigger=TriggerConfig(new_words=9, end_of_turn=False))
    row, lines = [], []

    async def main():
        backend = LanguageModel(config)
        conversation = Conversation(
            FakeEngine().join(), TimedTranscript(WORDS), backend, config, lines.append
        )
        while len(row) < frames and not until(conversation):
            row.append((await conversation.step(SILENCE)).oracle)
            await asyncio.sleep(0.005)
            if waits:
                await asyncio.gather(*(a.task for a in conversation._answers), return_exceptions=True)
        await conversation.close()
        for _ in range(12):
            row.append((await conversation.step(SILENCE)).oracle)
        await backend.close()
        return conversation

    return row, lines, asyncio.run(asyncio.wait_for(main(), 600))


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_key_reaches_no_log_no_report_and_no_event(status, monkeypatch, caplog, capsys):
    monkeypatch.setenv("KAME_TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    # This server repeats the key in its answer, as some proxies do.
    with Server([Turn(status=status)]) as server:
        _, lines, conversation = converse(server, lambda c: any(k.startswith("failed") for k in c.events))
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    said = json.dumps([lines, conversation.report()]) + caplog.text + str(capsys.readouterr())
    assert any(name.startswith("failed") for name in conversation.events)
    assert KEY not in said


def test_who_leaves_a_conversation_hangs_up_on_its_answers():
    with Server([Turn(pieces=("word ",) * 1000, gap=0.05)]) as server:
        _, _, conversation = converse(server, lambda c: c.events["adopted"])
        deadline = time.monotonic() + 30
        while not server.hangups and time.monotonic() < deadline:
            time.sleep(0.01)
    assert server.hangups == 1
    assert server.sent < 900
    assert conversation.events["cancelled"] == 1


@pytest.mark.parametrize(
    "text",
    ["\n", "\U0001f600", "<s> </s> <unk> ", "$$ ", "```", "( ", ". ", "| ", "\\(", "[a](", "8*4=", "9"],
)
def test_no_answer_keeps_the_frames_waiting(text):
    """What counts is the time from frame to frame, and not the engine's part of it alone."""
    backend = Script([("umbrella " + text * 4000)[:4000]])
    session = FakeEngine().join()
    backend.frames = lambda: session.frames
    config = TandemConfig(trigger=TriggerConfig(new_words=9, end_of_turn=False))
    conversation = Conversation(session, TimedTranscript(WORDS), backend, config)

    async def main():
        while not any(conversation.events[end] for end in ("complete", "empty", "cut_long")):
            assert session.frames < 10_000
            await conversation.step(SILENCE)
        await conversation.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    # Some 20 ms; on a busy machine more, but never the minute that such an answer once took.
    assert conversation.report()["frame_ms_max"] < 1000


@pytest.mark.parametrize("limits", [{"max_total_tokens": 1}, {"max_cost": 1e-9, "input_price": 1.0}])
def test_a_limit_of_tokens_or_cost_ends_the_asking_and_the_frames_go_on(limits):
    with Server([Turn("one two three four five")]) as server:
        llm = LLMConfig(model="m", base_url=server.url, retries=0, **limits)
        config = TandemConfig(llm=llm, trigger=EVERY_WORD)
        row, _, conversation = converse(server, lambda c: c.time > 3, config)
    assert START in row
    assert row[-1] == PAD
    assert len(server.requests) == conversation.events["complete"] == 1
    assert conversation.events["failed_budget"] == conversation.events["asked"] - 1 > 0


def test_interim_answers_are_asked_of_the_small_model_and_the_final_one_of_the_large():
    with Server() as server:
        small, large = (LLMConfig(model=name, base_url=server.url) for name in ("small", "large"))
        config = TandemConfig(llm=small, final_llm=large, trigger=EVERY_WORD)
        converse(server, lambda c: c.time > 2.6, config)
    asked = [
        (request["model"], "has finished" in request["messages"][0]["content"]) for request in server.requests
    ]
    assert {final for model, final in asked if model == "large"} == {True}
    assert {final for model, final in asked if model == "small"} == {False}
