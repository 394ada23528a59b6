"""The figures of a conversation: how old the oracle is when it is read, what becomes of it, and what follows it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from kame_jax.decode.session import Session
from kame_jax.llm import Usage
from kame_jax.tandem.backend import Question, content_words
from kame_jax.tandem.transcript import Heard

FRAME_SECONDS = 0.08
BUDGET_MS = 80.0
PAUSE = 1.0
"""Seconds without a word after which the model's next word begins a new turn."""


class Measures:
    """Collects while a conversation runs; `report` sums up.

    Args:
        pad_id: of the idle oracle.
        start_id: marks the start of an answer.
    """

    def __init__(self, pad_id: int, start_id: int) -> None:
        self._pad, self._start = pad_id, start_id
        self._line: deque[tuple[int, int, float | None]] = deque()
        self._ages: list[int] = []
        self._known: list[float] = []
        self._given = 0
        self._recalls: list[float] = []
        self._answer = ""
        self._said_since = ""
        self._read = 0
        self._user: list[list[float]] = []
        self._speaks: list[float] = []
        self._last_said = -PAUSE
        self.delays: list[float] = []
        """Seconds until each answer began."""

    def adopted(self, question: Question, ids: list[int], frame: int) -> None:
        """A new answer replaced the old one before frame `frame` is heard."""
        self._close_answer()
        self._line.clear()
        self._given += len(ids)
        # The first token after the start mark is the first that can know the question's last word.
        self._line.extend([(self._start, frame, None), (ids[0], frame, question.time)])
        self._line.extend((token, frame, None) for token in ids[1:])

    def appended(self, ids: list[int], frame: int) -> None:
        """More of the answer came before frame `frame` is heard."""
        self._given += len(ids)
        self._line.extend((token, frame, None) for token in ids)

    def completed(self, text: str) -> None:
        """The adopted answer is whole."""
        self._answer = text

    def read(self, token: int, frame: int) -> None:
        """The model read `token` beside frame `frame`."""
        if token == self._pad or not self._line:
            return
        while self._line and self._line[0][0] != token:
            self._line.popleft()
        if self._line:
            _, came, word = self._line.popleft()
            self._read += token != self._start
            self._ages.append(frame - came)
            if word is not None:
                self._known.append((frame + 1) * FRAME_SECONDS - word)

    def heard(self, heard: Heard) -> None:
        """The user's turn went on or ended."""
        if not self._user or self._user[-1][2]:
            self._user.append([heard.time, heard.time, 0.0])
        self._user[-1][1:] = [heard.time, float(heard.final)]

    def said(self, text: str, time: float) -> None:
        """The model said `text` at `time` seconds."""
        if not text.strip():
            return
        if time - self._last_said >= PAUSE:
            self._speaks.append(time)
        self._last_said = time
        self._said_since += text

    def _latencies(self) -> list[float]:
        """For each of the user's turns, seconds from its end to the first word of the reply; negative when before."""
        found = []
        for index, (begin, end, _) in enumerate(self._user):
            following = self._user[index + 1][0] if index + 1 < len(self._user) else np.inf
            reply = [time for time in self._speaks if begin <= time < following]
            if reply:
                found.append(reply[0] - end)
        return found

    def _close_answer(self) -> None:
        """Scores the last whole answer with what was said since it came."""
        wanted = set(content_words(self._answer))
        if wanted and self._said_since.strip():
            self._recalls.append(len(wanted & set(content_words(self._said_since))) / len(wanted))
        self._answer = self._said_since = ""

    def report(self, session: Session, usage: Usage | None, cost: float) -> dict[str, Any]:
        """All figures; times in milliseconds or seconds as their names say, None where there was nothing to measure."""
        self._close_answer()
        frames = np.array(session.engine.frame_seconds or [0.0]) * 1e3
        latencies = self._latencies()
        result = {
            "frame_ms_p50": float(np.percentile(frames, 50)),
            "frame_ms_p95": float(np.percentile(frames, 95)),
            "frame_ms_p99": float(np.percentile(frames, 99)),
            "frames_over_80_ms": int(np.sum(frames > BUDGET_MS)),
            "oracle_age_seconds_p50": _percentile(np.array(self._ages) * FRAME_SECONDS, 50),
            "oracle_age_seconds_p95": _percentile(np.array(self._ages) * FRAME_SECONDS, 95),
            "word_to_oracle_seconds_p50": _percentile(np.array(self._known), 50),
            "first_token_seconds_p50": _percentile(np.array(self.delays), 50),
            "oracle_tokens_given": self._given,
            "oracle_read_fraction": self._read / self._given if self._given else None,
            "oracle_recall": float(np.mean(self._recalls)) if self._recalls else None,
            "first_word_seconds": latencies[0] if latencies else None,
            "first_word_seconds_p50": _percentile(np.array(latencies), 50),
        }
        result |= {f"oracle_tokens_{name}": count for name, count in session.counts.items()}
        if usage is not None:
            result |= {
                "llm_questions": usage.requests,
                "llm_tries": usage.tries,
                "llm_input_tokens": usage.input_tokens,
                "llm_output_tokens": usage.output_tokens,
                "llm_cost": cost,
            }
        return result


def _percentile(values: np.ndarray, q: float) -> float | None:
    return float(np.percentile(values, q)) if len(values) else None
