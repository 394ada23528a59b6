"""A transcription endpoint on a growing turn: words do not flap, silence costs nothing, and failures stay outside."""

import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kame_jax.config import STTConfig
from kame_jax.errors import InputError
from kame_jax.tandem.whisper import Activity, Agreement, Whisper
from kame_jax.tandem.words import MOST_CHARS
from tests.tandem.servers import Reply, Transcriber, play

KEY = "sk-secret-0123456789"
WORDS = "Where did my green umbrella go".split()
RNG = np.random.default_rng(0)
QUIET, LOUD = (RNG.standard_normal(24_000 * 8).astype(np.float32) * level for level in (1e-4, 0.1))
SOUND = np.concatenate([QUIET[:12_000], LOUD[: 24_000 * 2]])
"""Half a second of a quiet room, then two of a voice."""


def source(server, **changes):
    fast = {"interval": 1e-6, "timeout": 100.0, "backoff": 0.01, "max_backoff": 0.05}
    config = STTConfig("whisper", base_url=server.url, api_key_env="KAME_TEST_KEY", **(fast | changes))
    return Whisper(config, 24_000, 0.5)


def spoken(seconds):
    """A third of a second for each word; the newest is misheard, each time in another way."""
    count = min(int(seconds / 0.33), len(WORDS))
    return " ".join([*WORDS[: count - 1], f"uh{seconds:.2f}" if count < len(WORDS) else WORDS[-1]])


def ended(heard):
    return any(told.final for told in heard)


def test_words_that_two_transcripts_agree_on_are_told_and_never_taken_back():
    with Transcriber(spoken) as server:
        whisper = source(server)
        heard = play(whisper, SOUND, ended, tail=2)
        whisper.close()
    *partial, final = [told.text.split() for told in heard]
    assert [told.final for told in heard] == [False] * len(partial) + [True]
    assert final == WORDS
    assert len(partial) >= 3
    assert all(later[: len(one)] == one for one, later in itertools.pairwise(partial))
    assert all(words == WORDS[: len(words)] for words in partial)
    # The voice ends at 2.5 s: a turn's time is the end of its last word, not when the answer came.
    assert heard[-1].time == pytest.approx(2.5, abs=0.1)
    assert all(one.time <= later.time <= 2.6 for one, later in itertools.pairwise(heard))
    assert server.requests[0]["model"] == "whisper-1"
    assert max(request["seconds"] for request in server.requests) < 3.2
    assert whisper.report()["requests"] == len(server.requests)
    assert whisper.report()["seconds_sent"] == pytest.approx(
        sum(r["seconds"] for r in server.requests), abs=0.1
    )


def test_silence_and_a_click_are_never_sent():
    click = QUIET[: 24_000 * 3].copy()
    click[30_000:30_100] = 0.5
    with Transcriber(lambda seconds: "Thank you for watching!") as server:
        whisper = source(server)
        assert play(whisper, click) == []
        whisper.close()
        assert server.requests == []


