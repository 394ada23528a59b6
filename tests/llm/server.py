"""An OpenAI-compatible chat server for tests: a plain socket that does, request by request, what a list tells it.

It runs on a thread of its own, binds 127.0.0.1 only, and counts how often a client really hung up on it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


async def read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    """The headers (names in lower case) and the body of a request whose first line has been read."""
    headers = {}
    while (header := (await reader.readline()).decode().strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return headers, await reader.readexactly(int(headers.get("content-length", 0)))


@dataclass
class Turn:
    """What the server does with one request."""

    text: str = "It is in the blue box."
    pieces: tuple[str, ...] | None = None
    """The stream's pieces; None sends word by word."""
    status: int = 200
    """Other than 200: this error."""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the first byte."""
    gap: float = 0.0
    """Seconds between two pieces."""
    end: str = "proper"
    """"proper", "cut" (hangs up in the middle of the stream), "unfinished" (no reason, no [DONE]),
    "malformed" (a chunk that is no JSON), "nonsense" (a chunk of other types), "silent" (never goes on)."""
    finish: str = "stop"
    """Of an answer that is not streamed."""
    usage: bool = True
    error: str = "no"
    """What it says with another status than 200."""


class Server:
    """`with Server(turns) as server`: the last turn is repeated; a function is asked for the turn of each request."""

    def __init__(self, turns: Iterable[Turn] | Callable[[dict], Turn] = ()) -> None:
        self.turns = turns if callable(turns) else list(turns) or [Turn()]
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.hangups = 0
        self.sent = 0
        self.ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Server:
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)

    async def _serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                headers, body = await read_request(reader)
                assert line.startswith(b"POST /v1/chat/completions"), line
                self.headers.append(headers)
                await self._answer(json.loads(body), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hangups += 1
        finally:
            writer.close()

    async def _answer(
        self, request: dict, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        index = len(self.requests)
        self.requests.append(request)
        turn = self.turns(request) if callable(self.turns) else self.turns[min(index, len(self.turns) - 1)]
        await self._wait(turn.delay, reader)
        counted = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17} if turn.usage else None
        if turn.status != 200 or not request.get("stream"):
            said = {"role": "assistant", "content": turn.text}
            body = (
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": request["model"],
                    "usage": counted,
                }
                | {"choices": [{"index": 0, "finish_reason": turn.finish, "message": said}]}
                if turn.status == 200
                else {
                    "error": {
                        "message": f"{turn.error}, {self.headers[-1].get('authorization')}",
                        "type": "x",
                    }
                }
            )
            data = b"{ not json" if turn.end == "malformed" else json.dumps(body).encode()
            extra = "".join(f"{name}: {value}\r\n" for name, value in turn.headers.items())
            head = f"HTTP/1.1 {turn.status} X\r\ncontent-type: application/json\r\n{extra}"
            writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode())
            writer.write(data[: len(data) // 2] if turn.end == "cut" else data)
            await writer.drain()
            if turn.end == "cut":
                raise ConnectionResetError
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        pieces = turn.pieces if turn.pieces is not None else words(turn.text)
        middle = len(pieces) // 2
        for number, piece in enumerate(pieces):
            if number == middle and turn.end == "cut":
                raise ConnectionResetError
            if number == middle and turn.end == "silent":
                await self._wait(60.0, reader)
            if number == middle and turn.end == "malformed":
                await self._event(writer, "{ not json")
            if number == middle and turn.end == "nonsense":
                await self._event(writer, json.dumps({"choices": [{"delta": {"content": 7}}]}))
            await self._event(writer, chunk({"content": piece}))
            self.sent += 1
            await self._wait(turn.gap, reader)
        if turn.end != "unfinished":
            await self._event(writer, chunk({}, "stop"))
            if counted and request.get("stream_options"):
                await self._event(writer, json.dumps({"choices": [], "usage": counted}))
            await self._event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _event(self, writer: asyncio.StreamWriter, data: str) -> None:
        line = f"data: {data}\n\n".encode()
        writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        await writer.drain()

    async def _wait(self, seconds: float, reader: asyncio.StreamReader) -> None:
        """Waits, unless the client hangs up or the test is over."""
        if seconds <= 0:
            return
        gone = asyncio.ensure_future(reader.read(1))
        stopped = asyncio.ensure_future(self.stop.wait())
        done, left = await asyncio.wait({gone, stopped}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if done:
            raise ConnectionResetError


def chunk(delta: dict, finish: str | None = None) -> str:
    return json.dumps(
        {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    )


def words(text: str) -> tuple[str, ...]:
    """Pieces as models give them: the space travels with the following word."""
    first, *rest = text.split(" ")
    return (first, *(f" {word}" for word in rest))
