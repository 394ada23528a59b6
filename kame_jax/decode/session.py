"""One conversation of an engine: what it hears and says, and its oracle as the back end changes it.

A session is joined through `Engine.join`. Its clock counts the frames it has heard; `log` holds every change of the
oracle at the frame whose step read it first, so that the log replayed gives the same conversation again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kame_jax import streams
from kame_jax.decode.slots import COUNTS, TOKENS_A_FRAME, SlotInputs, SlotOutputs
from kame_jax.decode.words import TextStream
from kame_jax.errors import InputError
from kame_jax.oracle import OracleOp
from kame_jax.oracle.schedule import OPS
from kame_jax.oracle.text import encode_oracle

if TYPE_CHECKING:
    from kame_jax.decode.engine import Engine


@dataclass(frozen=True)
class Frame:
    """What a session said in one frame of 80 ms."""

    index: int
    """Frames heard before this one."""
    samples: np.ndarray | None
    """float32 `[frame_size]`; None before the first frame is due, and without a codec."""
    tokens: np.ndarray | None
    """int32 `[1 + dep_q]`: text and own codes; None before the first frame is due."""
    text: str
    """What the inner monologue said in this frame, spaces included; mostly nothing."""
    oracle: int
    """The oracle token that was read beside this frame."""
    extra_heads: np.ndarray
    """float32 `[extra_heads, extra_head_dim]`, for models that have them."""


class Session:
    """A conversation in one slot of an engine."""

    def __init__(self, engine: Engine, slot: int, prompt: np.ndarray | None = None) -> None:
        config = engine.config
        self.engine, self.slot = engine, slot
        self.frames = 0
        """Frames heard."""
        self.log: list[OracleOp] = []
        """Every change of the oracle, by frame."""
        self.words = None if engine.tokenizer is None else TextStream(engine.tokenizer)
        self.counts = dict.fromkeys(COUNTS, 0)
        """Oracle tokens read, erased unread, come late, overflown."""
        self._op: str | None = None
        self._tokens: list[int] = []
        self._unsent_erased = 0
        self._forced: deque[np.ndarray] = deque()
        if prompt is not None:
            self._forced.extend(_delayed(np.asarray(prompt, np.int32), config.delays[: 1 + config.dep_q]))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Ends the conversation and frees the slot."""
        self.engine.leave(self)

    def push(self, heard: np.ndarray) -> Frame:
        """One frame of this session alone; `Engine.step` runs several sessions at the price of one."""
        return self.engine.step({self: heard})[self]

    def replace(self, answer: str | Sequence[int]) -> None:
        """A new oracle takes the place of the old one, from the next frame on."""
        self._change("replace", answer)

    def append(self, answer: str | Sequence[int]) -> None:
        """More of the oracle. Text is encoded alone: a stream of it goes through `OracleText`."""
        self._change("append", answer)

    def clear(self) -> None:
        """No oracle."""
        self._change("clear", ())

    def change(self, op: OracleOp) -> None:
        """A change from a log; its frame is not looked at."""
        self._change(op.op, op.tokens)

    def _change(self, op: str, answer: str | Sequence[int]) -> None:
        config = self.engine.config
        if config.oracle == "none":
            raise InputError("this model has no oracle embedding")
        if isinstance(answer, str):
            if self.engine.tokenizer is None:
                raise InputError("oracle text needs a tokenizer; give tokens, or open the engine with one")
            answer = encode_oracle(self.engine.tokenizer, answer)
        tokens = [int(token) for token in answer]
        wrong = [token for token in tokens if not 0 <= token < config.text_card]
        if wrong:
            raise ValueError(f"oracle tokens {wrong[:5]} lie outside [0, {config.text_card})")
        self.log.append(OracleOp(self.frames, op, tuple(tokens)))
        if op == "append":
            # After a clear of the same frame, more of nothing is a new answer.
            self._op = {None: "append", "clear": "replace"}.get(self._op, self._op)
            self._tokens += tokens
        else:
            self._unsent_erased += len(self._tokens)
            self._op, self._tokens = op, tokens

    def fill(self, inputs: SlotInputs) -> None:
        """Writes this session's part of a frame: the oracle's change, and what the model is made to say.

        Tokens beyond `TOKENS_A_FRAME` follow in the next frames, before the model can miss them.
        """
        slot = self.slot
        if (inputs.hears[slot] or self.engine.frame_size is None) and self._op is not None:
            sent, self._tokens = self._tokens[:TOKENS_A_FRAME], self._tokens[TOKENS_A_FRAME:]
            inputs.op[slot], inputs.count[slot] = OPS.index(self._op), len(sent)
            inputs.tokens[slot, : len(sent)] = sent
            self._op = "append" if self._tokens else None
        if self._forced:
            inputs.forced[slot] = self._forced.popleft()

    def take(self, out: SlotOutputs, heard: bool) -> Frame:
        """Reads this session's part of what a frame gave."""
        slot, config = self.slot, self.engine.config
        ready = bool(out.ready[slot])
        tokens = out.tokens[slot] if ready else None
        text = self.words.push(int(tokens[0])) if self.words is not None and tokens is not None else ""
        samples = out.audio[slot] if ready and out.audio is not None else None
        self.counts = dict(zip(COUNTS, map(int, out.counts[slot]), strict=True))
        self.counts["erased"] += self._unsent_erased
        oracle = int(out.oracle[slot]) if config.oracle != "none" else config.text_padding_id
        frame = Frame(self.frames, samples, tokens, text, oracle, out.extra_heads[slot])
        self.frames += heard
        return frame


def _delayed(prompt: np.ndarray, delays: Sequence[int]) -> list[np.ndarray]:
    """Rows of forced tokens step by step: what is generated at step s is the text of frame s, codes of `s - delay`."""
    rows, frames = prompt.shape
    if rows != len(delays):
        raise ValueError(f"a prompt has {len(delays)} rows (text and own codes), got {rows}")
    steps = np.full((frames + max(delays), rows), streams.UNGENERATED_ID, np.int32)
    for row, delay in enumerate(delays):
        steps[delay : delay + frames, row] = prompt[row]
    return list(steps)
