"""What follows a recording: silence, until the model has finished speaking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kame_jax.decode.session import Frame
from kame_jax.oracle import OracleOp
from kame_jax.streams import FRAME_SECONDS
from kame_jax.tandem.conversation import Conversation
from kame_jax.tandem.report import AUDIBLE

REPLY_WAIT = 5.0
"""Seconds after the user's last sound in which a reply may still begin."""
QUIET = 1.5
"""Seconds without a word after which the model has finished speaking."""
LONGEST = 30.0
"""Seconds of silence after which a conversation ends in any case."""


class Tail:
    """Frames of silence for `Conversation.run` to hear after a recording.

    Args:
        conversation: the one that hears the recording.
        heard: float32 `[frames, frame_size]`, the recording.
        ops: changes of the oracle that the conversation is given.
        seconds: how long; None lasts until the model has finished speaking, at most `LONGEST`.
    """

    def __init__(
        self,
        conversation: Conversation,
        heard: np.ndarray,
        ops: Sequence[OracleOp] = (),
        seconds: float | None = None,
    ) -> None:
        config = conversation.session.config
        self._conversation, self._ops, self._seconds = conversation, ops, seconds
        self._recorded, self._last_heard = len(heard), last_audible(heard)
        self._silence = np.zeros_like(heard[0])
        self._idle = config.text_padding_id
        # Later delays leave the last frames' answers for after the end.
        self._behind = max(config.max_delay - 1, 0)
        self._end: int | None = None

    def __call__(self, frames: Sequence[Frame]) -> np.ndarray | None:
        """The next frame after `frames`: silence, or None at the end."""
        if self._end is None and self._finished(frames):
            self._end = len(frames)
        return None if self._end is not None and len(frames) >= self._end + self._behind else self._silence

    def reply_frames(self, frames: Sequence[Frame]) -> int:
        """How many of a conversation's frames are the reply: without `seconds`, as far as the model can be heard."""
        end = self._end if self._end is not None else len(frames)
        if self._seconds is not None:
            return end
        sound = [frame.samples for frame in frames if frame.samples is not None]
        return max(self._recorded, last_audible(sound[:end]) + 1)

    def _finished(self, frames: Sequence[Frame]) -> bool:
        beyond = (len(frames) - self._recorded) * FRAME_SECONDS
        if self._seconds is not None:
            return beyond >= self._seconds
        if beyond >= LONGEST:
            return True
        to_come = self._ops and self._ops[-1].step >= len(frames)
        if to_come or self._conversation.waiting or frames[-1].oracle != self._idle:
            return False
        last_said = next((frame.index for frame in reversed(frames) if frame.text.strip()), -1)
        waited, quiet = ((len(frames) - last) * FRAME_SECONDS for last in (self._last_heard, last_said))
        return quiet >= QUIET and (last_said > self._last_heard or waited >= REPLY_WAIT)


def last_audible(frames: Sequence[np.ndarray] | np.ndarray) -> int:
    """Index of the last of the frames, float32 `[frames, frame_size]`, with sound in it; -1 when there is none."""
    levels = [float(np.sqrt(np.mean(np.square(frame)))) for frame in frames]
    return max((index for index, level in enumerate(levels) if level > AUDIBLE), default=-1)
