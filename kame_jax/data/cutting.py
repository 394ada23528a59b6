"""Samples: one speaker of a record as the model, its rows delayed and cut into the pieces that training sees.

Nothing here is random. Semantics: SakanaAI/kame_finetune `utils/data.py` (`preprocess_function`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kame_jax.config import ModelConfig
from kame_jax.data.events import OracleEvents
from kame_jax.data.records import Record
from kame_jax.errors import InputError
from kame_jax.streams import ZERO_ID, initial_ids


@dataclass(frozen=True)
class Sample:
    """One piece of a dialogue from one speaker's side; a column is what the model reads at one step."""

    id: str
    """`<dialogue>/<speaker>/<piece>`."""
    columns: np.ndarray
    """int32 `[rows, n]`: delayed; the first piece begins with the initial column."""
    labels: np.ndarray
    """int32 `[rows, n]`: the same, -1 where there is an initial id or the fill after the audio."""
    events: OracleEvents
    """Positions are columns of this piece; negative ones are in the `lead` columns before it."""
    lead: int = 0
    """Columns before the piece whose answers may reach into it."""


def delayed_columns(
    grid: np.ndarray,
    config: ModelConfig,
    *,
    start: int = 0,
    stop: int | None = None,
    offset: int = 0,
    frames: int | None = None,
) -> np.ndarray:
    """Columns of a dialogue: the initial one, then each row moved right by its delay, nothing cut.

    Args:
        grid: int32 `[rows, n]`, undelayed: the dialogue, or the part of it that the columns need.
        config: gives delays and ids.
        start: first column.
        stop: the column behind the last; None is `1 + frames + max_delay`.
        offset: frame of the dialogue that is the grid's first.
        frames: of the whole dialogue; None is that of the grid.

    Returns:
        int32 `[rows, stop - start]`. A row's first code is preceded by its initial id, and its last is
        followed by the padding id (text) or the initial id (audio).
    """
    frames = grid.shape[1] if frames is None else frames
    stop = column_count(frames, config) if stop is None else stop
    initial = np.array(initial_ids(config), np.int32)
    fill = initial.copy()
    fill[0] = config.text_padding_id
    columns = np.repeat(fill[:, None], stop - start, axis=1)
    for row, delay in enumerate(config.delays):
        columns[row, : max(0, 1 + delay - start)] = initial[row]
        low, high = max(start - 1 - delay, 0), min(stop - 1 - delay, frames)
        if low < high:
            columns[row, 1 + delay + low - start : 1 + delay + high - start] = grid[
                row, low - offset : high - offset
            ]
    return columns


def column_count(frames: int, config: ModelConfig) -> int:
    """Columns of a dialogue of `frames` frames."""
    return 1 + frames + config.max_delay


