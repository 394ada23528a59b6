"""The tandem: one engine session, what the user is heard to say, and a back end whose answers become the oracle.

Two clocks: frames, on which sound comes in and goes out, and the back end's own time. The frames never
wait for the back end: its answers run as concurrent tasks, and even if they fail, the frames continue. Rules when to
ask and when a new answer replaces the old one: `TandemConfig`; the reference's are in SakanaAI/kame `server_oracle.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax.config import TandemConfig
from kame_jax.decode.session import Frame, Session
from kame_jax.llm import Failures, LLMError, one_line
from kame_jax.oracle import OracleOp
from kame_jax.streams import FRAME_SECONDS
from kame_jax.tandem.backend import Backend, Question, Turn
from kame_jax.tandem.report import ConversationReport
from kame_jax.tandem.speech import SpokenTokens
from kame_jax.tandem.transcript import Heard, Transcript
from kame_jax.tandem.words import count_words, spoken_part

MOST_TURNS = 100
"""That a question may refer to."""
CHARS_AT_ONCE = 200
"""Of an answer that are converted on the event loop, before other work there can run."""


@dataclass
class _Answer:
    """One answer in flight."""

    number: int
    question: Question
    tokens: SpokenTokens
    task: asyncio.Task[None] | None = None
    ids: list[int] = field(default_factory=list)
    """Tokens that wait for the next frame."""
    pieces: int = 0
    chars: int = 0
    begun: bool = False
    """Its first tokens are in the oracle."""
    done: bool = False
    fell: bool = False
    """It failed, or it is empty where it should not be."""
    restarts: int = 0

    def take(self, ids: list[int]) -> None:
        """Adds tokens to those that wait, or replaces all earlier ones."""
        if self.tokens.restarts > self.restarts:
            self.restarts, self.begun, self.ids = self.tokens.restarts, False, []
        self.ids += ids


class Conversation:
    """One user and the model, with a back end in between.

    Args:
        session: a fresh session of an engine with a tokenizer and an oracle.
        transcript: what the user says.
        backend: who answers; None leaves the oracle idle. Neither is closed here.
        config: when to ask, and limits.
        log: called with each event as JSON types; the lines replay (`kame-jax stream --oracle LOG`).
        say: called with a line for each kind of failure of the back end or the transcript when it first happens.
    """

    def __init__(
        self,
        session: Session,
        transcript: Transcript | None,
        backend: Backend | None,
        config: TandemConfig = TandemConfig(),
        log: Callable[[dict[str, Any]], None] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.session, self.config = session, config
        self.transcript, self.backend = transcript, backend
        self.events: Counter[str] = Counter()
        """What happened, counted: asked, adopted, complete, cancelled, failed_<kind>, limited, ..."""
        self.measures = ConversationReport(session.config.text_padding_id, session.config.text_card)
        assert session.tokenizer is not None
        self._tokenizer: SentencePieceProcessor = session.tokenizer
        self._log_line = log or (lambda event: None)
        self._say_line = say
        self._failures = Failures()
        self._all_failures = [self._failures, *([transcript.failures] if transcript is not None else [])]
        self._came: float | None = None
        self._logged = 0
        self._turns: list[Turn] = []
        self._heard, self._any_heard = Heard("", False, 0.0), False
        self._asked_words, self._asked_at, self._asked_text = 0, -np.inf, ""
        self._recent: deque[float] = deque()
        self._answers: list[_Answer] = []
        self._adopted = 0
        self._number = 0
        self._own: Turn | None = None

    @property
    def time(self) -> float:
        """Seconds of sound heard."""
        return self.session.frames * FRAME_SECONDS

    @property
    def waiting(self) -> bool:
        """Whether an answer is in flight, or has not reached the oracle yet."""
        return bool(self._answers)

    async def step(self, samples: np.ndarray, came: float | None = None) -> Frame:
        """One frame: `samples` float32 `[frame_size]` in, the model's frame out.

        The device works on a thread, so that answers come in meanwhile. A server that runs several conversations calls
        `before` on each, one `Engine.step` for all of them, and `after` on each.

        Args:
            samples: of the user.
            came: when the sound was available, by `time.monotonic`; None: when the previous frame was finished.
        """
        await self.before(samples, came)
        frame = await asyncio.to_thread(self.session.push, samples)
        self.after(frame)
        return frame

    async def before(self, samples: np.ndarray, came: float | None = None) -> None:
        """What precedes a frame: the transcript, questions, and the oracle's changes; arguments as for `step`."""
        self._came = self.measures.frame_ended if came is None else came
        if self._came is None:
            self._came = time.monotonic()
        now = self.time + FRAME_SECONDS
        if self.transcript is not None:
            for heard in self.transcript.push(samples, now):
                await self._hear(heard, now)
        if self._heard.text:
            # A question that came too soon after the last one is asked when the interval is over.
            await self._maybe_ask(now)
        self._apply(now)

    def after(self, frame: Frame) -> None:
        """What follows a frame: its figures, its words, and the log."""
        for op in self.session.log[self._logged :]:
            self.measures.changed(op)
            self._log_line({"frame": op.step, "op": op.op, "tokens": list(op.tokens)})
        self._logged = len(self.session.log)
        self.measures.stepped(frame.seconds)
        self.measures.read(frame.oracle, frame.index)
        self.measures.sounded(frame.samples, frame.index * FRAME_SECONDS)
        self._say(frame)
        self._tell_failures()
        self.measures.frame(self._came or 0.0, time.monotonic())

    async def run(
        self,
        frames: Sequence[np.ndarray],
        paced: bool = False,
        ops: Sequence[OracleOp] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
        after: Callable[[Sequence[Frame]], np.ndarray | None] = lambda frames: None,
    ) -> list[Frame]:
        """A whole recording, frame by frame.

        Args:
            frames: the user's sound.
            paced: wait for each frame's time, as a microphone would.
            ops: changes of the oracle in addition to those of the back end, in the order of their steps.
            progress: called with the frames done and their total.
            after: given all frames so far, the sound that follows the recording; None ends the conversation.
        """
        started, came, left = time.monotonic(), None, deque(ops)
        out: list[Frame] = []
        try:
            while True:
                index = len(out)
                samples = frames[index] if index < len(frames) else after(out)
                if samples is None:
                    break
                if paced:
                    came = started + index * FRAME_SECONDS
                    await asyncio.sleep(max(0.0, came - time.monotonic()))
                while left and left[0].step <= index:
                    self.session.change(left.popleft())
                out.append(await self.step(samples, came))
                progress(index + 1, max(index + 1, len(frames)))
        finally:
            await self.close()
        return out

    async def close(self) -> None:
        """Cancels every answer in flight, and waits until its connection is closed."""
        tasks = [answer.task for answer in self._answers if answer.task is not None]
        for answer in list(self._answers):
            self._cancel(answer)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tell_failures()

    def _tell_failures(self) -> None:
        for failures in self._all_failures:
            for line in failures.news():
                self._say_line(line)

    async def _hear(self, heard: Heard, now: float) -> None:
        said = spoken_part(heard.text) or (self._heard.text if heard.final else "")
        if not said:
            return
        # A source may report any time; no word ends after the sound that was heard.
        heard = Heard(said, heard.final, heard.time if 0.0 <= heard.time <= now else now)
        self._log({"event": "heard", "text": heard.text, "final": heard.final, "time": heard.time})
        self.measures.heard(heard)
        self._heard, self._any_heard = heard, True
        await self._maybe_ask(now)
        if heard.final:
            self._insert(Turn("user", heard.text, heard.time))
            self._heard, self._asked_words, self._asked_text = Heard("", False, heard.time), 0, ""

    async def _maybe_ask(self, now: float) -> None:
        trigger, heard = self.config.trigger, self._heard
        words = count_words(heard.text)
        if self.backend is None or not words:
            return
        final = heard.final and trigger.end_of_turn
        changed = heard.text != self._asked_text
        if final:
            due = changed or not self._answers_this(heard.text)
        else:
            enough = words >= trigger.first_words and words - self._asked_words >= (
                trigger.new_words if self._asked_words else 1
            )
            due = changed and enough and now - self._asked_at >= trigger.interval
        if not due:
            return
        while self._recent and self._recent[0] <= now - 60.0:
            self._recent.popleft()
        if len(self._recent) >= self.config.max_questions_a_minute:
            self.events["limited"] += 1
            return
        self._recent.append(now)
        self._asked_words, self._asked_at, self._asked_text = words, now, heard.text
        await self._ask(Question(self._context(heard), heard.text, heard.final, heard.time), now)

    def _answers_this(self, text: str) -> bool:
        """Whether an answer to exactly this text was adopted or is in flight."""
        return self._asked_text == text and self.config.final_llm is None

    def _context(self, heard: Heard) -> tuple[Turn, ...]:
        turns = [*self._turns, Turn("user", heard.text, heard.time)]
        if self._own is not None:
            turns.append(self._own)
        return tuple(sorted(turns, key=lambda turn: turn.time))

    async def _ask(self, question: Question, now: float) -> None:
        assert self.backend is not None
        under_way = [answer for answer in self._answers if not answer.done]
        if len(under_way) >= self.config.max_streams:
            # The newest knows nearly as much as this one will; the oldest must arrive, even from a slow back end.
            self._cancel(max(under_way, key=lambda a: (a.number != self._adopted, a.number)))
        self._number += 1
        answer = _Answer(self._number, question, SpokenTokens(self._tokenizer, self.config.max_words))
        self._answers.append(answer)
        self.events["asked"] += 1
        self._log(
            {"event": "asked", "answer": answer.number, "text": question.partial, "final": question.final}
        )
        if self.config.adopt == "at_once":
            self._adopt(answer)
            self.session.clear()
        answer.task = asyncio.create_task(self._stream(self.backend, answer))
        if self.backend.immediate:
            await asyncio.gather(answer.task, return_exceptions=True)
            self.measures.delays.append(self.config.delay)

    async def _stream(self, backend: Backend, answer: _Answer) -> None:
        """Reads one answer. Any failure ends here: it is counted, and the oracle falls back."""
        try:
            started = time.monotonic()
            async with backend.ask(answer.question) as pieces:
                async for piece in pieces:
                    if not answer.pieces and not backend.immediate:
                        self.measures.delays.append(time.monotonic() - started)
                    answer.pieces += 1
                    await self._take(answer, piece)
                    if answer.tokens.full:
                        self.events["cut_long"] += 1
                        break
            # What was held back in an answer without a certain word is used now.
            finish = answer.tokens.finish
            answer.take(finish() if answer.chars <= CHARS_AT_ONCE else await asyncio.to_thread(finish))
            answer.done = True
            self.events["complete" if answer.tokens.ids else "empty"] += 1
            for refusal in answer.tokens.refused:
                self.events[f"unspoken_{refusal.reason}"] += 1
            answer.fell = not answer.tokens.ids and answer.question.final
        except LLMError as error:
            self._failed(answer, error.who, error.kind, error.words)
        except Exception as error:
            self._failed(answer, "back end", type(error).__name__, one_line(error))

    async def _take(self, answer: _Answer, piece: str) -> None:
        """Adds a piece to an answer; a long one bit by bit, so that frames come in between."""
        answer.chars += len(piece)
        for at in range(0, len(piece), CHARS_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            answer.take(answer.tokens.push(piece[at : at + CHARS_AT_ONCE]))
            if answer.tokens.full:
                return

    def _failed(self, answer: _Answer, who: str, kind: str, words: str) -> None:
        self._failures.add(who, kind, words)
        self.events[f"failed_{kind}"] += 1
        self._log({"event": "failed", "answer": answer.number, "kind": kind, "words": words})
        # A model may well say nothing while the user is still speaking.
        answer.fell = kind != "empty" or answer.question.final
        answer.done, answer.ids = True, []

    def _cancel(self, answer: _Answer) -> None:
        if answer in self._answers:
            self._answers.remove(answer)
        if answer.task is not None and not answer.task.done():
            answer.task.cancel()
            self.events["cancelled"] += 1

    def _apply(self, now: float) -> None:
        """Passes what the answers brought since the last frame to the session's oracle."""
        immediate = self.backend is not None and self.backend.immediate
        for answer in list(self._answers):
            if answer not in self._answers or (immediate and now < self._due(answer)):
                continue
            ids, answer.ids = answer.ids, []
            if ids and answer.number >= self._adopted:
                if answer.number > self._adopted:
                    self._adopt(answer)
                if answer.begun:
                    self.session.append(ids)
                else:
                    self.session.replace(ids)
                    self.measures.adopted(answer.question.time)
                answer.begun = True
            if answer.fell:
                self._fall_back(answer)
            elif answer.done and not answer.ids:
                if answer.number == self._adopted:
                    self.measures.completed(answer.tokens.text)
                self._answers.remove(answer)

    def _fall_back(self, answer: _Answer) -> None:
        """After an answer that failed, or the end of a turn that has none: no oracle, if it was the newest."""
        self._answers.remove(answer)
        newer = any(other.number > answer.number for other in self._answers)
        if self.config.on_failure == "keep" or newer or answer.number < self._adopted:
            return
        for other in list(self._answers):
            self._cancel(other)
        self._adopted = answer.number
        self.session.clear()

    def _due(self, answer: _Answer) -> float:
        """When an embedded answer may be known: as late as a distant one would be."""
        return answer.question.time + self.config.delay

    def _adopt(self, answer: _Answer) -> None:
        self._adopted = answer.number
        self.events["adopted"] += 1
        self._log({"event": "adopted", "answer": answer.number})
        for older in [a for a in self._answers if a.number < answer.number]:
            self._cancel(older)

    def _say(self, frame: Frame) -> None:
        """Keeps what the model says as turns: a new one begins when the user has spoken since."""
        if not frame.text:
            return
        now = frame.index * FRAME_SECONDS
        self.measures.said(frame.text, now)
        last_user = max([turn.time for turn in self._turns if turn.role == "user"], default=-1.0)
        if self._own is not None and self._own.time >= last_user:
            self._own = Turn("assistant", self._own.text + frame.text, self._own.time)
        else:
            if self._own is not None:
                self._insert(self._own)
            self._own = Turn("assistant", frame.text.lstrip(), now)

    def _insert(self, turn: Turn) -> None:
        self._turns = sorted([*self._turns, turn], key=lambda turn: turn.time)[-MOST_TURNS:]

    def _log(self, event: dict[str, Any]) -> None:
        self._log_line({"frame": self.session.frames} | event)

    @property
    def unanswered(self) -> str | None:
        """Why a back end or a source of transcripts never gave anything, where that is so."""
        source = self.transcript
        if source is not None and not self._any_heard and source.failures.counts:
            return f"no word of the user was ever understood: {source.failures.summary()[0]}"
        came = sum(self.events[name] for name in ("complete", "cut_long", "empty", "adopted"))
        if not came and self._failures.counts:
            return f"the back end never gave an answer: {self._failures.summary()[0]}"
        return None

    def report(self) -> dict[str, Any]:
        """Every figure of the conversation."""
        usage, cost = self.backend.usage() if self.backend is not None else (None, 0.0)
        heard = self.transcript.report() if self.transcript is not None else {}
        problems = [line for failures in self._all_failures for line in failures.summary()]
        return (
            self.measures.figures(self.session, usage, cost)
            | {f"stt_{name}": value for name, value in heard.items()}
            | {"events": dict(sorted(self.events.items())), "problems": problems}
            | {"unanswered": self.unanswered}
        )
