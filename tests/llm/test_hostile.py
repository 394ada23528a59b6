"""Servers that mean harm: whatever bytes they send, memory has a bound and frames on the same loop get their turn."""

import asyncio
import json
import resource
import time
import zlib

import pytest

from kame_jax.config import LLMConfig
from kame_jax.llm import Client, LLMError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
ROLE = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
TEXT = json.dumps({"choices": [{"index": 0, "delta": {"content": "a\n" * 50_000}}]}).encode()


def compressed(mebibytes):
    """A reply that is so large when it is unpacked; it never is here."""
    pack, zeros = zlib.compressobj(1, wbits=31), bytes(1 << 20)
    body = b"".join([*(pack.compress(zeros) for _ in range(mebibytes)), pack.flush()])
    return HEAD + b"content-encoding: gzip\r\n\r\n" + body


HOSTILE = {
    "a gzip bomb": (lambda: compressed(128), "oversized"),
    "a compressed error": (lambda: compressed(128).replace(b"200 OK", b"500 No"), "oversized"),
    "events without text": (lambda: HEAD + b"\r\n" + ROLE * 20_000, "cut"),
    "empty events": (lambda: HEAD + b"\r\n" + b"data:\n\n" * 100_000, "cut"),
    "comments": (lambda: HEAD + b"\r\n" + b":\n" * 300_000, "cut"),
    "one line": (lambda: HEAD + b"\r\ndata: " + b"x" * (1 << 22), "oversized"),
    "one event": (lambda: HEAD + b"\r\n" + b"data: xxxxxxxxx\n" * (1 << 17), "oversized"),
    "one long piece": (lambda: HEAD + b"\r\ndata: " + TEXT + b"\n\n", None),
    "a header without an end": (lambda: b"HTTP/1.1 200 OK\r\nx: " + b"x" * (1 << 22), "cut"),
    "no HTTP": (lambda: b"\x00" * (1 << 20), "cut"),
    "deep JSON": (lambda: HEAD + b"\r\ndata: " + b'{"a":' * 100_000 + b"\n\n", "malformed"),
    "a long number": (lambda: HEAD + b'\r\ndata: {"x": ' + b"9" * 100_000 + b"}\n\n", "malformed"),
}


async def survived(data):
    """What the client makes of it, and the longest that anything else on the loop had to wait."""

    async def answer(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            for at in range(0, len(data), 1 << 16):
                writer.write(data[at : at + (1 << 16)])
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    longest, last = 0.0, time.perf_counter()

    async def frames():
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with Client(LLMConfig("m", base_url=url, retries=0, first_token_timeout=60)) as client:
        last = time.perf_counter()
        watch = asyncio.create_task(frames())
        kind, got = None, ""
        try:
            async with client.stream([{"role": "user", "content": "?"}]) as pieces:
                async for piece in pieces:
                    got += piece
        except LLMError as error:
            kind = error.kind
        watch.cancel()
    server.close()
    return kind, got, longest


@pytest.mark.parametrize("case", HOSTILE)
def test_no_reply_stops_the_frames_or_fills_the_memory(case):
    make, kind = HOSTILE[case]
    data = make()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, got, longest = asyncio.run(survived(data))
    assert found == kind
    assert len(got) <= 4000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    # A few hundredths of a second where nothing else runs. What it guards against are seconds.
    assert longest < 0.5
