"""Oracle events of one speaker: when an answer arrived, what it said, what the true reply was.

Events are not yet frames of tokens: skipping, shifting and choosing between prediction and hint is `data.collate`'s,
laying them on frames `oracle.schedule`'s. Semantics: SakanaAI/kame_finetune `tools/tokenize_oracle.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError
from kame_jax.oracle.text import encode_oracle
from kame_jax.streams import FRAME_RATE

FIELDS = {
    "frame_pos": np.int32,
    "ratio": np.float32,
    "skip_forbid": np.int8,
    "pred_values": np.int32,
    "pred_offsets": np.int32,
    "hint_values": np.int32,
    "hint_offsets": np.int32,
    "use_hint": np.int8,
}
"""Arrays of `OracleEvents` and their types: the columns of kame_finetune's files, without speaker and prefix."""
WHILE_SPEAKING = -1
"""Turn of an event that came while its own speaker was talking: such an event may always be skipped."""
UNSAID = -1
"""In `use_hint`: the rule decides, which shows the hint where the ratio is 1."""


@dataclass(frozen=True)
class OracleEvents:
    """E events in the order of their records; token lists are packed, event i at `offsets[i]:offsets[i + 1]`."""

    frame_pos: np.ndarray
    """int32 `[E]`: frame of arrival (in a `Sample`: column)."""
    ratio: np.ndarray
    """float32 `[E]`: share of the other speaker's turn that was heard."""
    skip_forbid: np.ndarray
    """int8 `[E]`: 1 for the last event of a turn, which is never skipped."""
    pred_values: np.ndarray
    pred_offsets: np.ndarray
    """int32 `[E + 1]`."""
    hint_values: np.ndarray
    hint_offsets: np.ndarray
    """int32 `[E + 1]`."""
    use_hint: np.ndarray
    """int8 `[E]`: 1 shows the hint, 0 the prediction, `UNSAID` leaves it to the ratio."""

    def __len__(self) -> int:
        return len(self.frame_pos)

    def prediction(self, i: int) -> np.ndarray:
        """Tokens of what the back end said: int32 `[n]`."""
        return self.pred_values[self.pred_offsets[i] : self.pred_offsets[i + 1]]

    def hint(self, i: int) -> np.ndarray:
        """Tokens of the true reply: int32 `[n]`, empty when the event has none."""
        return self.hint_values[self.hint_offsets[i] : self.hint_offsets[i + 1]]

    def select(self, keep: np.ndarray, shift: int = 0) -> OracleEvents:
        """The events `keep` (indices, in their order), moved by `shift` frames."""
        pred_values, pred_offsets = _gather(self.pred_values, self.pred_offsets, keep)
        hint_values, hint_offsets = _gather(self.hint_values, self.hint_offsets, keep)
        return OracleEvents(
            (self.frame_pos[keep] + shift).astype(np.int32),
            self.ratio[keep],
            self.skip_forbid[keep],
            pred_values,
            pred_offsets,
            hint_values,
            hint_offsets,
            self.use_hint[keep],
        )

    def protected(self, i: int) -> bool:
        """Whether training never skips the event: a turn's last, or one that is to show the true reply."""
        return bool(self.skip_forbid[i]) or self.use_hint[i] == 1

    def shows_hint(self, i: int) -> bool:
        """Whether the model reads the true reply in place of the prediction."""
        if self.use_hint[i] != UNSAID:
            return bool(self.use_hint[i])
        return float(self.ratio[i]) >= 1.0 and self.hint_offsets[i + 1] > self.hint_offsets[i]


def pack_events(
    frame_pos: Sequence[int] | np.ndarray,
    ratio: Sequence[float] | np.ndarray,
    skip_forbid: Sequence[int] | np.ndarray,
    predictions: Sequence[Sequence[int] | np.ndarray],
    hints: Sequence[Sequence[int] | np.ndarray],
    use_hint: Sequence[int] | np.ndarray | None = None,
) -> OracleEvents:
    """Events from one entry per event in each argument; without `use_hint` the ratio decides."""
    pred_values, pred_offsets = _pack(predictions)
    hint_values, hint_offsets = _pack(hints)
    return OracleEvents(
        np.asarray(frame_pos, np.int32),
        np.asarray(ratio, np.float32),
        np.asarray(skip_forbid, np.int8),
        pred_values,
        pred_offsets,
        hint_values,
        hint_offsets,
        np.full(len(frame_pos), UNSAID, np.int8) if use_hint is None else np.asarray(use_hint, np.int8),
    )