@dataclass(frozen=True)
class Cut:
    """How a dialogue is cut into pieces. The defaults are kame_finetune's way."""

    max_frames: int | None = None
    """Most columns of a piece; None cuts nothing. Pieces are nearly equal."""
    min_frames: int | None = None
    """Fewest columns, without context; shorter pieces are dropped (the caller sees it from the count)."""
    context: int = 0
    """Columns that a later piece repeats from the one before, to be read, not to be learnt again."""
    carry_oracle: bool = False
    """An answer that began in an earlier piece continues in the next."""
    mask_fill: bool = False
    """The padding after a dialogue's last frame is not a label of the text row."""

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.context >= self.max_frames:
            raise InputError(f"context {self.context}: expected less than max_frames ({self.max_frames})")

    def pieces(self, columns: int) -> int:
        """How many pieces this many columns give."""
        if self.max_frames is None or columns <= self.max_frames:
            return 1
        return -(-columns // (self.max_frames - self.context))


CARRIED = 512
"""Columns before a piece in which an answer may have begun that is still being read."""


def make_sample(
    name: str,
    tokens: Mapping[str, np.ndarray],
    events: Mapping[str, OracleEvents],
    config: ModelConfig,
    cut: Cut,
    *,
    speaker: str,
    start: int,
    stop: int,
    offset: int = 0,
    frames: int,
) -> Sample:
    """The piece with the new columns `[start, stop)` of a dialogue.

    Args:
        name: of the sample.
        tokens: per speaker int32 `[1 + codebooks, n]`, from frame `offset` on, as far as the piece needs them.
        events: per speaker; positions are frames of the dialogue.
        config: gives rows, delays and ids.
        cut: gives context, and what is carried over and masked.
        speaker: who is the model.
        start, stop: the columns.
        offset: frame of the dialogue that is the tokens' first.
        frames: of the whole dialogue.
    """
    other = "B" if speaker == "A" else "A"
    grid = np.concatenate([tokens[speaker], tokens[other][1:]])
    first = max(0, start - cut.context)
    columns = delayed_columns(grid, config, start=first, stop=stop, offset=offset, frames=frames)
    initial = np.array(initial_ids(config), np.int32)[:, None]
    labels = np.where(columns < initial, columns, ZERO_ID).astype(np.int32)
    labels[:, : start - first] = ZERO_ID
    if cut.mask_fill:
        labels[0, max(0, 1 + config.delays[0] + frames - first) :] = ZERO_ID
    lead = min(first, CARRIED) if cut.carry_oracle else 0
    mine = events[speaker]
    moved = mine.frame_pos.astype(np.int64) + (1 + config.delays[0] - first)
    whole = not first and stop == column_count(frames, config)
    order = np.arange(len(moved)) if whole else np.argsort(moved, kind="stable")
    keep = order[(moved[order] >= -lead) & (moved[order] < stop - first)]
    return Sample(name, columns, labels, mine.select(keep, 1 + config.delays[0] - first), lead)


def needed_frames(config: ModelConfig, cut: Cut, start: int, stop: int, frames: int) -> tuple[int, int]:
    """The frames `[low, high)` of a dialogue that `make_sample` needs for the columns `[start, stop)`."""
    low = max(0, start - cut.context - 1 - config.max_delay)
    high = min(frames, stop - 1)
    return min(low, high), high


def bounds(columns: int, pieces: int, piece: int) -> tuple[int, int]:
    """The columns `[start, stop)` of one of `count` nearly equal pieces, the longer ones first."""
    size, longer = divmod(columns, pieces)
    start = piece * size + min(piece, longer)
    return start, start + size + (piece < longer)


def make_samples(
    records: Sequence[Record],
    config: ModelConfig,
    *,
    speakers: Sequence[str] = ("A",),
    max_frames: int | None = None,
    min_frames: int | None = None,
    cut: Cut | None = None,
) -> list[Sample]:
    """Samples of all records, speaker by speaker.

    Args:
        records: with `n_q / 2` codebooks a speaker.
        config: gives rows, delays and ids.
        speakers: who is the model, each in turn.
        max_frames, min_frames: of a `Cut` that is otherwise the default one.
        cut: how to cut; in place of the two.

    Raises:
        InputError: records whose shape or ids do not fit the model, in one list.
    """
    _check(records, config)
    cut = cut or Cut(max_frames, min_frames)
    samples = []
    for speaker in speakers:
        for record in records:
            columns = column_count(record.frames, config)
            pieces = cut.pieces(columns)
            for i in range(pieces):
                start, stop = bounds(columns, pieces, i)
                if stop - start >= (cut.min_frames or 0):
                    samples.append(
                        make_sample(
                            f"{record.id}/{speaker}/{i}",
                            record.tokens,
                            record.events,
                            config,
                            cut,
                            speaker=speaker,
                            start=start,
                            stop=stop,
                            frames=record.frames,
                        )
                    )
    return samples


def _check(records: Sequence[Record], config: ModelConfig) -> None:
    rows = 1 + config.n_q // 2
    problems = []
    for record in records:
        for speaker, tokens in record.tokens.items():
            where = f"dialogue {record.id}, speaker {speaker}"
            events = record.events[speaker]
            if tokens.shape[0] != rows:
                problems.append(f"{where}: {tokens.shape[0]} rows, the model expects {rows}")
                continue
            for what, ids, card in (
                ("text", tokens[0], config.text_card),
                ("audio", tokens[1:], config.card),
                ("oracle", np.concatenate([events.pred_values, events.hint_values]), config.text_card),
            ):
                if ids.size and (ids.min() < 0 or ids.max() >= card):
                    problems.append(
                        f"{where}: {what} ids {ids.min()} to {ids.max()}, the model expects 0 to {card - 1}"
                    )
    if problems:
        raise InputError(f"{len(problems)} rows of tokens do not fit the model", problems)
