"""The figures of a conversation: how old the oracle is when it is read, what happens to it, and what follows."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from kame_jax.decode.session import Session
from kame_jax.llm import Usage
from kame_jax.oracle import OracleOp
from kame_jax.streams import FRAME_SECONDS
from kame_jax.tandem.backend import content_words
from kame_jax.tandem.transcript import Heard

PAUSE = 1.0
"""Seconds without a word, or without sound, after which the model's next one begins a new turn."""
AUDIBLE = 1e-2
"""Root mean square of an audible frame: 40 dB below full scale."""


class ConversationReport:
    """Collects figures while a conversation runs, or from a replayed one's oracle changes; `figures` sums up.

    Args:
        pad_id: of the idle oracle.
        start_id: marks the start of an answer.
    """

    def __init__(self, pad_id: int, start_id: int) -> None:
        self._pad, self._start = pad_id, start_id
        self._line: deque[tuple[int, int, float | None]] = deque()
        """Tokens that wait to be read: id, frame before which it came, end of the word that it knows first."""
        self._steps: list[float] = []
        """Seconds that each frame took."""
        self._ages: list[int] = []
        self._known: list[float] = []
        self._given = self._read = self._erased = 0
        self._newest_word: float | None = None
        self._recalls: list[float] = []
        self._answer = ""
        self._said_since = ""
        self._user: list[tuple[float, float, bool]] = []
        self._words, self._sounds = _Onsets(), _Onsets()
        self.delays: list[float] = []
        """Seconds until each answer began."""
        self.frame_ended: float | None = None
        """When the newest frame was finished, in seconds of a monotonic clock."""
        self._frame_ms: list[float] = []

    def frame(self, began: float, ended: float) -> None:
        """A frame with sound available at `began` and output finished at `ended`, in seconds of a monotonic clock.

        Its time counts from then, or from the end of the previous frame where that was later.
        """
        if self.frame_ended is not None:
            began = max(began, self.frame_ended)
        self._frame_ms.append((ended - began) * 1e3)
        self.frame_ended = ended

    def adopted(self, word_time: float) -> None:
        """The next `replace` begins an answer that knows the user's words up to `word_time` seconds."""
        self._close_answer()
        self._newest_word = word_time

    def changed(self, op: OracleOp) -> None:
        """A change of the oracle, before frame `op.step` is heard."""
        if op.op != "append":
            self._erased += sum(token != self._start for token, _, _ in self._line)
            self._line.clear()
        tokens = list(op.tokens)
        self._given += len(tokens)
        if op.op == "replace":
            self._line.append((self._start, op.step, None))
            if tokens:
                # The first token after the start mark is the first that can know the question's last word.
                self._line.append((tokens.pop(0), op.step, self._newest_word))
                self._newest_word = None
        self._line.extend((token, op.step, None) for token in tokens)

    def completed(self, text: str) -> None:
        """The adopted answer is whole."""
        self._answer = text

    def stepped(self, seconds: float) -> None:
        """The engine's time for a frame."""
        self._steps.append(seconds)

    def read(self, token: int, frame: int) -> None:
        """The model read `token` at frame `frame`."""
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
        """The user's turn continued or ended."""
        begin = heard.time
        if self._user and not self._user[-1][2]:
            begin = self._user.pop()[0]
        self._user.append((begin, heard.time, heard.final))

    def said(self, text: str, time: float) -> None:
        """The model said `text` at `time` seconds."""
        if text.strip():
            self._words.push(time)
            self._said_since += text

    def sounded(self, samples: np.ndarray | None, time: float) -> None:
        """The model's sound, float32 `[samples]`, from `time` on."""
        if samples is not None and float(np.mean(np.square(samples))) > AUDIBLE**2:
            self._sounds.push(time)

    def _latencies(self, onsets: list[float]) -> list[float]:
        """For each of the user's turns, seconds from its end to the beginning of the reply; negative when before."""
        found = []
        for index, (begin, end, _) in enumerate(self._user):
            following = self._user[index + 1][0] if index + 1 < len(self._user) else np.inf
            reply = [time for time in onsets if begin <= time < following]
            if reply:
                found.append(reply[0] - end)
        return found

    def _close_answer(self) -> None:
        """Scores the last whole answer with what was said since it came."""
        wanted = set(content_words(self._answer))
        if wanted and self._said_since.strip():
            self._recalls.append(len(wanted & set(content_words(self._said_since))) / len(wanted))
        self._answer = self._said_since = ""

    def _fraction(self, count: int) -> float | None:
        return count / self._given if self._given else None

    def figures(self, session: Session, usage: Usage | None, cost: float) -> dict[str, Any]:
        """All figures; times in milliseconds or seconds as their names say, None where there was nothing to measure.

        What is given to the oracle is read, erased unread by a newer answer or a clear, or wasted: never reached
        before the end, late or too far ahead. A frame is all that happens from its sound to the model's, a step the
        engine's part of it.
        """
        self._close_answer()
        steps = np.array(self._steps or [0.0]) * 1e3
        frames = np.array(self._frame_ms or [0.0])
        words, sounds = self._latencies(self._words.times), self._latencies(self._sounds.times)
        result = {
            **{f"frame_ms_p{q}": float(np.percentile(frames, q)) for q in (50, 95, 99)},
            "frame_ms_max": float(frames.max()),
            "frames_over_80_ms": int(np.sum(frames > FRAME_SECONDS * 1e3)),
            **{f"step_ms_p{q}": float(np.percentile(steps, q)) for q in (50, 95, 99)},
            "steps_over_80_ms": int(np.sum(steps > FRAME_SECONDS * 1e3)),
            "oracle_age_seconds_p50": _percentile(np.array(self._ages) * FRAME_SECONDS, 50),
            "oracle_age_seconds_p95": _percentile(np.array(self._ages) * FRAME_SECONDS, 95),
            "word_to_oracle_seconds_p50": _percentile(np.array(self._known), 50),
            "first_token_seconds_p50": _percentile(np.array(self.delays), 50),
            "oracle_tokens_given": self._given,
            "oracle_read_fraction": self._fraction(self._read),
            "oracle_erased_fraction": self._fraction(self._erased),
            "oracle_wasted_fraction": self._fraction(self._given - self._read - self._erased),
            "oracle_recall": float(np.mean(self._recalls)) if self._recalls else None,
            "first_word_seconds": words[0] if words else None,
            "first_word_seconds_p50": _percentile(np.array(words), 50),
            "first_sound_seconds": sounds[0] if sounds else None,
            "first_sound_seconds_p50": _percentile(np.array(sounds), 50),
        }
        result["samples_silenced"] = session.silenced
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


class _Onsets:
    """Times at which something begins after a pause."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._last = -np.inf

    def push(self, time: float) -> None:
        if time - self._last >= PAUSE:
            self.times.append(time)
        self._last = time


def _percentile(values: np.ndarray, q: float) -> float | None:
    return float(np.percentile(values, q)) if len(values) else None
