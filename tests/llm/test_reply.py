"""What servers really send: each dialect of chunks, errors and endings, read from bytes without a server."""

import asyncio
import codecs
import gzip
import json
import time
import zlib

import pytest

from kame_jax.llm import LLMError
from kame_jax.llm.bounded import read_body
from kame_jax.llm.markup import Visible, without_left_open
from kame_jax.llm.reply import Reply

FILTER = {"index": 0, "finish_reason": None, "content_filter_results": {"hate": {"filtered": False}}}
USAGE = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 9}}


def choice(content=None, finish=None, **delta):
    delta = delta | ({} if content is None else {"content": content})
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def stream(*values, eol="\n"):
    data = (value if isinstance(value, str) else json.dumps(value) for value in values)
    return "".join(f"data: {item}{eol}{eol}" for item in data).encode()


def whole(message, finish="stop"):
    return json.dumps({"choices": [{"index": 0, "finish_reason": finish, "message": message}]}).encode()


async def cut(data, size):
    for at in range(0, len(data), size):
        yield data[at : at + size]


def read(data, size=1 << 16):
    """The text, or (kind of failure, what was given out before it); and the reply."""
    reply, got = Reply(), []

    async def main():
        async for piece in reply.pieces(cut(data, size)):
            got.append(piece)

    try:
        asyncio.run(main())
    except LLMError as error:
        return (error.kind, "".join(got)), error
    return "".join(got), reply


