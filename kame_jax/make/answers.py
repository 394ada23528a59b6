"""Many questions to a language model: each asked once, even across interruptions, within a budget.

Answers are kept under the content of their question (model, settings, messages) in append-only files, a line each, so a
job that was killed asks nothing twice. How one answer is obtained, and how failures are retried, is `kame_jax.llm`'s.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kame_jax.config import LLMConfig
from kame_jax.errors import InputError
from kame_jax.llm import Client, LLMError, Message
from kame_jax.llm.usage import Usage

FAILURES_IN_A_ROW = 20
"""After this many failed answers in a row, the endpoint is given up."""
IDENTITY = ("model", "base_url", "max_tokens", "temperature", "reasoning_effort", "max_chars")
"""Settings that an answer depends on."""


class Stopped(RuntimeError):
    """No further questions are sent: the budget is spent, or the endpoint does not answer."""


@dataclass(frozen=True)
class Status:
    """A job's progress."""

    asked: int
    """Calls made by this process."""
    reused: int
    """Answers that were cached already."""
    failed: int
    tokens: int
    """By this and all earlier processes on the same cache."""
    cost: float
    seconds: float

    def text(self, done: int, total: int) -> str:
        """For a progress bar: calls a second, tokens, cost, time left."""
        rate = self.asked / self.seconds if self.seconds > 0 else 0.0
        parts = [f"{rate:.1f} calls/s", f"{self.reused:,} reused", f"{self.tokens:,} tokens"]
        if self.cost:
            parts.append(f"cost {self.cost:.2f}")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if done:
            minutes, seconds = divmod(round(self.seconds / done * (total - done)), 60)
            parts.append(f"{minutes}:{seconds:02} left")
        return ", ".join(parts)


class Answers:
    """Asks one model, with a cache. Use it inside one event loop (`async with`).

    Args:
        config: of the endpoint; its budget includes what the cached answers have cost.
        cache: folder of the answers; None keeps none.
        name: of this process's file in it, when several share the cache.

    Raises:
        InputError: a damaged cache; what `Client` raises.
    """

    def __init__(self, config: LLMConfig, cache: str | Path | None, name: str = "0") -> None:
        self.config = config
        self._known: dict[str, tuple[str, str]] = {}
        """Key -> the answer and why it ended."""
        self._waiting: dict[str, asyncio.Future[tuple[str, str]]] = {}
        spent = Usage()
        self._file: IO[str] | None = None
        if cache is not None:
            folder = Path(cache)
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("answers-*.jsonl")):
                spent += self._load(path)
            self._file = _appending(folder / f"answers-{name}.jsonl")
        self._client = Client(config, give_up_after=FAILURES_IN_A_ROW)
        self._client.usage += spent
        self._began = time.monotonic()
        self._asked = self._reused = self._failed = 0

    def _load(self, path: Path) -> Usage:
        """Takes over the answers of a file; a truncated last line does not count."""
        tokens = [0, 0]
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    break
                try:
                    item = json.loads(line)
                    if item["text"].strip():  # older files may hold answers without text
                        self._known[item["key"]] = item["text"], item.get("finish", "")
                    tokens[0] += item["input_tokens"]
                    tokens[1] += item["output_tokens"]
                except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                    raise InputError(f"{path}: line {number} is not an answer: {error}") from None
        return Usage(input_tokens=tokens[0], output_tokens=tokens[1])

    async def __aenter__(self) -> Answers:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()
        if self._file is not None:
            self._file.close()

    @property
    def status(self) -> Status:
        """The job's progress."""
        usage = self._client.usage
        return Status(
            self._asked,
            self._reused,
            self._failed,
            usage.tokens,
            self._client.cost,
            time.monotonic() - self._began,
        )

    async def ask(self, messages: Sequence[Message], whole: bool = False) -> str:
        """The answer; the same messages are sent once, also when requested concurrently.

        Args:
            messages: the chat.
            whole: an answer that was cut by a length limit is a failure.

        Raises:
            LLMError: no answer came.
            Stopped: no further questions are sent.
        """
        text, finish = await self._once(messages)
        if whole and finish in ("length", "truncated"):
            raise LLMError(
                "cut", f"the answer was cut after {len(text)} characters: raise max_tokens or max_chars"
            )
        return text

    async def _once(self, messages: Sequence[Message]) -> tuple[str, str]:
        key = question_key(self.config, messages)
        if key in self._known:
            self._reused += 1
            return self._known[key]
        if key in self._waiting:
            self._reused += 1
            return await asyncio.shield(self._waiting[key])
        future: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            answer = await self._call(key, messages)
        except BaseException as error:
            if not future.done():
                future.set_exception(error if isinstance(error, Exception) else Stopped("interrupted"))
                future.exception()  # perhaps no one waits for it
            raise
        finally:
            del self._waiting[key]
        future.set_result(answer)
        return answer

    async def _call(self, key: str, messages: Sequence[Message]) -> tuple[str, str]:
        try:
            answer = await self._client.complete(messages)
        except LLMError as error:
            if error.kind in ("budget", "given_up"):
                raise Stopped(str(error)) from None
            self._asked += 1
            self._failed += 1
            raise
        # Nothing is awaited between the answer and its line in the file: a slot is free for the next question only
        # when this answer is safe.
        self._asked += 1
        self._known[key] = answer.text, answer.finish
        if self._file is not None:
            item = {
                "key": key,
                "text": answer.text,
                "finish": answer.finish,
                "input_tokens": answer.usage.input_tokens,
                "output_tokens": answer.usage.output_tokens,
            }
            self._file.write(json.dumps(item, ensure_ascii=False) + "\n")
            self._file.flush()
        return self._known[key]


def question_key(config: LLMConfig, messages: Sequence[Message]) -> str:
    """A name for a question: equal for equal messages to the same model with the same settings."""
    facts = [[getattr(config, name) for name in IDENTITY], [[m["role"], m["content"]] for m in messages]]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode()).hexdigest()


def _appending(path: Path) -> IO[str]:
    """A file to append to, without the partial line that a killed process may have left at its end."""
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
                os.fsync(file.fileno())
    return path.open("a", encoding="utf-8")
