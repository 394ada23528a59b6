"""Kyutai's speech-to-text server: words with the conversation's times, turns by predicted pauses, lost connections."""

import asyncio

import msgpack
import numpy as np
import pytest

from kame_jax.config import STTConfig
from kame_jax.errors import InputError
from kame_jax.llm.sockets import socket_failure
from kame_jax.tandem import Heard
from kame_jax.tandem.kyutai_server import KyutaiServer
from tests.tandem.servers import Sockets, play

SOUND = np.zeros(24_000 * 2, np.float32)
FAST = {"backoff": 0.01, "max_backoff": 0.05, "timeout": 100.0}


class Moshi:
    """A moshi-server whose model says, at given steps of its own clock, what is written down.

    `script`: step -> messages without their Step; `pauses`: steps at which a pause is predicted.
    """

    def __init__(self, script, pauses=(), delay=6, heads=4):
        self.script, self.pauses, self.delay, self.heads = script, pauses, delay, heads
        self.steps = []

    async def __call__(self, server, socket):
        pcm, step, markers = 0, 0, []
        self.steps.append(0)
        await socket.send(msgpack.packb({"type": "Ready"}))
        async for data in socket:
            message = msgpack.unpackb(data)
            server.received.append(message["type"])
            if message["type"] == "Marker":
                markers.append((step + self.delay, message["id"]))
                continue
            pcm += len(message["pcm"])
            while pcm >= 1920:
                pcm, step = pcm - 1920, step + 1
                self.steps[-1] = step
                for said in self.script.get(step, ()):
                    if isinstance(said, Exception):
                        await socket.close(1011)
                        return
                    await socket.send(msgpack.packb(said))
                if self.heads:
                    prs = [0.0] * self.heads
                    prs[2 % self.heads] = 0.9 if step in self.pauses else 0.1
                    await socket.send(
                        msgpack.packb({"type": "Step", "step_idx": step, "prs": prs, "buffered_pcm": 0})
                    )
                while markers and markers[0][0] <= step:
                    await socket.send(msgpack.packb({"type": "Marker", "id": markers.pop(0)[1]}))


def word(text, start):
    return {"type": "Word", "text": text, "start_time": start}


def end(stop):
    return {"type": "EndWord", "stop_time": stop}


def run(script, until, sound=SOUND, tail=0.0, config=FAST, **options):
    moshi = Moshi(script, **options)
    with Sockets(moshi) as server:
        source = KyutaiServer(STTConfig("kyutai", base_url=server.url, **config), 24_000)
        heard = play(
            source,
            sound,
            lambda heard: until(heard, source),
            tail,
            # A connection that was made anew counts anew.
            lambda frames: len(moshi.steps) != 1 or moshi.steps[0] > frames,
        )
        source.close()
    return heard, source, server, moshi


def test_words_come_with_their_times_and_a_predicted_pause_ends_the_turn_at_once():
    # The pause is predicted while the last word is still inside the model: silence drives it out.
    script = {
        10: [word("Where", 0.2), end(0.5)],
        14: [word("is", 0.5), end(0.7)],
        18: [word("it?", 0.7), end(0.9)],
    }
    heard, _, server, moshi = run(
        script, lambda heard, _: any(told.final for told in heard), pauses=(15,), tail=0.08
    )
    assert heard[-1] == Heard("Where is it?", True, 0.9)
    assert [told.text for told in heard if not told.final][-1].startswith("Where")
    assert server.requests[0][0] == "/api/asr-streaming"
    assert server.requests[0][1]["kyutai-api-key"] == "public_token"
    assert server.received.count("Marker") == 1
    assert moshi.steps == [moshi.steps[0]]


def test_the_silence_of_a_pause_does_not_shift_later_words():
    script = {10: [word("one", 0.2), end(0.5)], 30: [word("two", 2.0), end(2.2)]}
    heard, _, _, _ = run(script, lambda heard, _: heard and heard[-1].text == "two", pauses=(11,), tail=0.08)
    # 8 frames of silence went in behind the first turn.
    assert heard[-1].time == pytest.approx(2.0 - 8 * 0.08)


