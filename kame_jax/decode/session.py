"""One conversation of an engine: what it hears and says, and its oracle as the back end changes it.

A session is joined through `Engine.join`. Its clock counts the frames it has heard; `log` holds every change of the
oracle at the frame whose step read it first, so that the log replayed gives the same conversation again.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax import streams
from kame_jax.config import ModelConfig
from kame_jax.decode.slots import COUNTS, TOKENS_A_FRAME, SlotInputs, SlotOutputs
from kame_jax.decode.words import TextStream
from kame_jax.errors import InputError
from kame_jax.oracle import OracleOp
from kame_jax.oracle.schedule import OPS
from kame_jax.oracle.text import encode_oracle


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
    """The oracle token that was read at this frame."""
    extra_heads: np.ndarray
    """float32 `[extra_heads, extra_head_dim]`, for models that have them."""
    seconds: float
    """Wall time of the engine's step, samples in to samples out."""


class Session:
    """A conversation in one slot of an engine, which calls `fill` before each frame and `take` after it.

    Leave it, or use it as a context manager. A session that is dropped frees its slot too, once Python collects it.

    Args:
        config: the model's.
        tokenizer: of both text rows, or None for tokens alone.
        slot: its row on the device.
        push: what `Session.push` does: runs a frame of the given session alone.
        leave: what `Session.leave` does: frees the given session's slot.
        prompt: as `Engine.join` takes it.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: SentencePieceProcessor | None,
        slot: int,
        push: Callable[[Session, np.ndarray], Frame],
        leave: Callable[[Session], None],
        prompt: np.ndarray | None = None,
    ) -> None:
        self.config, self.tokenizer, self.slot = config, tokenizer, slot
        self.frames = 0
        """Frames heard."""
        self.silenced = 0
        """Samples heard as silence, because they were not finite or far beyond full scale."""
        self.log: list[OracleOp] = []
        """Every change of the oracle, by frame."""
        self.words = None if tokenizer is None else TextStream(tokenizer)
        self.counts = dict.fromkeys(COUNTS, 0)
        """Oracle tokens read, erased unread, late, and dropped by overflow."""
        self._push, self._leave = push, leave
        self._op: str | None = None
        self._tokens: list[int] = []
        self._unsent_erased = 0
        self._forced = deque([] if prompt is None else _delayed(prompt, config))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Ends the conversation and frees the slot."""
        self._leave(self)

    def push(self, heard: np.ndarray) -> Frame:
        """One frame of this session alone; `Engine.step` runs several sessions at the price of one."""
        return self._push(self, heard)

    def replace(self, answer: str | Sequence[int]) -> None:
        """Replaces the oracle, from the next frame on."""
        self._change("replace", answer)

    def append(self, answer: str | Sequence[int]) -> None:
        """More of the oracle. Text is encoded alone: a stream of it goes through `OracleText`."""
        self._change("append", answer)

    def clear(self) -> None:
        """No oracle."""
        self._change("clear", ())

    def change(self, op: OracleOp) -> None:
        """A change from a log; its frame is ignored."""
        self._change(op.op, op.tokens)

    def _change(self, op: str, answer: str | Sequence[int]) -> None:
        config = self.config
        if config.oracle == "none":
            raise InputError("this model has no oracle embedding")
        if op not in OPS:
            raise ValueError(f"oracle change {op!r}, expected one of {', '.join(OPS)}")
        if isinstance(answer, str):
            if self.tokenizer is None:
                raise InputError("oracle text needs a tokenizer; give tokens, or open the engine with one")
            answer = encode_oracle(self.tokenizer, answer)
        tokens = [operator.index(token) for token in answer]
        wrong = [token for token in tokens if not 0 <= token < config.text_card]
        if wrong:
            raise ValueError(f"oracle tokens {wrong[:5]} are outside [0, {config.text_card})")
        self.log.append(OracleOp(self.frames, op, tuple(tokens)))
        if op == "append":
            # After a clear in the same frame, an append starts a new answer.
            self._op = {None: "append", "clear": "replace"}.get(self._op, self._op)
            self._tokens += tokens
        else:
            self._unsent_erased += len(self._tokens)
            self._op, self._tokens = op, tokens

    def fill(self, inputs: SlotInputs) -> None:
        """Writes this session's part of a frame: the oracle's change, and what the model is made to say.

        The column before the first frame takes no change. Tokens beyond `TOKENS_A_FRAME` follow in the next frames,
        before the model can miss them.
        """
        slot = self.slot
        if inputs.hears[slot] and self._op is not None:
            sent, self._tokens = self._tokens[:TOKENS_A_FRAME], self._tokens[TOKENS_A_FRAME:]
            inputs.op[slot], inputs.count[slot] = OPS.index(self._op), len(sent)
            inputs.tokens[slot, : len(sent)] = sent
            self._op = "append" if self._tokens else None
        if self._forced:
            inputs.forced[slot] = self._forced.popleft()

    def take(self, out: SlotOutputs, silenced: int | None, seconds: float) -> Frame:
        """Reads this session's part of a frame's result: it took `seconds`, and heard all but `silenced` samples.

        None means that it heard nothing: the column before the first frame.
        """
        slot, config = self.slot, self.config
        ready = bool(out.ready[slot])
        tokens = out.tokens[slot] if ready else None
        text = self.words.push(int(tokens[0])) if self.words is not None and tokens is not None else ""
        samples = out.audio[slot] if ready and out.audio is not None else None
        self.counts = dict(zip(COUNTS, map(int, out.counts[slot]), strict=True))
        self.counts["erased"] += self._unsent_erased
        oracle = int(out.oracle[slot]) if config.oracle != "none" else config.text_padding_id
        frame = Frame(self.frames, samples, tokens, text, oracle, out.extra_heads[slot], seconds)
        if silenced is not None:
            self.frames += 1
            self.silenced += silenced
        return frame


def _delayed(prompt: np.ndarray, config: ModelConfig) -> list[np.ndarray]:
    """Rows of forced tokens step by step: what is generated at step s is the text of frame s, codes of `s - delay`.

    Raises:
        ValueError: a shape other than `[1 + dep_q, frames]`, or a token that the model cannot say.
    """
    prompt, delays = np.asarray(prompt), config.delays[: 1 + config.dep_q]
    if prompt.ndim != 2 or len(prompt) != len(delays) or not np.issubdtype(prompt.dtype, np.integer):
        raise ValueError(
            f"a prompt is integers [{len(delays)}, frames] (text and own codes), "
            f"got {prompt.dtype} {list(prompt.shape)}"
        )
    cards = np.array([config.text_card_out or config.text_card, *[config.card] * config.dep_q])[:, None]
    wrong = (prompt != streams.UNGENERATED_ID) & ((prompt < 0) | (prompt >= cards))
    if wrong.any():
        row, frame = np.argwhere(wrong)[0]
        raise ValueError(
            f"the prompt says {prompt[row, frame]} in row {row} at frame {frame}, expected 0 to {cards[row, 0] - 1}, "
            f"or {streams.UNGENERATED_ID} where the model chooses"
        )
    steps = np.full((prompt.shape[1] + max(delays), len(delays)), streams.UNGENERATED_ID, np.int32)
    for row, delay in enumerate(delays):
        steps[delay : delay + prompt.shape[1], row] = prompt[row]
    return list(steps)
