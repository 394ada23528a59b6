"""One clock for the oracle: which oracle token the model reads at each step.

Training rows, the offline driver and a live session all ask here, so what is trained is what is served. Steps are
model columns: step s of a live session, column s of a training row. Semantics: SakanaAI/kame `models/lm.py`
(`update_oracle_tokens_streaming`) and SakanaAI/kame_finetune `utils/data.py` (the collator).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LATE = ("drop", "queue")
TAILS = ("clear", "keep")
OPS = ("replace", "append", "clear")


class OracleState(NamedTuple):
    """The oracle of one session slot; a batch of slots carries a leading dimension and goes through `jax.vmap`."""

    line: jax.Array
    """int32 `[capacity]`: the token of step s at index `s % capacity`, padding where there is none."""
    next: jax.Array
    """int32: step of the next appended token; -1 when no oracle was started."""
    read: jax.Array
    """int32: tokens the model has read."""
    erased: jax.Array
    """int32: unread tokens that a newer oracle or a clear removed."""
    late: jax.Array
    """int32: tokens dropped because their step had passed ("drop" only)."""
    overflow: jax.Array
    """int32: tokens dropped because they were further ahead than the capacity."""


class OracleOp(NamedTuple):
    """One change of the oracle, issued just before the model's step `step` reads."""

    step: int
    op: str
    """"replace" (a new answer), "append" (more of it) or "clear" (none)."""
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class OracleSchedule:
    """The rules of the oracle row: a new answer shows its start token, then one token a step, then padding.

    Two choices are open where the reference loses or leaks something; the defaults lose nothing.
    """

    start_id: int
    """Marks the start of an answer (the text vocabulary's initial token, 32000 in KAME)."""
    pad_id: int
    """Read when the oracle is idle (3 in KAME)."""
    late: str = "queue"
    """What happens to a token that arrives after its step has passed. "queue": it is read next, first in first out.
    "drop": it is never read, as in the reference's live loop, which counts steps since the answer's start."""
    tail: str = "clear"
    """What a new answer does to the rest of a longer old one. "clear": removes it, as in the reference's live loop.
    "keep": leaves it after the new one, as in the reference's training collator."""

    def __post_init__(self) -> None:
        for name, value, known in (("late", self.late, LATE), ("tail", self.tail, TAILS)):
            if value not in known:
                raise ValueError(f"oracle schedule: {name} is {value!r}, expected one of {', '.join(known)}")

    def row(self, positions: Sequence[int], answers: Sequence[Sequence[int]], length: int) -> np.ndarray:
        """A whole row at once, from answers that are complete when they arrive (training).

        Args:
            positions: the step of each answer's start token; must be in `[0, length)`.
            answers: the tokens of each answer.
            length: steps in the row.

        Returns:
            int32 `[length]`. With tail "keep", answers are written in the order given, each over the ones before.
            With tail "clear", in the order of their positions.

        Raises:
            ValueError: a position is outside the row.
        """
        outside = [p for p in positions if not 0 <= p < length]
        if outside:
            raise ValueError(f"oracle answers start at {outside}, outside a row of {length} steps")
        row = np.full(length, self.pad_id, np.int32)
        order = range(len(positions))
        for i in order if self.tail == "keep" else sorted(order, key=lambda i: positions[i]):
            start = positions[i]
            if self.tail == "clear":
                row[start:] = self.pad_id
            row[start] = self.start_id
            stop = min(length, start + 1 + len(answers[i]))
            row[start + 1 : stop] = answers[i][: stop - start - 1]
        return row

    def play(
        self, ops: Iterable[OracleOp], length: int, capacity: int = 4096
    ) -> tuple[np.ndarray, OracleState]:
        """The row a live session reads when these changes arrive: int32 `[length]`, and the state with its counts.

        Raises:
            ValueError: an unknown op, or steps that go backwards.
        """
        waiting = sorted_ops(ops)
        state, row = self.initial(capacity), np.zeros(length, np.int32)
        at = 0
        for step in range(length):
            while at < len(waiting) and waiting[at].step <= step:
                op = waiting[at]
                size = 1 << max(len(op.tokens) - 1, 0).bit_length()
                tokens = np.zeros(size, np.int32)
                tokens[: len(op.tokens)] = op.tokens
                state = _apply(self, state, step, OPS.index(op.op), tokens, len(op.tokens))
                at += 1
            token, state = _read(self, state, step)
            row[step] = int(token)
        return row, state

    def initial(self, capacity: int = 4096) -> OracleState:
        """A slot without an oracle, able to hold `capacity` steps ahead."""
        zero = jnp.zeros((), jnp.int32)
        return OracleState(jnp.full(capacity, self.pad_id, jnp.int32), zero - 1, zero, zero, zero, zero)

    def apply(
        self,
        state: OracleState,
        step: jax.Array | int,
        op: jax.Array | int,
        tokens: jax.Array,
        count: jax.Array | int,
    ) -> OracleState:
        """Applies one change before step `step` reads; traceable, so that a jitted loop can take it.

        Args:
            state: the slot.
            step: the step that reads next.
            op: index into `OPS`.
            tokens: int32 `[n]`, of which the first `count` are meant.
            count: how many.
        """
        started = (op != OPS.index("clear")) & ((op == OPS.index("replace")) | (state.next < 0))
        if self.tail == "clear":
            wiped = started | (op == OPS.index("clear"))
            unread = jnp.where(wiped, jnp.sum(state.line != self.pad_id), 0).astype(jnp.int32)
            line = jnp.where(wiped, self.pad_id, state.line)
            state = state._replace(line=line, erased=state.erased + unread)
        state = self._write(
            state, step, jnp.full(1, self.start_id, jnp.int32), started.astype(jnp.int32), step
        )
        begin = jnp.where(
            started, step + 1, state.next if self.late == "drop" else jnp.maximum(state.next, step)
        )
        count = jnp.where(op == OPS.index("clear"), 0, count)
        state = self._write(state, step, tokens, count, begin)
        return state._replace(next=jnp.where(op == OPS.index("clear"), -1, begin + count).astype(jnp.int32))

    def read(self, state: OracleState, step: jax.Array | int) -> tuple[jax.Array, OracleState]:
        """The token of step `step` (int32, padding when idle), and the slot with that step consumed."""
        slot = step % state.line.shape[0]
        token = state.line[slot]
        line = state.line.at[slot].set(self.pad_id)
        return token, state._replace(line=line, read=state.read + (token != self.pad_id))

    def _write(
        self,
        state: OracleState,
        step: jax.Array | int,
        tokens: jax.Array,
        count: jax.Array,
        begin: jax.Array | int,
    ) -> OracleState:
        capacity = state.line.shape[0]
        index = jnp.arange(tokens.shape[0])
        target = begin + index
        meant = index < count
        late, far = meant & (target < step), meant & (target >= step + capacity)
        slot = jnp.where(meant & ~late & ~far, target % capacity, capacity)
        return state._replace(
            line=state.line.at[slot].set(tokens, mode="drop"),
            late=state.late + jnp.sum(late, dtype=jnp.int32),
            overflow=state.overflow + jnp.sum(far, dtype=jnp.int32),
        )


_apply = jax.jit(OracleSchedule.apply, static_argnums=0)
_read = jax.jit(OracleSchedule.read, static_argnums=0)


def sorted_ops(ops: Iterable[OracleOp]) -> list[OracleOp]:
    """Checks a sequence of changes and returns it as a list.

    Raises:
        ValueError: an unknown op, a negative step, or steps that go backwards.
    """
    result = list(ops)
    for index, op in enumerate(result):
        if op.op not in OPS:
            raise ValueError(f"oracle change {index} has op {op.op!r}, expected one of {', '.join(OPS)}")
        if op.step < 0 or (index and op.step < result[index - 1].step):
            raise ValueError(
                f"oracle change {index} is at step {op.step}: steps start at 0 and never go backwards"
            )
    return result
