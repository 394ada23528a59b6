"""The client of language models: what it gives, what it survives, what it counts, and what it never says."""

import asyncio
import time

import pytest

from kame_jax.config import LLMConfig, load_settings
from kame_jax.errors import InputError
from kame_jax.llm import Client, LLMError, Usage
from tests.llm.server import Server, Turn

ASK = [{"role": "user", "content": "Where is my umbrella?"}]
KEY = "sk-secret-0123456789"


def config(server, **changes):
    fast = {
        "backoff": 0.01,
        "max_backoff": 0.05,
        "first_token_timeout": 2.0,
        "idle_timeout": 2.0,
        "timeout": 5.0,
    }
    return LLMConfig(model="m", base_url=server.url, api_key_env="KAME_TEST_KEY", **(fast | changes))


async def streamed(client, stop_after=None):
    got = []
    async with client.stream(ASK) as pieces:
        async for piece in pieces:
            got.append(piece)
            if len(got) == stop_after:
                break
    return got


def use(server, work, **changes):
    """Runs `work(client)` against a server; gives its result (or its LLMError) and the client's counts."""

    async def main():
        async with Client(config(server, **changes)) as client:
            try:
                return await work(client), client
            except LLMError as error:
                return error, client

    return asyncio.run(asyncio.wait_for(main(), 30))


def test_an_answer_comes_whole_with_its_tokens_and_cost():
    with Server() as server:
        answer, client = use(server, lambda c: c.complete(ASK), input_price=2.0, output_price=10.0)
    assert (answer.text, answer.finish) == ("It is in the blue box.", "stop")
    assert client.usage == answer.usage == Usage(requests=1, tries=1, input_tokens=12, output_tokens=5)
    assert client.cost == pytest.approx((12 * 2 + 5 * 10) / 1e6)
    assert server.requests[0]["messages"] == ASK
    assert server.requests[0]["max_tokens"] == 80


def test_an_answer_comes_in_pieces_with_its_tokens():
    with Server() as server:
        pieces, client = use(server, streamed)
    assert pieces == ["It", " is", " in", " the", " blue", " box."]
    assert client.usage == Usage(requests=1, tries=1, input_tokens=12, output_tokens=5)


def test_tokens_are_estimated_where_the_server_does_not_count():
    with Server([Turn(usage=False)]) as server:
        _, client = use(server, streamed, stream_usage=False)
    assert "stream_options" not in server.requests[0]
    assert client.usage == Usage(requests=1, tries=1, input_tokens=6, output_tokens=6, estimated=1)


@pytest.mark.parametrize("way", [streamed, lambda c: c.complete(ASK)], ids=["stream", "whole"])
def test_rate_limits_and_server_errors_are_tried_again(way):
    turns = [Turn(status=429, headers={"retry-after": "0.02"}), Turn(status=503), Turn()]
    with Server(turns) as server:
        got, client = use(server, way)
    assert not isinstance(got, LLMError)
    assert (client.usage.requests, client.usage.tries, client.usage.failed) == (1, 3, 0)


@pytest.mark.parametrize(
    ("way", "turn"),
    [
        (streamed, Turn(pieces=(), end="unfinished")),
        (streamed, Turn(pieces=("",) * 4, end="cut")),
        (lambda c: c.complete(ASK), Turn(end="cut")),
    ],
    ids=["unfinished", "cut", "whole"],
)
def test_what_was_broken_off_before_anything_was_given_out_is_asked_again(way, turn):
    with Server([turn, Turn()]) as server:
        got, client = use(server, way)
    assert (got if isinstance(got, list) else [got.text])[-1].endswith("box.")
    assert (client.usage.requests, client.usage.tries, client.usage.failed) == (1, 2, 0)


@pytest.mark.parametrize(
    ("turn", "kind", "tries"),
    [
        (Turn(status=429), "rate_limit", 3),
        (Turn(status=500), "server", 3),
        (Turn(status=401), "refused", 1),
        (Turn(end="cut"), "cut", 1),
        (Turn(end="unfinished"), "cut", 1),
        (Turn(end="malformed"), "malformed", 1),
        (Turn(end="nonsense"), "malformed", 1),
        (Turn(delay=20.0), "timeout", 3),
        (Turn(end="silent"), "timeout", 1),
    ],
    ids=lambda value: f"{value.status}-{value.end}-{value.delay:g}" if isinstance(value, Turn) else None,
)
def test_what_goes_wrong_is_one_kind_of_error_and_is_counted(turn, kind, tries):
    with Server([turn]) as server:
        error, client = use(server, streamed, retries=2, first_token_timeout=0.15, idle_timeout=0.15)
    assert isinstance(error, LLMError)
    assert error.kind == kind
    assert (client.usage.failed, client.usage.tries, client.usage.cancelled) == (1, tries, 0)


def test_a_server_that_is_not_there_is_a_lost_connection():
    with Server() as server:
        url = server.url

    async def ask():
        async with Client(LLMConfig(model="m", base_url=url, retries=1, backoff=0.01)) as client:
            with pytest.raises(LLMError, match="connection"):
                await client.complete(ASK)
            return client.usage.tries

    assert asyncio.run(ask()) == 2


