"""Speech-to-text servers for tests, on 127.0.0.1: what they answer is written down in the test."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile

from tests.llm.server import read_request

FRAME = 1920


@dataclass
class Reply:
    """How a transcription request is answered."""

    text: str = ""
    status: int = 200
    delay: float = 0.0
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Loop:
    """`with Loop(...)`: a server on a thread of its own."""

    def __enter__(self):
        self.ready, self.errors = threading.Event(), []
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self.thread.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *exc):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)

    async def _main(self):
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self.serve()
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.stop.wait()
        server.close()


class Transcriber(Loop):
    """`/v1/audio/transcriptions`: `answer(seconds)` says what is heard in a recording of so many seconds."""

    def __init__(self, answer: Callable[[float], Reply | str]):
        self.answer, self.requests, self.hangups = answer, [], 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self):
        return await asyncio.start_server(self._connection, "127.0.0.1", 0)

    async def _connection(self, reader, writer):
        try:
            while line := await reader.readline():
                headers, body = await read_request(reader)
                assert line.startswith(b"POST /v1/audio/transcriptions"), line
                await self._reply(headers, body, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hangups += 1
        finally:
            writer.close()

    async def _reply(self, headers, body, reader, writer):
        boundary = b"--" + headers["content-type"].partition("boundary=")[2].encode()
        fields: dict[str, Any] = {"authorization": headers.get("authorization")}
        for part in body.split(boundary)[1:-1]:
            head, _, value = part.partition(b"\r\n\r\n")
            name = head.decode().partition('name="')[2].partition('"')[0]
            fields[name] = value[:-2] if name == "file" else value[:-2].decode()
        sound, rate = soundfile.read(io.BytesIO(fields.pop("file")))
        fields["seconds"] = len(sound) / rate
        self.requests.append(fields)
        reply = self.answer(fields["seconds"])
        reply = Reply(reply) if isinstance(reply, str) else reply
        if reply.delay:
            gone = asyncio.ensure_future(reader.read(1))
            done, _ = await asyncio.wait({gone}, timeout=reply.delay)
            gone.cancel()
            if done:
                raise ConnectionResetError
        said = {"text": reply.text} if reply.status == 200 else {"error": {"message": f"no, {fields}"}}
        data = json.dumps(said).encode() if reply.body is None else reply.body
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        head = f"HTTP/1.1 {reply.status} X\r\ncontent-type: application/json\r\n{extra}"
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()


class Sockets(Loop):
    """A WebSocket server: `handle(server, socket)` is called for each connection."""

    def __init__(self, handle: Callable[..., Any]):
        self.handle, self.requests, self.received, self.closed = handle, [], [], 0

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}"

    async def serve(self):
        from websockets.asyncio.server import serve

        return await serve(self._connection, "127.0.0.1", 0, ping_interval=None)

    async def _connection(self, socket):
        self.requests.append((socket.request.path, dict(socket.request.headers)))
        try:
            await self.handle(self, socket)
        finally:
            self.closed += 1


def play(
    source,
    sound: np.ndarray,
    until: Callable[[list], bool] = lambda heard: False,
    tail: float = 0.0,
    ready: Callable[[int], bool] = lambda frames: True,
):
    """Pushes a recording, then `tail` seconds of silence, each frame when the one before was dealt with; then waits.

    However slow the machine is, the source gets the frames as it would live; `ready` says whether the server, too, is
    done with so many frames. Gives all that was heard `until` then.
    """
    sound = np.concatenate([sound, np.zeros(round(tail * 24_000), np.float32)])
    heard, deadline = [], time.monotonic() + 300
    for index in range(len(sound) // FRAME):
        heard += source.push(sound[index * FRAME : (index + 1) * FRAME], 0.08 * (index + 1))
        while not (source.idle and ready(index)) and not until(heard) and time.monotonic() < deadline:
            time.sleep(0.001)
            heard += source.drain()
        if until(heard):
            return heard
    while not until(heard) and time.monotonic() < deadline:
        time.sleep(0.001)
        heard += source.drain()
        if source.idle and not tail:
            break
    return heard
