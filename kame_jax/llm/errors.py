"""What goes wrong with a server: one kind of error, named, with the server's own words on one safe line.

Language models, speech-to-text and text-to-speech share it. A key never reaches a message, a log or a repr.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

RETRIED = ("rate_limit", "server", "connection", "timeout", "cut")
"""Kinds of failure that another try may mend."""
SHOWN_CHARS = 300
READ_CHARS = 10_000
_KEY = re.compile(r"\b(sk|key|Bearer)[-_ ][\w*.-]{6,}")
_NO_QUOTA = ("insufficient_quota", "billing", "credit")
_REFUSALS = ("invalid", "auth", "permission", "not_found", "not found", "unsupported", "unknown", "key")
HINTS = {
    "max_completion_tokens": "limit_field: max_completion_tokens",
    "stream_options": "stream_usage: false",
    "system role": "system_role: false",
}
"""What a server's message mentions -> the setting (`LLMConfig`) that helps."""


class LLMError(RuntimeError):
    """No answer, or not the whole of it.

    `kind` is one of
        "rate_limit": status 429;
        "server": status 5xx, or an error that the server reports within an answer;
        "connection": the server was not reached;
        "timeout": it did not answer in time;
        "cut": the answer ended early;
        "malformed": it is not what the protocol says;
        "oversized": it is longer than any answer should be;
        "refused": another status, such as a wrong key or an unknown model or option;
        "filtered": the server or the model declined to answer;
        "empty": the answer holds no text;
        "budget": a limit of the configuration is reached;
        "given_up": too many answers in a row failed.
    """

    def __init__(self, kind: str, message: str, retry_after: float | None = None) -> None:
        self.kind = kind
        self.words = message
        self.retry_after = retry_after
        """Seconds that the server asks to wait; None where it does not."""
        self.who = "back end"
        """Who failed, as a reader knows it."""
        super().__init__(f"{kind}: {message}")


class Failures:
    """What went wrong: how often each kind, and the message of its first time, which is reported once."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """(who, kind) -> how often."""
        self._words: dict[tuple[str, str], str] = {}
        self._news: deque[str] = deque()

    def add(self, who: str, kind: str, words: str) -> None:
        """Counts a failure of a server, named as the user knows it; `words` are one line."""
        self.counts[who, kind] += 1
        if (who, kind) not in self._words:
            self._words[who, kind] = words
            self._news.append(f"{who}: {kind}: {words}")

    def news(self) -> list[str]:
        """A line for each kind that happened for the first time since the last call."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def summary(self) -> list[str]:
        """A line for each kind, with its count."""
        return [
            f"{who}: {kind} ({self.counts[who, kind]} times): {words}"
            for (who, kind), words in list(self._words.items())
        ]


def one_line(words: object, *secrets: str) -> str:
    """The beginning of any words on one line: without `secrets`, control characters, or what looks like a key."""
    text = str(words)[:READ_CHARS]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    text = _KEY.sub("***", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:SHOWN_CHARS]


def status_error(status: int, headers: Mapping[str, str], body: bytes, *secrets: str) -> LLMError:
    """The failure that a reply with another status than 200 reports."""
    text = body[:READ_CHARS].decode("utf-8", "replace")
    try:
        found = reported(json.loads(body))
    except (ValueError, RecursionError):
        found = None
    words = found[1] if found else re.sub(r"<[^<>]*>", " ", text)
    kind = status_kind(status)
    if kind == "rate_limit" and any(mark in text.lower() for mark in _NO_QUOTA):
        kind = "refused"  # no quota is left: waiting does not help
    where = f", to {headers['location']}" if 300 <= status < 400 and "location" in headers else ""
    hints = [setting for mark, setting in HINTS.items() if status < 500 and mark in words.lower()]
    hint = f" (set {', '.join(hints)})" if hints else ""
    line = one_line(f"status {status}{where}: {words}", *secrets)
    return LLMError(kind, f"{line}{hint}", retry_after(headers))


def status_kind(status: int) -> str:
    """The kind of failure that an HTTP status means."""
    if status == 429:
        return "rate_limit"
    return "timeout" if status == 408 else "server" if status >= 500 else "refused"


def reported(value: object) -> tuple[str, str] | None:
    """(kind, words) of the error that a JSON value reports, in any of the forms that servers use; None without one."""
    if isinstance(value, list) and len(value) == 1:  # Gemini's endpoint
        value = value[0]
    if not isinstance(value, Mapping):
        return None
    error: Any = value.get("error") or value.get("errors") or value.get("detail")
    if isinstance(error, list) and error:  # Cloudflare, FastAPI
        error = error[0]
    alone = value.get("object") == "error" or isinstance(value.get("message"), str)
    if not error and "choices" not in value and alone:
        error = value  # vLLM, Mistral
    if not error:
        return None
    if not isinstance(error, Mapping):
        return _said_kind([], str(error)), str(error)
    words = error.get("message") or error.get("msg") or error.get("error") or json.dumps(error)
    if "loc" in error:
        words = f"{words}: {'.'.join(map(str, error['loc']))}"
    return _said_kind([error.get(name) for name in ("code", "status", "type")], str(words)), str(words)


def _said_kind(codes: list[Any], words: str) -> str:
    for code in codes:
        if str(code).isdecimal() and 400 <= int(str(code)[:3]) < 600:
            return status_kind(int(str(code)[:3]))
    text = " ".join(map(str, codes)).lower() + ("" if any(codes) else words.lower())
    if "rate_limit" in text or "too many" in text:
        return "rate_limit"
    return "refused" if any(mark in text for mark in _REFUSALS) else "server"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, by `retry-after-ms` or `retry-after` (seconds or a date); else None."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    due, sent = (_date(headers.get(name, "")) for name in ("retry-after", "date"))
    # By the server's own clock where it tells it.
    return None if due is None else max(due - (time.time() if sent is None else sent), 0.0)


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