def test_a_stream_that_is_left_is_really_closed_and_counted():
    long = Turn(pieces=("word ",) * 1000, gap=0.005)
    with Server([long]) as server:
        got, client = use(server, lambda c: streamed(c, stop_after=3))
        deadline = time.monotonic() + 5
        while not server.hangups and time.monotonic() < deadline:
            time.sleep(0.01)
    assert got == ["word "] * 3
    assert server.hangups == 1
    assert server.sent < 100
    assert (client.usage.cancelled, client.usage.failed, client.usage.estimated) == (1, 0, 1)


def test_a_cancelled_task_closes_its_stream():
    async def work(client):
        task = asyncio.create_task(streamed(client))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Server([Turn(pieces=("word ",) * 1000, gap=0.01)]) as server:
        _, client = use(server, work)
        deadline = time.monotonic() + 5
        while not server.hangups and time.monotonic() < deadline:
            time.sleep(0.01)
    assert server.hangups == 1
    assert client.usage.cancelled == 1


def test_an_answer_of_100_000_tokens_is_cut_off_and_hung_up_on():
    with Server([Turn(pieces=("word ",) * 100_000)]) as server:
        got, client = use(server, streamed, max_chars=1000)
    assert len("".join(got)) == 1000
    assert (client.usage.truncated, client.usage.cancelled) == (1, 0)
    assert server.sent < 90_000


def test_limits_of_cost_and_tokens_stop_further_questions():
    async def twice(client):
        await client.complete(ASK)
        await client.complete(ASK)

    with Server() as server:
        for limit in ({"max_total_tokens": 17}, {"max_cost": 1e-6, "input_price": 1.0}):
            error, client = use(server, twice, **limit)
            assert error.kind == "budget"
            assert client.usage.requests == 1


def test_the_budget_is_looked_at_when_a_question_has_its_turn():
    async def many(client):
        asked = (client.complete(ASK) for _ in range(5))
        return await asyncio.gather(*asked, return_exceptions=True)

    with Server() as server:
        answers, client = use(server, many, max_total_tokens=34, max_concurrent=1)
    assert [getattr(answer, "kind", "answer") for answer in answers] == ["answer"] * 2 + ["budget"] * 3
    assert client.usage.requests == len(server.requests) == 2


def test_at_most_max_concurrent_requests_run_at_once():
    async def many(client):
        started = time.monotonic()
        await asyncio.gather(*(client.complete(ASK) for _ in range(4)))
        return time.monotonic() - started

    with Server([Turn(delay=0.1)]) as server:
        seconds, _ = use(server, many, max_concurrent=2)
    assert seconds >= 0.2


def test_a_key_reaches_the_server_and_nothing_else(monkeypatch):
    monkeypatch.setenv("KAME_TEST_KEY", f"{KEY}\n")  # as `$(cat FILE)` may leave it
    with Server([Turn(status=400)]) as server:
        error, client = use(server, lambda c: c.complete(ASK))
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(error) + repr(error) + repr(client) + repr(client.config)
    assert "***" in str(error)


def test_the_servers_own_words_are_in_the_error_with_the_setting_that_helps():
    with Server([Turn(status=400, error="max_tokens is unknown, use max_completion_tokens")]) as server:
        error, _ = use(server, lambda c: c.complete(ASK))
    assert "use max_completion_tokens" in str(error)
    assert "set limit_field: max_completion_tokens" in str(error)


def test_redirects_are_followed_on_the_same_server_and_no_further(monkeypatch):
    monkeypatch.setenv("KAME_TEST_KEY", KEY)
    with Server() as other, Server() as server:
        server.turns = [Turn(status=307, headers={"location": "/v1/chat/completions?again"}), Turn()]
        answer, client = use(server, lambda c: c.complete(ASK))
        assert answer.text == "It is in the blue box."
        assert [request["messages"] for request in server.requests] == [ASK, ASK]
        assert client.usage.tries == 1
        for status in (301, 302, 307, 308):
            server.turns = [Turn(status=status, headers={"location": f"{other.url}/chat/completions"})]
            error, _ = use(server, lambda c: c.complete(ASK))
            assert error.kind == "refused"
            assert f"127.0.0.1:{other.port}" in str(error)
        server.turns = [Turn(status=307, headers={"location": "/v1/chat/completions"})]
        error, _ = use(server, lambda c: c.complete(ASK))
        assert error.kind == "refused"
    assert other.requests == []


def test_an_answer_without_text_is_a_failure():
    with Server([Turn("")]) as server:
        for way in (streamed, lambda c: c.complete(ASK)):
            error, client = use(server, way)
            assert (error.kind, client.usage.failed) == ("empty", 1)


def test_openai_itself_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY"):
        Client(LLMConfig(model="gpt-4.1-nano"))


def test_an_endpoint_is_a_few_lines_of_yaml(tmp_path):
    file = tmp_path / "llm.yaml"
    file.write_text("model: qwen\nbase_url: http://localhost:11434/v1\ninput_price: 0.1\n")
    assert load_settings(LLMConfig, file, ["max_tokens=9"]) == LLMConfig(
        model="qwen", base_url="http://localhost:11434/v1", input_price=0.1, max_tokens=9
    )
    file.write_text("modl: qwen\nbase_url: http://me:pw@localhost/v1\n")
    with pytest.raises(InputError) as error:
        load_settings(LLMConfig, file)
    assert "did you mean model" in str(error.value)
