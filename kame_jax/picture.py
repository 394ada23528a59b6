"""The picture of a conversation: user, oracle, inner monologue and own voice over one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sentencepiece import SentencePieceProcessor

from kame_jax.config import MimiConfig, ModelConfig
from kame_jax.files import write_whole
from kame_jax.streams import FRAME_RATE

INK, MUTED = "#1f2430", "#9aa3b2"
USER, ORACLE, TEXT, OWN = "#3b6ea8", "#b5651d", "#2d7d5a", "#7a4fa3"
MOST_ROWS = 7
"""Rows of words in one panel; if more would be needed, words overlap."""


@dataclass(frozen=True)
class Mark:
    """A word or token on the time axis."""

    time: float
    """Seconds."""
    text: str
    start: bool = False
    """It opens a new oracle answer."""


def conversation(
    path: str | Path,
    tokenizer: SentencePieceProcessor,
    codec: MimiConfig,
    config: ModelConfig,
    user: np.ndarray,
    own: np.ndarray,
    text: np.ndarray,
    oracle: np.ndarray | None,
    *,
    title: str = "",
    user_words: Sequence[Mark] = (),
) -> Path:
    """Draws a conversation from its tokens, frame t of each row at t / frame rate seconds.

    Args:
        path: the PNG to write.
        tokenizer: of both text rows.
        codec: gives sample rate and frame rate.
        config: gives the ids that are not words.
        user: float32 `[samples]`.
        own: float32 `[samples]`.
        text: int32 `[frames]`, the inner monologue.
        oracle: int32 `[frames]`, or None.
        title: said above.
        user_words: what the user says, where it is known.
    """
    silent = {config.text_padding_id, config.text_end_padding_id}

    def marks(row: np.ndarray) -> list[Mark]:
        found = []
        for frame, token in enumerate(row.tolist()):
            if token == config.text_card:
                found.append(Mark(frame / codec.frame_rate, "", start=True))
            elif token not in silent and 0 <= token < tokenizer.vocab_size():
                piece = tokenizer.id_to_piece(token).replace("\u2581", "")
                found.append(Mark(frame / codec.frame_rate, piece))
        return found

    return four_streams(
        path,
        title=title,
        user=user,
        own=own,
        oracle=[] if oracle is None else marks(np.ravel(oracle)),
        text=marks(text),
        user_words=user_words,
        sample_rate=codec.sample_rate,
    )


def record(
    path: str | Path,
    tokenizer: SentencePieceProcessor,
    *,
    title: str,
    user: np.ndarray,
    own: np.ndarray,
    oracle: np.ndarray,
    frame_rate: float = FRAME_RATE,
    silent: Sequence[int] = (0, 3),
) -> Path:
    """Draws a training record from its tokens alone: the codes of both voices as bands, a column a frame.

    Args:
        path: the PNG to write.
        tokenizer: of all text.
        title: said above.
        user: int32 `[1 + codebooks, frames]`: text, then codes, of the one who is heard.
        own: the same of the one who is the model.
        oracle: int32 `[frames]`; ids that the tokenizer does not have mark the start of an answer.
        frame_rate: frames a second.
        silent: ids without a word.

    Returns:
        `path`.
    """
    matplotlib.use("Agg")

    def marks(row: np.ndarray) -> list[Mark]:
        size = tokenizer.vocab_size()
        return [
            Mark(t / frame_rate, "", start=True)
            if token >= size
            else Mark(t / frame_rate, tokenizer.id_to_piece(token).replace("\u2581", ""))
            for t, token in enumerate(row.tolist())
            if token not in silent and token >= 0
        ]

    seconds = max(user.shape[1], 1) / frame_rate
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    axes = figure.subplots(5, 1, sharex=True, height_ratios=[0.7, 1, 1, 1, 0.7])
    _codes(axes[0], user[1:], USER, "user audio", seconds)
    _tokens(axes[1], marks(user[0]), USER, "user says", seconds)
    _tokens(axes[2], marks(oracle), ORACLE, "oracle", seconds)
    _tokens(axes[3], marks(own[0]), TEXT, "inner\nmonologue", seconds)
    _codes(axes[4], own[1:], OWN, "own audio", seconds)
    axes[0].set_title(title, loc="left", fontsize=11, color=INK)
    axes[4].set_xlabel("seconds", color=INK)
    axes[4].set_xlim(0, seconds)
    write_whole(path, lambda file: figure.savefig(file, dpi=130, format="png"))
    return Path(path)


def four_streams(
    path: str | Path,
    *,
    title: str,
    user: np.ndarray,
    own: np.ndarray,
    oracle: Sequence[Mark],
    text: Sequence[Mark],
    user_words: Sequence[Mark] = (),
    sample_rate: int = 24_000,
) -> Path:
    """Draws the four streams to a PNG.

    Args:
        path: the file to write.
        title: shown above.
        user: float32 `[samples]`, the user's audio.
        own: float32 `[samples]`, the model's audio.
        oracle: oracle tokens at the time they are read.
        text: words of the inner monologue at the time they are said.
        user_words: what the user says, where it is known.
        sample_rate: of both recordings, samples a second.

    Returns:
        `path`.
    """
    matplotlib.use("Agg")
    seconds = max(len(user), len(own), 1) / sample_rate
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True, height_ratios=[1.15, 1, 1, 1.15])
    waveform(axes[0], user, sample_rate, USER, "user audio", user_words)
    _tokens(axes[1], oracle, ORACLE, "oracle", seconds)
    _tokens(axes[2], text, TEXT, "inner\nmonologue", seconds)
    waveform(axes[3], own, sample_rate, OWN, "own audio", ())
    axes[0].set_title(title, loc="left", fontsize=11, color=INK)
    axes[3].set_xlabel("seconds", color=INK)
    axes[3].set_xlim(0, seconds)
    write_whole(path, lambda file: figure.savefig(file, dpi=130, format="png"))
    return Path(path)


def bare(axis: Axes, name: str, colour: str) -> None:
    """Labels a row on its left and removes its frame."""
    axis.set_ylabel(name, rotation=0, ha="right", va="center", color=colour, fontsize=10)
    axis.set_yticks([])
    axis.tick_params(colors=MUTED)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(MUTED)


def waveform(axis: Axes, audio: np.ndarray, rate: int, colour: str, name: str, words: Sequence[Mark]) -> None:
    """A row with a recording, float32 `[samples]`, filled between its peaks; `words` are above it."""
    bare(axis, name, colour)
    # One min-max pair a pixel says as much as every sample, at a fraction of the drawing time.
    columns = 1400
    size = max(1, -(-len(audio) // columns))
    folded = np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)
    times = np.arange(len(folded)) * size / rate
    peak = max(float(np.abs(audio).max(initial=0.0)), 1e-4)
    axis.fill_between(times, folded.min(1) / peak, folded.max(1) / peak, color=colour, linewidth=0.4)
    axis.set_ylim(-1.1, 2.0 if words else 1.1)
    for word in words:
        axis.text(word.time, 1.35, word.text, fontsize=8, color=INK, ha="left")


def _codes(axis: Axes, codes: np.ndarray, colour: str, name: str, seconds: float) -> None:
    """Codes as shades, one line a codebook, the semantic one on top; equal codes have equal shades."""
    bare(axis, name, colour)
    shades = LinearSegmentedColormap.from_list(name, ["#ffffff", colour])
    axis.imshow(
        codes / max(int(codes.max(initial=0)), 1),
        extent=(0, seconds, len(codes), 0),
        aspect="auto",
        interpolation="nearest",
        cmap=shades,
        vmin=0,
        vmax=1,
    )


def _tokens(axis: Axes, marks: Sequence[Mark], colour: str, name: str, seconds: float) -> None:
    bare(axis, name, colour)
    axis.set_ylim(0, 1)
    # Tokens come every 80 ms, closer than words are wide: words alternate between as many rows as needed.
    width, free, placed = seconds * 0.0076, [-1.0] * 4, []
    for mark in marks:
        if mark.start:
            axis.axvline(mark.time, color=colour, linewidth=1.0, alpha=0.35, zorder=1)
            continue
        row = next((r for r, end in enumerate(free) if end <= mark.time), None)
        if row is None and len(free) < MOST_ROWS:
            row = len(free)
            free.append(mark.time)
        elif row is None:
            row = int(np.argmin(free))
        free[row] = mark.time + width * (len(mark.text) + 1)
        placed.append((mark, row))
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for mark, row in placed:
        height = 0.92 - 0.8 * row / (len(free) - 1)
        axis.text(
            mark.time,
            height,
            mark.text,
            fontsize=8,
            color=colour,
            va="center",
            path_effects=halo,
            clip_on=True,
        )
        axis.plot([mark.time], [0.02], "|", color=colour, markersize=5)