ONE, TWO, STOP = choice("In the "), choice("box."), choice(finish="stop")
READ = {
    "plain": stream(ONE, TWO, STOP, USAGE, "[DONE]"),
    "a byte-order mark": codecs.BOM_UTF8 + stream(ONE, TWO, STOP),
    "lines end in CRLF": stream(ONE, TWO, STOP, "[DONE]", eol="\r\n"),
    "Azure: a filter's verdict without a delta": stream(
        {"choices": [FILTER]}, ONE, TWO, STOP, {"choices": [FILTER]}
    ),
    "delta null": stream({"choices": [{"index": 0, "delta": None, "finish_reason": None}]}, ONE, TWO, STOP),
    "no reason, but [DONE]": stream(ONE, TWO, "[DONE]"),
    "an empty reason": stream(ONE, choice("box.", finish=""), USAGE, "[DONE]"),
    "no reason and no [DONE], but the count": stream(ONE, TWO, USAGE),
    "a reason and no [DONE]": stream(ONE, TWO, STOP),
    "no newline behind the last event": stream(ONE, TWO, STOP).rstrip(),
    "more behind [DONE]": stream(ONE, TWO, STOP, "[DONE]", choice("More.")),
    "roles again and again": stream(choice(role="assistant"), ONE, choice("", role="assistant"), TWO, STOP),
    "keep-alive comments": b": PROCESSING\n\n"
    + stream(ONE)
    + b":\n\n: x\n\nevent: ping\n\n"
    + stream(TWO, STOP),
    "an event over two lines": b'data: {"choices": [{"delta":\ndata: {"content": "In the box."}}]}\n\ndata: [DONE]\n\n',
    "reasoning in a field of its own": stream(
        choice(None, reasoning_content="hm "), choice("", reasoning="so"), ONE, TWO, STOP
    ),
    "parts, some of them thought": stream(
        choice([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
        choice([{"type": "text", "text": "In the "}, "box."]),
        STOP,
    ),
    "another choice beside it": stream(
        ONE, {"choices": [{"index": 1, "delta": {"content": "no"}}]}, TWO, STOP
    ),
    "thinking in tags": stream(choice("<th"), choice("ink>hm</thi"), choice("nk>\n\nIn the "), TWO, STOP),
    "a token of the template": stream(ONE, choice("box.<|im_"), choice("end|>\nuser: more"), STOP),
    "one object instead of a stream": whole({"role": "assistant", "content": "In the box."}),
    "the same, indented": json.dumps(json.loads(whole({"content": "In the box."})), indent=2).encode(),
    "whole, in parts": whole({"content": [{"type": "text", "text": "In the box."}]}),
    "cut by max_tokens": stream(ONE, choice("box.", finish="length")),
    "error: null in each chunk": stream(ONE | {"error": None}, TWO | {"error": None}, STOP),
}


@pytest.mark.parametrize("case", READ)
def test_an_answer_is_read_in_every_dialect_however_the_bytes_are_cut(case):
    for size in (1, 7, 1 << 16):
        text, reply = read(READ[case], size)
        assert text == "In the box."
        assert isinstance(reply, Reply)


OVERLOADED = {"error": {"message": "overloaded", "type": "overloaded_error"}}
FAILED = {
    "nothing": (b"", "cut", ""),
    "no ending": (stream(ONE), "cut", "In the "),
    "a page": (b"<html><body>a page</body></html>", "malformed", ""),
    "no JSON": (stream(ONE, "{ not json"), "malformed", "In the "),
    "another protocol's answer": (b'{"message": {"role": "assistant", "content": "x"}, "done": true}', "malformed", ""),
    "deep JSON": (stream("[" * 100_000), "malformed", ""),
    "a number as content": (stream(choice(7)), "malformed", ""),
    "choices that are none": (stream({"choices": "x"}), "malformed", ""),
    "an error at first": (stream({"error": {"message": "the provider failed", "code": 502}}), "server", ""),
    "an error in the middle": (stream(ONE, OVERLOADED), "server", "In the "),
    "an error of vLLM's": (stream({"object": "error", "message": "gone", "code": 500}, "[DONE]"), "server", ""),
    "an error with status 200": (json.dumps(OVERLOADED).encode(), "server", ""),
    "Ollama's": (b'{"error": "model \\"m\\" not found"}', "refused", ""),
    "Gemini's, in a list": (b'[{"error": {"code": 429, "message": "quota"}}]', "rate_limit", ""),
    "FastAPI's": (b'{"detail": [{"loc": ["body", "x"], "msg": "no such field", "type": "invalid"}]}', "refused", ""),
    "OpenRouter's, in a choice": (
        stream({"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 503, "message": "x"}}]}),
        "server",
        "",
    ),
    "a filter": (stream(ONE, choice(finish="content_filter")), "filtered", "In the "),
    "a refusal": (whole({"content": None, "refusal": "I cannot help with that."}), "filtered", ""),
    "a tool": (whole({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"), "empty", ""),
    "a tool in text": (stream(choice('<tool_call>{"name": "x"}</tool_call>'), STOP), "empty", ""),
    "Mistral's tool in text": (stream(choice('[TOOL_CALLS][{"name": "x"}]'), STOP), "empty", ""),
    "only reasoning": (whole({"content": None, "reasoning_content": "hm " * 30}, "length"), "empty", ""),
    "only spaces": (stream(choice(" \n "), STOP), "empty", ""),
    "a long line": (b"data: " + b"x" * (3 << 20), "oversized", ""),
    "a long event": (b"data: xxxxxxxxxxxxxxxxx\n" * (1 << 17), "oversized", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILED)
def test_everything_but_an_answer_is_a_failure_with_a_name(case):
    data, kind, given = FAILED[case]
    assert read(data)[0] == (kind, given)


def test_what_the_server_says_is_kept():
    assert "max_tokens" in str(read(FAILED["only reasoning"][0])[1])
    assert str(read(FAILED["Ollama's"][0])[1]) == 'refused: model "m" not found'
    assert read(READ["cut by max_tokens"])[1].finish == "length"
    assert read(READ["plain"])[1].counted == (12, 9)


@pytest.mark.parametrize("count", [-1, 1.5, True, "12", None, 10**400])
def test_a_count_of_tokens_that_cannot_be_is_ignored(count):
    usage = {"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": 9}}
    assert read(stream(ONE, TWO, STOP, usage))[1].counted is None


def test_half_characters_are_joined_and_those_left_alone_replaced():
    halves = stream(choice("a \ud83d"), choice("\ude00 b\ud800"), choice("c \udc00"), STOP)
    assert read(halves)[0] == "a \U0001f600 b\ufffdc \ufffd"


def test_events_without_text_let_others_work():
    async def main():
        longest, last = 0.0, time.perf_counter()

        async def others():
            nonlocal longest, last
            while True:
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
                await asyncio.sleep(0)

        watch = asyncio.create_task(others())
        data = stream(choice("", role="assistant")) * 5_000 + b": ping\n" * 50_000 + stream(ONE, TWO, STOP)
        await asyncio.sleep(0)
        got = [piece async for piece in Reply().pieces(cut(data, 1 << 16))]
        watch.cancel()
        return got, longest

    got, longest = asyncio.run(main())
    assert "".join(got) == "In the box."
    # A tenth of a frame is enough on an idle machine; a busy one may stop this thread for longer.
    assert longest < 0.2


class Raw:
    """A response as httpx has it."""

    def __init__(self, data, coding=""):
        self.data, self.headers = data, {"content-encoding": coding}

    async def aiter_raw(self):
        async for part in cut(self.data, 1 << 16):
            yield part


def bytes_of(response, most=1 << 20):
    async def main():
        return b"".join([part async for part in read_body(response, most)])

    return asyncio.run(main())


def test_bodies_are_decompressed_within_a_bound():
    text = b"In the box. " * 100
    assert bytes_of(Raw(text)) == bytes_of(Raw(gzip.compress(text), "gzip")) == text
    assert bytes_of(Raw(zlib.compress(text), "deflate")) == text
    for data, coding, kind in (
        (gzip.compress(bytes(1 << 24), 1), "gzip", "oversized"),
        (bytes(2 << 20), "", "oversized"),
        (b"no gzip", "gzip", "malformed"),
        (b"", "br", "malformed"),
    ):
        with pytest.raises(LLMError, match=kind):
            bytes_of(Raw(data, coding))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_marks_are_taken_out_however_they_are_cut(size):
    cases = {
        "a <think>b</think> c": "a  c",
        "a <THINK>b</think> c <thinking>d": "a  c ",
        "1 < 2 and <b> stays [1]": "1 < 2 and <b> stays [1]",
        "ends with <thi": "ends with <thi",
        "[THINK]b[/THINK]c": "c",
        "◁think▷b◁/think▷c": "c",
        "<|channel|>analysis<|message|>b<|end|><|start|>assistant<|channel|>final<|message|>c<|return|>": "c",
        "a <tool_call>{}</tool_call> b": "a ",
        "a</s> b": "a",
    }
    for text, shown in cases.items():
        visible = Visible()
        found = "".join(visible.push(text[at : at + size]) for at in range(0, len(text), size))
        assert found + visible.finish() == shown, text


def test_marks_take_time_in_proportion_to_the_text():
    for piece in ("<", "<think", "[", "</", "<|", "<think>", "</think>", "<think></think>", "◁"):
        visible, started = Visible(), time.perf_counter()
        for _ in range(100):
            visible.push(piece)
        visible.push(piece * 50_000)
        visible.finish()
        assert time.perf_counter() - started < 5.0, piece


def test_thinking_that_never_began_ends_where_it_ends():
    assert without_left_open("hm\n</think>\nIn the box.") == "In the box."
    assert without_left_open("In the box.") == "In the box."