def test_a_model_without_pauses_ends_a_turn_after_silence_and_its_delay():
    script = {10: [word("one", 0.2), end(0.5)]}
    heard, _, server, moshi = run(
        script, lambda heard, _: any(told.final for told in heard), heads=0, tail=0.08
    )
    assert heard[-1] == Heard("one", True, 0.5)
    assert moshi.steps[0] * 0.08 >= 0.5 + 0.8 + 0.5 - 0.17
    assert "Marker" not in server.received


@pytest.mark.parametrize("time", [float("inf"), float("nan"), 1e300, -1e300])
def test_an_impossible_time_does_not_keep_a_turn_open(time):
    script = {10: [word("one", time), end(time)]}
    heard, _, _, _ = run(script, lambda heard, _: any(told.final for told in heard), heads=0, tail=2)
    assert heard[-1].text == "one"
    assert 0 <= heard[-1].time <= 10


def test_a_lost_connection_ends_the_turn_is_counted_and_made_again():
    script = {10: [word("one", 0.2), end(0.5)], 12: [ConnectionError()]}
    heard, source, server, _ = run(script, lambda heard, source: source.counts["failed_cut"] >= 2, tail=0.08)
    finals = [told for told in heard + source.drain() if told.final]
    assert finals[0] == Heard("one", True, 0.5)
    # The second connection's clock begins where it began.
    assert finals[1].time > 1.2
    assert source.report()["failed_cut"] >= 2
    assert len(server.requests) >= 2


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"type": "Error", "message": "no free channels"}, "failed_server"),
        ({"type": "Word"}, "failed_malformed"),
        ([1], "failed_malformed"),
    ],
)
def test_what_the_server_does_wrong_is_counted(message, kind):
    _, source, _, _ = run({1: [message]}, lambda heard, source: source.counts[kind], tail=0.08)
    assert source.report()[kind] >= 1


def test_a_server_that_lets_nobody_in_or_never_answers_is_counted_and_frames_go_on(monkeypatch):
    monkeypatch.setenv("KYUTAI_API_KEY", "secret-123456")

    async def silent(reader, writer):
        try:
            await reader.read(10_000)
            await asyncio.sleep(0 if server.refuses else 60)
            writer.write(b"HTTP/1.1 401 no secret-123456\r\ncontent-length: 0\r\n\r\n")
        finally:
            writer.close()

    class Deaf(Sockets):
        refuses = False

        async def serve(self):
            return await asyncio.start_server(silent, "127.0.0.1", 0)

    for refuses, kind in ((True, "failed_refused"), (False, "failed_timeout")):
        with Deaf(None) as server:
            server.refuses = refuses
            source = KyutaiServer(
                STTConfig("kyutai", base_url=server.url, **(FAST | {"timeout": 100.0 if refuses else 0.2})),
                24_000,
            )
            play(source, SOUND, lambda heard: source.counts[kind])  # noqa: B023
            source.close()
        assert source.report()[kind] >= 1
        assert "secret" not in str(source.report())
        assert "secret" not in str(source.failures.summary())
        assert "secret" not in str(socket_failure(OSError("Invalid: secret-123456"), source._headers))


def test_closing_closes_the_connection_and_a_budget_ends_it():
    _, source, server, _ = run(
        {},
        lambda heard, source: source.counts["failed_budget"],
        tail=0.08,
        config=FAST | {"max_minutes": 0.01},
    )
    assert 0.6 <= source.report()["seconds_sent"] < 0.8
    assert server.closed == len(server.requests) == 1
    with pytest.raises(InputError, match="expected ws://"):
        KyutaiServer(STTConfig("kyutai", base_url="ftp://x"), 24_000)
