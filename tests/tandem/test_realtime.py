"""A realtime transcription session: deltas as whole words, the server's turns, and failures that stay outside."""

import base64
import json

import numpy as np
import pytest

from kame_jax.config import STTConfig
from kame_jax.errors import InputError
from kame_jax.tandem import Heard
from kame_jax.tandem.realtime import TRANSCRIPTION, Realtime
from tests.tandem.servers import Sockets, play

SOUND = (np.arange(24_000 * 2) % 100 / 200).astype(np.float32)
FAST = {"backoff": 0.01, "max_backoff": 0.05, "timeout": 100.0}


def delta(text, item="a"):
    return {"type": f"{TRANSCRIPTION}delta", "item_id": item, "delta": text}


def run(script, until, **options):
    """`script`: bytes of sound received -> events."""

    async def handle(server, socket):
        got, left = 0, dict(script)
        async for message in socket:
            event = json.loads(message)
            server.received.append(event)
            got += len(base64.b64decode(event.get("audio", "")))
            for at in [at for at in left if at <= got and event["type"] != "session.update"]:
                for said in left.pop(at):
                    await socket.send(said if isinstance(said, str) else json.dumps(said))

    with Sockets(handle) as server:
        url = server.url.replace("ws", "http") + "/v1"
        config = STTConfig("realtime", base_url=url, api_key_env="KAME_TEST_KEY", language="en", **FAST)
        source = Realtime(config, 24_000, **options)
        heard = play(source, SOUND, lambda heard: until(heard, source), tail=0.08)
        source.close()
    return heard, source, server


def test_deltas_become_whole_words_and_the_servers_turns_end_them(monkeypatch):
    monkeypatch.setenv("KAME_TEST_KEY", "sk-secret-0123456789")
    stopped = {"type": "input_audio_buffer.speech_stopped", "item_id": "a", "audio_end_ms": 900}
    done = {"type": f"{TRANSCRIPTION}completed", "item_id": "a", "transcript": "Where is it?"}
    script = {4000: [delta("Whe")], 8000: [delta("re i")], 16_000: [delta("s it"), stopped], 40_000: [done]}
    heard, source, server = run(script, lambda heard, _: heard and heard[-1].final, pause=0.6)
    assert [told.text for told in heard] == ["Where", "Where is", "Where is it?"]
    assert heard[-1] == Heard("Where is it?", True, 0.9)
    path, headers = server.requests[0]
    assert path == "/v1/realtime?intent=transcription"
    assert headers["authorization"] == "Bearer sk-secret-0123456789"
    sound = server.received[0]["session"]["audio"]["input"]
    assert sound["transcription"] == {"model": "gpt-4o-transcribe", "language": "en"}
    assert sound["turn_detection"]["silence_duration_ms"] == 600
    pcm = np.frombuffer(base64.b64decode(server.received[1]["audio"]), "<i2")
    np.testing.assert_allclose(pcm / 32767, SOUND[: len(pcm)], atol=1e-4)
    assert "secret" not in f"{source.report()} {source.config}"


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "error", "error": {"message": "no"}}, "failed_server"),
        ("{ not json", "failed_malformed"),
        ({"no": "type"}, "failed_malformed"),
    ],
)
def test_what_the_server_does_wrong_is_counted_and_ends_the_turn(event, kind):
    heard, source, _ = run({2000: [delta("so far "), event]}, lambda heard, source: source.counts[kind])
    told = heard + source.drain()
    assert told[-1].text == "so far"
    assert told[-1].final


def test_a_language_without_spaces_is_told_while_it_is_spoken():
    done = {"type": f"{TRANSCRIPTION}completed", "item_id": "a", "transcript": "鍵はどれ"}
    script = {4000: [delta("鍵は")], 8000: [delta("どれ")], 16_000: [done]}
    heard, _, _ = run(script, lambda heard, _: heard and heard[-1].final)
    assert [told.text for told in heard] == ["鍵", "鍵はど", "鍵はどれ"]


@pytest.mark.parametrize("end", ["Infinity", "NaN", "-1e400"])
def test_an_impossible_time_is_ignored(end):
    stopped = f'{{"type": "input_audio_buffer.speech_stopped", "item_id": "a", "audio_end_ms": {end}}}'
    done = {"type": f"{TRANSCRIPTION}completed", "item_id": "a", "transcript": "Yes"}
    heard, _, _ = run({4000: [stopped, done]}, lambda heard, _: heard)
    assert 0 <= heard[-1].time <= 2


def test_a_turn_that_was_not_understood_ends_with_what_was():
    failed = {"type": f"{TRANSCRIPTION}failed", "item_id": "a", "error": {}}
    heard, source, _ = run({2000: [delta("so far "), failed]}, lambda heard, _: heard and heard[-1].final)
    assert heard[-1].text == "so far"
    assert source.counts["failed_turn"] == 1


def test_openai_itself_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        Realtime(STTConfig("realtime"), 24_000)