def _pack(lists: Sequence[Sequence[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *(len(tokens) for tokens in lists)]).astype(np.int32)
    values = np.concatenate([np.asarray(tokens, np.int32) for tokens in lists] or [np.zeros(0, np.int32)])
    return values, offsets


def _gather(values: np.ndarray, offsets: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The packed lists `keep`, packed again."""
    sizes = (offsets[1:] - offsets[:-1])[keep]
    ends = np.cumsum(sizes)
    at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(offsets[keep] - (ends - sizes), sizes)
    return values[at], np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])


def build_events(
    records: Sequence[Mapping[str, Any]],
    channel: int,
    num_frames: int,
    tokenizer: SentencePieceProcessor,
    *,
    frame_rate: float = FRAME_RATE,
    protect_kept: bool = False,
) -> OracleEvents:
    """Events of one channel from the records of `oracle_raw/<id>.json`.

    Records of the other channel, outside the audio, without a time or without any token are left out; the caller can
    count them. The last record of a run of one channel may not be skipped in training. A record may say `use_hint`
    (bool): which of its texts is shown.

    Args:
        records: as `make.simulate.simulate_oracle` returns them; `channel` defaults to 0, a missing or unreadable
            ratio to 0, missing texts to "".
        channel: 0 for speaker A, 1 for B.
        num_frames: frames of audio.
        tokenizer: of the inner monologue.
        frame_rate: frames a second.
        protect_kept: the last of a run (or of a `turn`, where records name theirs) is chosen among the records that
            make an event; False chooses it before, as the reference does, so that a run whose last record is left
            out protects none.

    Raises:
        InputError: a record that is not a mapping, with a channel or time that is not a number, or a prediction or hint
            that is not text; names its index.
    """
    channels = [_channel(i, record) for i, record in enumerate(records)]
    frame_pos, ratio, skip_forbid, predictions, hints, use_hint = [], [], [], [], [], []
    runs, run = [], 0
    for i, record in enumerate(records):
        run += i > 0 and channels[i] != channels[i - 1]
        if channels[i] != channel or record.get("timestamp_ms") is None:
            continue
        try:
            frame = int(float(record["timestamp_ms"]) / 1000.0 * frame_rate)
        except (TypeError, ValueError, OverflowError) as e:
            raise InputError(
                f"oracle record {i}: timestamp_ms {record['timestamp_ms']!r}, expected milliseconds"
            ) from e
        prediction, hint = (_tokens(tokenizer, i, record, field) for field in ("prediction", "hint"))
        if not 0 <= frame < num_frames or not (prediction or hint):
            continue
        frame_pos.append(frame)
        ratio.append(_ratio(record.get("current_spoken_ratio")))
        skip_forbid.append(int(i + 1 == len(records) or channels[i + 1] != channel))
        predictions.append(prediction)
        hints.append(hint)
        use_hint.append(_use_hint(i, record))
        runs.append(_turn(i, record, run))
    if protect_kept:
        last = {turn: i for i, turn in enumerate(runs)}
        skip_forbid = [int(turn != WHILE_SPEAKING and last[turn] == i) for i, turn in enumerate(runs)]
    return pack_events(frame_pos, ratio, skip_forbid, predictions, hints, use_hint)


def _turn(index: int, record: Mapping[str, Any], run: int) -> int:
    value = record.get("turn")
    if value is None:
        return run
    if not isinstance(value, int):
        raise InputError(f"oracle record {index}: turn {value!r}, expected a number")
    return value


def _use_hint(index: int, record: Mapping[str, Any]) -> int:
    value = record.get("use_hint")
    if value is None:
        return UNSAID
    if not isinstance(value, bool):
        raise InputError(f"oracle record {index}: use_hint {value!r}, expected true or false")
    return int(value)


def _channel(index: int, record: Mapping[str, Any]) -> int:
    if not isinstance(record, Mapping):
        raise InputError(f"oracle record {index}: expected an object, got {record!r}")
    value = record.get("channel", 0)
    try:
        channel = int(value)
    except (TypeError, ValueError, OverflowError):
        channel = -1
    if channel not in CHANNELS.values():
        raise InputError(f"oracle record {index}: channel {value!r}, expected 0 or 1")
    return channel


def _tokens(
    tokenizer: SentencePieceProcessor, index: int, record: Mapping[str, Any], field: str
) -> list[int]:
    text = record.get(field) or ""
    if not isinstance(text, str):
        raise InputError(f"oracle record {index}: {field} {text!r}, expected text")
    return encode_oracle(tokenizer, text)


def _ratio(value: Any) -> float:
    try:
        ratio = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return ratio if math.isfinite(ratio) else 0.0
