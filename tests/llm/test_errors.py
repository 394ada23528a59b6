"""Failures as they reach a user, and how long is waited after them."""

import asyncio
import email.utils
import json
import time

import pytest

from kame_jax.llm import Budget, Failures, LLMError, Retry, one_line
from kame_jax.llm.errors import retry_after, status_error

KEY = "sk-secret-0123456789"


def test_words_of_a_server_are_one_safe_line():
    hostile = f"\x1b[2J no\n\n \u202ekey {KEY} \ud800 and Bearer abcdefgh " + "x" * 1_000_000
    line = one_line(hostile, KEY)
    assert len(line) <= 300
    assert line.isprintable()
    assert line.startswith("[2J no key *** and *** xxx")
    assert one_line("custom-key!1", "custom-key!1") == "***"


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, "refused", "Incorrect API key"),
        (400, {"object": "error", "message": "the last message"}, "refused", "the last message"),
        (429, {"error": {"message": "slow down"}}, "rate_limit", "slow down"),
        (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "refused", "pay"),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "no field"}]}, "refused", "no field: body.n"),
        (404, {"error": "model 'm' not found"}, "refused", "model 'm' not found"),
        (503, "<html><h1>Down</h1></html>", "server", "Down"),
        (500, "", "server", "status 500"),
        (408, "", "timeout", "status 408"),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "server", "busy"),
        (500, "[" * 50_000, "server", "status 500"),
    ],
)  # fmt: skip
def test_a_status_becomes_a_kind_with_the_servers_words(status, body, kind, words):
    data = body if isinstance(body, str) else json.dumps(body)
    error = status_error(status, {}, data.encode())
    assert error.kind == kind
    assert words in error.words


def test_a_server_says_how_long_to_wait_in_three_ways():
    sent = 1_700_000_000
    date, later = (email.utils.formatdate(sent + more, usegmt=True) for more in (0, 7))
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": later, "date": date}) == 7
    assert retry_after({"retry-after": date, "date": later}) == 0
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after({"retry-after": soon}) == pytest.approx(30, abs=3)
    for nonsense in ("", "soon", "-1", "nan", "inf", "Wed, 99 Foo 2026 00:00:00 GMT"):
        assert retry_after({"retry-after": nonsense}) is None


def test_waits_double_with_jitter_and_a_server_is_obeyed_within_the_bound():
    retry = Retry(backoff=1.0, max_backoff=20.0)
    for failures, most in ((1, 1), (2, 2), (3, 4), (10_000, 20)):
        assert most / 2 <= retry.wait(failures, None) <= most
    assert retry.wait(1, 7.0) == 7.0
    assert retry.wait(1, 3600.0) == 20.0


def test_only_what_another_try_may_mend_is_tried_again():
    async def tried(kind, retries):
        count = 0

        async def work():
            nonlocal count
            count += 1
            raise LLMError(kind, "x")

        with pytest.raises(LLMError):
            await Retry(1e-6, 1e-6, retries).run(work)
        return count

    for kind, tries in (("server", 3), ("cut", 3), ("refused", 1), ("empty", 1), ("malformed", 1)):
        assert asyncio.run(tried(kind, 2)) == tries


def test_each_kind_is_told_once_and_counted():
    failures = Failures()
    for kind in ("server", "refused", "server", "server"):
        failures.add("m at http://x", kind, f"{kind} words")
    assert failures.news() == ["m at http://x: server: server words", "m at http://x: refused: refused words"]
    assert failures.news() == []
    assert failures.summary()[0] == "m at http://x: server (3 times): server words"


def test_a_budget_stops_at_its_cost_or_its_amount():
    Budget(None, None, "tokens").check(1e9, 1e9)
    with pytest.raises(LLMError, match="1 spent of 1"):
        Budget(1.0, None, "tokens").check(1.0, 0)
    with pytest.raises(LLMError, match="10 tokens used of 10"):
        Budget(None, 10, "tokens").check(0, 10)
