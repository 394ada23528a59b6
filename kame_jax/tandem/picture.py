"""The picture of a conversation with a back end: what was heard, asked, answered, read, and said, on one time axis.

Drawn from the conversation's own log, so a replayed log draws its oracle as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sentencepiece import SentencePieceProcessor

from kame_jax.config import MimiConfig, ModelConfig
from kame_jax.decode.session import Frame
from kame_jax.files import write_whole
from kame_jax.picture import INK, MUTED, ORACLE, OWN, TEXT, USER, Mark, bare, waveform
from kame_jax.streams import FRAME_SECONDS

WIDTH, FONT = 11.0, 8
CHAR = 0.058
"""Width of a character of the font in inches, about."""
LANES = 5
"""Most answers drawn one below the other; beyond that, the last ones."""


@dataclass
class Version:
    """One answer in the oracle."""

    start: int
    """Frame before which it came."""
    tokens: list[int]
    final: bool = False
    """It was asked for with all that the user said in the turn."""
    read: int = 0
    """How many of its tokens were read."""
    read_at: int | None = None
    """Frame of the last token that was read."""
    end: int | None = None
    """Frame at which it was replaced or cleared."""


def versions(
    events: Sequence[Mapping[str, Any]], row: Sequence[int], start_id: int, pad_id: int
) -> list[Version]:
    """The answers of a conversation's log, and how much of each was read.

    Args:
        events: the log's lines.
        row: the oracle token read at each frame.
        start_id: marks the start of an answer.
        pad_id: of the idle oracle.
    """
    whole = {event["text"] for event in events if event.get("event") == "heard" and event["final"]}
    asked_final = {
        event["answer"]: event["final"] or event["text"] in whole
        for event in events
        if event.get("event") == "asked"
    }
    found: list[Version] = []
    final = False
    for event in events:
        if event.get("event") == "adopted":
            final = asked_final.get(event["answer"], False)
        op = event.get("op")
        if op == "append" and found and found[-1].end is None:
            found[-1].tokens += event["tokens"]
        elif op is not None:
            if found and found[-1].end is None:
                found[-1].end = event["frame"]
            if op != "clear":
                found.append(Version(event["frame"], list(event["tokens"]), final))
    for version in found:
        last = len(row) if version.end is None else version.end
        for frame in range(version.start, min(last, len(row))):
            if row[frame] not in (start_id, pad_id) and version.read < len(version.tokens):
                version.read, version.read_at = version.read + 1, frame
    return found


def words(marks: Sequence[Mark]) -> list[Mark]:
    """Pieces joined to the words that they spell: a piece that begins with a space begins a word."""
    found: list[Mark] = []
    for mark in marks:
        if found and not mark.text.startswith(" "):
            found[-1] = Mark(found[-1].time, found[-1].text + mark.text)
        elif mark.text.strip():
            found.append(Mark(mark.time, mark.text.strip()))
    return found


def talk(
    path: str | Path,
    tokenizer: SentencePieceProcessor,
    codec: MimiConfig,
    config: ModelConfig,
    user: np.ndarray,
    own: np.ndarray,
    frames: Sequence[Frame],
    events: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any],
    user_words: Sequence[Mark] = (),
) -> Path:
    """Draws a conversation to a PNG.

    Args:
        path: the file to write.
        tokenizer: of both text rows.
        codec: gives sample rate and frame rate.
        config: gives the ids that are not words.
        user: float32 `[samples]`.
        own: float32 `[samples]`.
        frames: what the model said, frame by frame.
        events: the conversation's log.
        report: its figures.
        user_words: what the user says, where its times are known; else what was heard is shown.
    """
    seconds = max(len(user), len(own), 1) / codec.sample_rate
    figure = Figure(figsize=(WIDTH, 6.8), layout="constrained")
    axes = figure.subplots(5, 1, sharex=True, height_ratios=[1.0, 0.9, 1.9, 0.7, 0.8])
    if not user_words:
        user_words = _heard_words(events)
    waveform(axes[0], user, codec.sample_rate, USER, "user", ())
    _row_of_words(axes[0], user_words, INK, seconds, low=1.2, step=0.55, rows=2)
    axes[0].set_ylim(-1.1, 2.4)
    _questions(axes[1], events, seconds)
    row = [frame.oracle for frame in frames]
    told = versions(events, row, config.text_card, config.text_padding_id)
    _answers(axes[2], told, tokenizer, codec.frame_rate, seconds)
    bare(axes[3], "says", TEXT)
    axes[3].set_ylim(0, 1)
    said = words([Mark(frame.index / codec.frame_rate, frame.text) for frame in frames if frame.text])
    _row_of_words(axes[3], said, TEXT, seconds, low=0.2, step=0.36, rows=2, size=FONT + 1)
    waveform(axes[4], own, codec.sample_rate, OWN, "own voice", ())
    _latency(axes, events, said)
    axes[4].set_xlim(0, seconds)
    axes[4].set_xlabel(f"seconds\n{figures(report)}", color=INK, fontsize=FONT + 1)
    write_whole(path, lambda file: figure.savefig(file, dpi=110, format="png"))
    return Path(path)


def figures(report: Mapping[str, Any]) -> str:
    """The figures that matter, on two lines; what was not measured is left out."""
    first = [
        (
            "frame p50 / p95 / p99",
            "{:.0f} / {:.0f} / {:.0f} ms of 80",
            "frame_ms_p50",
            "frame_ms_p95",
            "frame_ms_p99",
        ),
        ("spoken word to oracle", "{:.2f} s", "word_to_oracle_seconds_p50"),
        ("oracle age when read", "{:.2f} s", "oracle_age_seconds_p50"),
        ("first word", "{:+.2f} s", "first_word_seconds"),
        ("first sound", "{:+.2f} s", "first_sound_seconds"),
    ]
    second = [
        ("oracle read", "{:.0%}", "oracle_read_fraction"),
        ("erased", "{:.0%}", "oracle_erased_fraction"),
        ("wasted", "{:.0%}", "oracle_wasted_fraction"),
        ("content words said", "{:.0%}", "oracle_recall"),
        ("questions", "{}", "llm_questions"),
        ("LLM tokens in / out", "{} / {}", "llm_input_tokens", "llm_output_tokens"),
        ("cost", "{:.4g}", "llm_cost"),
    ]

    def line(entries: Sequence[tuple[str, ...]]) -> str:
        shown = []
        for name, form, *keys in entries:
            values = [report.get(key) for key in keys]
            if None not in values and (any(values) or not name.startswith(("LLM", "cost"))):
                shown.append(f"{name} {form.format(*values)}")
        return "   ·   ".join(shown)

    return f"{line(first)}\n{line(second)}"


def _heard_words(events: Sequence[Mapping[str, Any]]) -> list[Mark]:
    """The words of the transcript, at the time at which each was first heard."""
    found: list[Mark] = []
    known = 0
    for event in events:
        if event.get("event") == "heard":
            new = event["text"].split()
            found += [Mark(event["time"], word) for word in new[known:]]
            known = 0 if event["final"] else max(known, len(new))
    return found


def _row_of_words(
    axis: Axes,
    marks: Sequence[Mark],
    colour: str,
    seconds: float,
    low: float,
    step: float,
    rows: int,
    size: float = FONT,
) -> None:
    """Words at their times, on the lowest of `rows` lines that is free."""
    free = [-1.0] * rows
    for mark in marks:
        line = next((r for r in range(rows) if free[r] <= mark.time), int(np.argmin(free)))
        free[line] = mark.time + _width(mark.text, seconds, size)
        axis.text(mark.time, low + step * line, mark.text, fontsize=size, color=colour, va="center")


def _width(text: str, seconds: float, size: float = FONT) -> float:
    """Seconds of the axis that a text takes, with a space behind it."""
    return (len(text) + 1.2) * CHAR * size / FONT * seconds / (WIDTH - 1.3)


def _questions(axis: Axes, events: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """Each question at the time it was asked: the end of the transcript that it carried."""
    bare(axis, "questions\nto the LLM", USER)
    axis.set_ylim(0, 1)
    asked = [event for event in events if event.get("event") == "asked"]
    failed = {event["answer"] for event in events if event.get("event") == "failed"}
    free: list[float] = []
    placed = []
    for event in asked:
        time = event["frame"] * FRAME_SECONDS
        text = event["text"] if len(event["text"]) <= 30 else "…" + event["text"][-29:]
        text += "" if event["final"] else " …"
        line = next((r for r, until in enumerate(free) if until <= time), len(free))
        free[line : line + 1] = [time + _width(text, seconds) + 0.02 * seconds]
        placed.append((event, time, text, line))
    for event, time, text, line in placed:
        height = 1 - (line + 0.5) / max(len(free), 3)
        colour = "#b3261e" if event["answer"] in failed else USER
        axis.plot([time, time], [0, height], color=colour, linewidth=0.6, alpha=0.45)
        axis.plot([time], [height], "o", color=colour, markersize=3.2)
        weight = "bold" if event["final"] else "normal"
        left = time + 0.006 * seconds
        axis.text(left, height, text, fontsize=FONT, color=INK, va="center", weight=weight)


def _answers(
    axis: Axes, told: Sequence[Version], tokenizer: SentencePieceProcessor, rate: float, seconds: float
) -> None:
    """One line per answer: its words, dark where they were read, and a bar for as long as it was in the oracle."""
    bare(axis, "oracle:\nread, unread", ORACLE)
    shown = told[-LANES:]
    axis.set_ylim(len(shown) - 0.35 if shown else 1, -0.75)
    for lane, version in enumerate(shown):
        start = version.start / rate
        end = min(seconds if version.end is None else version.end / rate, seconds)
        read_until = start if version.read_at is None else (version.read_at + 1) / rate
        axis.barh(lane, end - start, 0.2, left=start, color=ORACLE, alpha=0.18, linewidth=0)
        axis.barh(lane, max(read_until - start, 0), 0.2, left=start, color=ORACLE, alpha=0.9, linewidth=0)
        axis.plot([start, start], [lane - 0.6, lane + 0.1], color=ORACLE, linewidth=1.4)
        if version.end is not None:
            axis.plot([end], [lane], "x", color=ORACLE, markersize=5, markeredgewidth=1.4)
            axis.text(
                end + 0.008 * seconds,
                lane,
                "replaced",
                fontsize=FONT - 1,
                color=MUTED,
                va="center",
                style="italic",
            )
        known, rest = _split(tokenizer, version)
        kind = "final" if version.final else "interim"
        left = start + 0.006 * seconds
        for text, colour, weight in (
            (f"{kind}:", ORACLE, "bold"),
            (known, INK, "normal"),
            (rest, MUTED, "normal"),
        ):
            if text:
                axis.text(left, lane - 0.36, text, fontsize=FONT, color=colour, va="center", weight=weight)
                left += _width(text, seconds) * 0.97


def _split(tokenizer: SentencePieceProcessor, version: Version) -> tuple[str, str]:
    """The text of an answer that was read, and the rest of it; a word that was begun counts as read."""
    whole = tokenizer.decode(version.tokens)
    size = len(tokenizer.decode(version.tokens[: version.read]))
    while 0 < size < len(whole) and not whole[size].isspace():
        size += 1
    return whole[:size].strip(), whole[size:].strip()


def _latency(axes: Sequence[Axes], events: Sequence[Mapping[str, Any]], said: Sequence[Mark]) -> None:
    """The end of each turn of the user as a line through all rows, and how far from it the reply began."""
    ends = [event["time"] for event in events if event.get("event") == "heard" and event["final"]]
    begin = 0.0
    for index, end in enumerate(ends):
        for axis in axes:
            axis.axvline(end, color=USER, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6, zorder=0)
        axes[0].text(end, 2.0, " the turn ends", fontsize=FONT, color=USER, va="center")
        following = ends[index + 1] if index + 1 < len(ends) else np.inf
        reply = [word.time for word in said if begin <= word.time < following]
        if reply:
            axes[3].annotate(
                "",
                xy=(reply[0], 0.92),
                xytext=(end, 0.92),
                arrowprops={"arrowstyle": "->", "color": USER, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0},
            )
            axes[3].text(
                max(end, reply[0]), 0.92, f" {reply[0] - end:+.2f} s", fontsize=FONT, color=USER, va="center"
            )
        begin = end
