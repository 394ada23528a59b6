"""Samples: one speaker of a record as the model, its rows delayed and cut into the pieces that training sees.

Nothing here is random. Semantics: SakanaAI/kame_finetune `utils/data.py` (`preprocess_function`).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """int32 `[rows, n]`: the same, -1 where an initial id or the fill behind the audio stands."""
    events: OracleEvents
    """Positions are columns of this piece."""


def delayed_columns(grid: np.ndarray, config: ModelConfig) -> np.ndarray:
    """All columns of a dialogue: the initial one, then each row moved right by its delay, nothing cut.

    Args:
        grid: int32 `[rows, frames]`, undelayed.

    Returns:
        int32 `[rows, 1 + frames + max_delay]`. Before a row's first code stands its initial id; behind its last, the
        padding id (text) or the initial id (audio).
    """
    initial = np.array(initial_ids(config), np.int32)
    frames = grid.shape[1]
    fill = initial.copy()
    fill[0] = config.text_padding_id
    columns = np.repeat(fill[:, None], 1 + frames + config.max_delay, axis=1)
    for row, delay in enumerate(config.delays):
        columns[row, : 1 + delay] = initial[row]
        columns[row, 1 + delay : 1 + delay + frames] = grid[row]
    return columns


def make_samples(
    records: Sequence[Record],
    config: ModelConfig,
    *,
    speakers: Sequence[str] = ("A",),
    max_frames: int | None = None,
    min_frames: int | None = None,
) -> list[Sample]:
    """Samples of all records, speaker by speaker.

    Args:
        records: with `n_q / 2` codebooks a speaker.
        config: gives rows, delays and ids.
        speakers: who is the model, each in turn.
        max_frames: most columns of a piece; None cuts nothing. Pieces are nearly equal.
        min_frames: fewest columns; shorter pieces are dropped (the caller sees it from the count).

    Raises:
        InputError: records whose shape or ids do not fit the model, in one list.
    """
    _check(records, config)
    samples = []
    for speaker in speakers:
        other = "B" if speaker == "A" else "A"
        for record in records:
            grid = np.concatenate([record.tokens[speaker], record.tokens[other][1:]])
            columns = delayed_columns(grid, config)
            total = columns.shape[1]
            events = _in_range(record.events[speaker], 1 + config.delays[0], 0, total)
            pieces = -(-total // max_frames) if max_frames else 1
            if pieces > 1:
                events = events.select(np.argsort(events.frame_pos, kind="stable"))
            at = 0
            for i, piece in enumerate(np.array_split(columns, pieces, axis=1)):
                size = piece.shape[1]
                if size >= (min_frames or 0):
                    samples.append(_sample(f"{record.id}/{speaker}/{i}", piece, events, at, config))
                at += size
    return samples


def _sample(name: str, columns: np.ndarray, events: OracleEvents, at: int, config: ModelConfig) -> Sample:
    initial = np.array(initial_ids(config), np.int32)[:, None]
    labels = np.where(columns < initial, columns, ZERO_ID).astype(np.int32)
    return Sample(name, columns, labels, _in_range(events, -at, 0, columns.shape[1]))


def _in_range(events: OracleEvents, shift: int, start: int, stop: int) -> OracleEvents:
    moved = events.frame_pos.astype(np.int64) + shift
    return events.select(np.flatnonzero((moved >= start) & (moved < stop)), shift)


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
