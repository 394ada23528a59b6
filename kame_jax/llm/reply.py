"""What a chat server's bytes mean: a stream of events or one JSON object, in the forms that servers really send.

Chunks without a delta (Azure), content as a list of parts (Mistral), errors with status 200 (OpenRouter, vLLM), a JSON
object or a page where a stream was asked for, streams that end with or without a reason: all are read here.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kame_jax.llm.errors import LLMError, one_line, reported
from kame_jax.llm.markup import Visible

MAX_LINE = 1 << 20
"""Bytes of a line or an event."""
TURN_SECONDS = 2e-3
"""Of work on an answer, before other work on the event loop can run."""
MOST_TOKENS = 1 << 53
DONE = "[DONE]"


class Reply:
    """One answer as it is read; `pieces` gives its text, the rest is what came with it."""

    def __init__(self) -> None:
        self.finish = ""
        """Why it ended, as the server reports: "stop", "length", ..."""
        self.counted: tuple[int, int] | None = None
        """Prompt and answer tokens, where the server counts them."""
        self.chars = 0
        """Of the answer and the reasoning, seen or not."""
        self._visible = Visible()
        self._any = self._ended = self._reasoned = self._called = False
        self._declined = self._odd = ""
        self._half = ""

    async def pieces(self, parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
        """The text of an answer whose body comes in `parts`; no piece is empty.

        Raises:
            LLMError: the answer is an error, is broken off, or holds no text.
        """
        async for data in _events(parts):
            if data == DONE:
                self._ended = True
                break
            try:
                value = json.loads(data)
            except (ValueError, RecursionError):
                raise LLMError("malformed", f"expected JSON, got {one_line(data)[:80]}") from None
            text = self._take(value)
            if text and (shown := self._shown(text)):
                yield shown
            if self._visible.ended:
                break
        if shown := self._shown(None):
            yield shown
        self._check_end()

    def _shown(self, text: str | None) -> str:
        """The visible part of the next text (None: the end); half a character waits for its other half."""
        whole = self._half + (text or "")
        self._half = ""
        if text is not None and whole and "\ud800" <= whole[-1] <= "\udbff":
            whole, self._half = whole[:-1], whole[-1]
        shown = self._visible.push(mended(whole))
        if text is None:
            shown += self._visible.finish()
        shown = shown if self._any else shown.lstrip()
        self._any = self._any or bool(shown)
        return shown

    def _take(self, value: Any) -> str:
        """The text of a chunk, or of a whole answer."""
        if error := reported(value):
            raise LLMError(error[0], one_line(error[1]))
        if not isinstance(value, Mapping):
            raise LLMError("malformed", f"expected a JSON object, got {one_line(json.dumps(value))[:80]}")
        self.counted = _counts(value.get("usage")) or self.counted
        if not ("choices" in value or "usage" in value):
            self._odd = self._odd or one_line(json.dumps(value))[:80]
        choices = value.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices):
            raise LLMError("malformed", f"choices are {one_line(json.dumps(choices))[:80]}")
        if not choices and value.get("usage"):
            self._ended = True
        text = ""
        for choice in choices:
            if choice.get("index") not in (0, None):
                continue  # one answer was requested
            if error := reported({"error": choice.get("error")}):
                raise LLMError(error[0], one_line(error[1]))
            self.finish = str(choice.get("finish_reason") or self.finish)
            message = choice.get("delta") or choice.get("message") or {}
            if not isinstance(message, Mapping):
                raise LLMError("malformed", f"a delta is {one_line(json.dumps(message))[:80]}")
            reasoning = message.get("reasoning_content") or message.get("reasoning")
            self._reasoned = self._reasoned or bool(reasoning)
            self._called = self._called or bool(message.get("tool_calls") or message.get("function_call"))
            self._declined += str(message.get("refusal") or "")[:200]
            content = _text_of(message.get("content"))
            self.chars += len(content) + (len(reasoning) if isinstance(reasoning, str) else 0)
            text += content
        return text

    def _check_end(self) -> None:
        """Whether the answer is whole."""
        over = self._visible.ended or self.finish or self._ended
        if not over and self._odd and not self._any:
            raise LLMError("malformed", f"expected choices, got {self._odd}: is base_url right?")
        if not over:
            raise LLMError("cut", "the answer ended without a finish_reason")
        if self.finish == "error":
            raise LLMError("server", "the server says that the answer failed")
        if self.finish in ("content_filter", "refusal") or (self._declined and not self._any):
            raise LLMError(
                "filtered", one_line(self._declined or "the server's content filter stopped the answer")
            )
        if self._any:
            return
        if self._called or self._visible.called_tool:
            raise LLMError("empty", "the model called a tool, and none was offered")
        if self.finish == "length":
            thought = "reasoning took all of max_tokens" if self._reasoned else "max_tokens is too small"
            raise LLMError("empty", f"no text: {thought}; raise max_tokens, or lower reasoning_effort")
        raise LLMError("empty", f"no text (finish_reason {one_line(self.finish) or 'not given'})")


def mended(text: str) -> str:
    """`text` with surrogates joined to characters; those that stand alone become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts of which some are text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise LLMError("malformed", f"content is {type(content).__name__}, expected text")
    texts = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type", "text") in ("text", "output_text"):
            part = part.get("text")
        if isinstance(part, str):
            texts.append(part)
    return "".join(texts)


def _counts(usage: Any) -> tuple[int, int] | None:
    """Prompt and answer tokens, if both are counts."""
    if not isinstance(usage, Mapping):
        return None
    asked, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(asked) is not int or type(answered) is not int:
        return None
    return (asked, answered) if 0 <= asked < MOST_TOKENS and 0 <= answered < MOST_TOKENS else None


async def _events(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of server-sent events; of a body without any, the whole body.

    Work grows with the body's length alone, and other work can run every few milliseconds.
    """
    data, other = bytearray(), bytearray()
    any_event, turn = False, time.perf_counter()
    async for line in _lines(parts):
        line = line.removeprefix(codecs.BOM_UTF8)
        if not line:
            event = data.decode("utf-8", "replace").rstrip("\n")
            data.clear()
            if event:
                yield event
        elif not line.startswith(b":"):
            name, _, value = line.partition(b":")
            if name == b"data":
                any_event = True
                data += value.removeprefix(b" ") + b"\n"
            elif name not in (b"event", b"id", b"retry") and not any_event:
                other += line + b"\n"
            if max(len(data), len(other)) > MAX_LINE:
                raise LLMError("oversized", f"an event of more than {MAX_LINE:,} bytes")
        if time.perf_counter() - turn > TURN_SECONDS:
            await asyncio.sleep(0)
            turn = time.perf_counter()
    if not any_event and other.strip():
        yield other.decode("utf-8", "replace").strip()


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a body without their ends, and an empty one after the last."""
    rest = bytearray()
    async for part in parts:
        rest += part
        if len(rest) > MAX_LINE + len(part):
            raise LLMError("oversized", f"a line of more than {MAX_LINE:,} bytes")
        if b"\n" in part:
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in lines:
                yield line.rstrip(b"\r")
    yield bytes(rest)
    yield b""
