"""What the user says, as far as it was heard: sources of partial transcripts behind one interface.

A source is given each frame of the user's sound and returns what it understood since. Slow recognisers work on their
own thread: a conversation never waits for one.
"""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import soxr

from kame_jax.errors import InputError
from kame_jax.files import read_text
from kame_jax.llm import Failures, one_line


class Heard(NamedTuple):
    """One turn of the user, as far as it is understood."""

    text: str
    """All words of the turn so far."""
    final: bool
    """The turn is over; the next `Heard` is about another."""
    time: float
    """End of the last word, in seconds since the conversation began."""


class Transcript(Protocol):
    """A source of transcripts. `close` it when the conversation ends."""

    failures: Failures
    """What went wrong."""

    def push(self, samples: np.ndarray, time: float) -> list[Heard]:
        """Takes a frame of sound that ends at `time` seconds; returns what is new, preferably only the newest."""
        ...

    def close(self) -> None:
        """Ends threads and connections."""
        ...

    def report(self) -> dict[str, float]:
        """What the source did, failed to do, and cost: figures by name."""
        ...


def _is_word(item: Mapping[str, Any]) -> bool:
    match item:
        case {"word": str(), "start": bool(), **_rest} | {"word": str(), "end": bool(), **_rest}:
            return False
        case {"word": str(), "start": int() | float() as start, "end": int() | float() as end}:
            return 0 <= start <= end < math.inf
    return False


class TimedTranscript:
    """Words with their times, as a recording's file has them: heard when they end.

    Args:
        words: (word, start, end) in seconds, in any order.
        pause: seconds of silence after which a turn is over.
    """

    def __init__(self, words: Sequence[tuple[str, float, float]], pause: float = 0.8) -> None:
        self.words = sorted(words, key=lambda word: word[2])
        """(word, start, end) in the order in which they end."""
        self.failures = Failures()
        self._pause = pause
        self._next = 0
        self._turn: list[tuple[str, float, float]] = []

    @classmethod
    def read(cls, path: str | Path, speaker: str | None = None, pause: float = 0.8) -> TimedTranscript:
        """From a `text/<id>.json` file: a list of {speaker, word, start, end}; `speaker` None takes all of them.

        Raises:
            InputError: the file cannot be read, holds no word of the speaker, or everything that is wrong with its
                words, in one list.
        """
        expected = "a JSON list of {word, start, end, speaker}, times in seconds"
        try:
            items = json.loads(read_text(path, expected))
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}: cannot be read as a transcript, {expected}: {error}") from None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f"{path}: cannot be read as a transcript, {expected}")
        spoken = [item for item in items if speaker is None or item.get("speaker") == speaker]
        problems = [f"word {i}: {str(item)[:200]}" for i, item in enumerate(spoken) if not _is_word(item)]
        if problems:
            wrong = (
                f"cannot be read as a transcript: {len(problems)} entries without a word or 0 <= start <= end"
            )
            raise InputError(f"{path}: {wrong}", problems)
        if not spoken:
            raise InputError(f"{path}: holds no word{f' of speaker {speaker}' if speaker else ''}")
        return cls([(item["word"], float(item["start"]), float(item["end"])) for item in spoken], pause)

    def push(self, samples: np.ndarray, time: float) -> list[Heard]:
        """See `Transcript`."""
        events, news = [], False
        while self._next < len(self.words) and self.words[self._next][2] <= time:
            word = self.words[self._next]
            if self._turn and word[1] - self._turn[-1][2] >= self._pause:
                events.append(self._heard(final=True))
                self._turn = []
            self._turn.append(word)
            self._next, news = self._next + 1, True
        if self._turn and time - self._turn[-1][2] >= self._pause and not self._speaking(time):
            events.append(self._heard(final=True))
            self._turn = []
        elif news:
            events.append(self._heard(final=False))
        return events

    def close(self) -> None:
        """Nothing to close."""

    def report(self) -> dict[str, float]:
        """No figures."""
        return {}

    def _speaking(self, time: float) -> bool:
        """Whether a word that has not ended yet has begun soon enough to belong to the turn."""
        if self._next == len(self.words):
            return False
        start = self.words[self._next][1]
        return start <= time and start - self._turn[-1][2] < self._pause

    def _heard(self, final: bool) -> Heard:
        return Heard(" ".join(word for word, _, _ in self._turn), final, self._turn[-1][2])


class Threaded:
    """A recogniser that runs locally, on its own thread; `_hear` returns what a frame gave.

    Args:
        most_waiting: frames that may wait for it; the oldest beyond that are left out, and counted.
    """

    def __init__(self, most_waiting: int = 125) -> None:
        self.counts: Counter[str] = Counter()
        self.failures = Failures()
        self._most_waiting = most_waiting
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="speech-to-text")
        self._waiting: deque[Future[list[Heard]]] = deque()

    def push(self, samples: np.ndarray, time: float) -> list[Heard]:
        """See `Transcript`; what is understood comes some frames later."""
        self._waiting.append(self._worker.submit(self._hear, np.array(samples, np.float32), time))
        heard: list[Heard] = []
        while self._waiting and self._waiting[0].done():
            heard += self._result(self._waiting.popleft())
        if len(self._waiting) > self._most_waiting:
            # The first runs; the second has waited longest.
            if self._waiting[1].cancel():
                self.counts["frames_left_out"] += 1
            del self._waiting[1]
        return heard

    def _result(self, done: Future[list[Heard]]) -> list[Heard]:
        try:
            return done.result()
        except Exception as error:
            self.counts[f"failed_{type(error).__name__}"] += 1
            self.failures.add("speech-to-text", type(error).__name__, one_line(error))
            return []

    def close(self) -> None:
        """Ends the thread; sound that is still waiting is dropped."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def report(self) -> dict[str, float]:
        """See `Transcript`."""
        return dict(sorted(self.counts.items()))

    def _hear(self, samples: np.ndarray, time: float) -> list[Heard]:
        """What a frame that ends at `time` gave."""
        raise AssertionError("each recogniser has its own")


class PocketSphinx(Threaded):
    """Offline speech-to-text with the model that the pocketsphinx wheel ships (English). Extra `stt`.

    Args:
        sample_rate: of the frames, samples a second.
        pause: seconds of silence after which a turn is over.

    Raises:
        InputError: pocketsphinx is not installed.
    """

    RATE = 16_000

    def __init__(self, sample_rate: int, pause: float = 0.8) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError:
            raise InputError(
                "offline speech-to-text needs pocketsphinx: install kame_jax[stt], or give a transcript"
            ) from None
        self._decoder = Decoder(samprate=self.RATE, loglevel="FATAL")
        self._resampler = soxr.ResampleStream(sample_rate, self.RATE, 1, dtype="float32")
        self._pause = pause
        self._text, self._changed = "", 0.0
        self._decoder.start_utt()
        super().__init__()

    def _hear(self, samples: np.ndarray, time: float) -> list[Heard]:
        sound = self._resampler.resample_chunk(np.asarray(samples, np.float32))
        self._decoder.process_raw((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
        found = self._decoder.hyp()
        text = found.hypstr if found is not None else ""
        if text != self._text:
            self._text, self._changed = text, time
            return [Heard(text, False, time)] if text else []
        if text and time - self._changed >= self._pause:
            self._decoder.end_utt()
            self._decoder.start_utt()
            self._text = ""
            return [Heard(text, True, self._changed)]
        return []