WRONG = {
    "failed_rate_limit": Reply(status=429, headers={"retry-after": "0.01"}),
    "failed_server": Reply(status=503),
    "failed_refused": Reply(status=401),
    "failed_malformed": Reply(body=b"{}"),
    "failed_timeout": Reply(delay=30.0),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_an_endpoint_does_wrong_is_counted_and_what_was_known_ends_the_turn(kind, monkeypatch):
    monkeypatch.setenv("KAME_TEST_KEY", KEY)

    def answer(seconds):
        return spoken(seconds) if len(server.requests) < 20 else WRONG[kind]

    with Transcriber(answer) as server:
        whisper = source(server, timeout=0.5 if kind == "failed_timeout" else 100.0)
        heard = play(whisper, SOUND, ended, tail=2)
        whisper.close()
    report = whisper.report()
    assert report[kind] >= 1
    assert heard[-1].final
    assert WORDS[0] in heard[-1].text
    assert server.requests[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{report} {heard} {whisper._endpoint!r} {whisper.config!r}"


def test_an_endpoint_that_is_not_there_is_counted():
    with Transcriber(spoken) as server:
        url = server.url
    whisper = Whisper(STTConfig("whisper", base_url=url, interval=1e-6, backoff=0.01), 24_000)
    play(whisper, SOUND, lambda heard: whisper.counts["failed_connection"] >= 2)
    whisper.close()
    assert whisper.counts["failed_connection"] >= 2


def test_a_long_turn_is_cut_at_a_quiet_place_and_its_text_stays_whole():
    numbers = []

    def answer(seconds):
        numbers.append(f"w{len(numbers)}")
        return numbers[-1]

    voice = LOUD[: 24_000 * 7].copy()
    voice[24_000 * 2 : 24_000 * 2 + 4000] *= 0.001
    with Transcriber(answer) as server:
        whisper = source(server, window=4.0)
        heard = play(whisper, voice, ended, tail=2)
        whisper.close()
    lengths = [request["seconds"] for request in server.requests]
    assert max(lengths) < 4.5
    # The first part that is closed ends where nothing is said.
    first = next(later for one, later in itertools.pairwise(lengths) if later < one)
    assert first == pytest.approx(2.0, abs=0.1)
    assert len(heard[-1].text.split()) >= 2
    assert server.requests[-1]["prompt"] in heard[-1].text


def test_a_budget_ends_the_sending():
    with Transcriber(spoken) as server:
        whisper = source(server, minute_price=60.0, max_cost=1.0)
        play(whisper, SOUND, lambda heard: whisper.counts["failed_budget"])
        whisper.close()
    assert 1.0 <= whisper.report()["cost"] < 3.5
    assert sum(request["seconds"] for request in server.requests) < 2.0


def test_closing_hangs_up_on_the_request_under_way():
    with Transcriber(lambda seconds: Reply(delay=60.0)) as server:
        whisper = source(server, timeout=60.0)
        play(whisper, SOUND, lambda heard: server.requests)
        started = time.monotonic()
        whisper.close()
        assert time.monotonic() - started < 30
        while not server.hangups and time.monotonic() - started < 50:
            time.sleep(0.01)
        assert server.hangups == 1


def test_a_conversation_never_waits_and_sound_that_nobody_takes_is_left_out():
    with Transcriber(lambda seconds: Reply(delay=60.0)) as server:
        whisper = source(server, max_behind=0.8)
        play(whisper, SOUND, lambda heard: server.requests)
        started = time.monotonic()
        for index in range(100):
            assert whisper.push(SOUND[:1920], 10 + 0.08 * index) == []
        assert time.monotonic() - started < 5
        whisper.close()
    assert whisper.report()["frames_left_out"] >= 80


def test_openai_itself_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        Whisper(STTConfig("whisper"), 24_000)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "B", "b,", "c", "d"]), max_size=6).map(" ".join), max_size=8))
def test_agreement_only_ever_grows(texts):
    agreement, before = Agreement(), []
    for text in texts:
        words = list(agreement.push(text))
        assert words[: len(before)] == before
        before = words


def test_a_language_without_spaces_is_told_while_it_is_spoken():
    agreement = Agreement()
    assert agreement.push("鍵は") == []
    assert "".join(agreement.push("鍵はどれ")) == "鍵は"
    assert "".join(agreement.push("鍵はどこです")) == "鍵はど"
    assert "".join(agreement.push("鍵はどこですか")) == "鍵はどこです"


HOSTILE = {
    "notes": (b'{"text": "... [Music]"}', None),
    "half a character": (b'{"text": "Where \\ud800 is"}', None),
    "an error": (b'{"error": {"message": "overloaded", "code": 503}}', "server"),
    "a page": (b"<html></html>", "malformed"),
    "no text": (b'{"text": null}', "malformed"),
    "40,000 brackets": (json.dumps({"text": "(" * 40_000 + "it"}).encode(), None),
    "too much": (json.dumps({"text": "a " * (1 << 20)}).encode(), "oversized"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_reply_of_any_kind_is_words_or_a_failure_with_a_name(case):
    body, kind = HOSTILE[case]
    with Transcriber(lambda seconds: Reply(body=body)) as server:
        whisper = source(server)
        sound = np.concatenate([SOUND, np.zeros(24_000, np.float32)])
        heard = play(whisper, sound, lambda heard: whisper.counts[f"failed_{kind}"])
        whisper.close()
    assert kind is None or whisper.report()[f"failed_{kind}"] >= 1
    assert all(len(told.text) <= MOST_CHARS and told.text.encode() for told in heard)
    assert case != "notes" or heard == []
    if kind == "server":
        assert whisper.failures.summary()[0].startswith(f"speech-to-text whisper-1 at {server.url}: server (")


def test_agreement_looks_past_case_and_punctuation():
    agreement = Agreement()
    assert agreement.push("where is") == []
    assert agreement.push("Where is, my") == ["Where", "is,"]
    assert agreement.push("Where is my box") == ["Where", "is,", "my"]
    assert agreement.push("There was") == ["Where", "is,", "my"]


def test_a_voice_is_found_above_any_quiet():
    for room in (0.0, 1e-4, 3e-3):
        activity = Activity()
        noise = RNG.standard_normal((200, 1920)) * room
        for frame in noise[:150]:
            activity.push(frame)
        assert not any(activity.push(frame) for frame in noise[150:])
        assert activity.push(RNG.standard_normal(1920) * 0.1)
