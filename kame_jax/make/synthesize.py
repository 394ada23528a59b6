"""Question sets to folders of spoken dialogues: two voices on two channels, words with times, and where all came from.

Reading items is `make.questions`', wording them `make.rewrite`'s, speaking `make.speech`'s. This room owns the clock of
a dialogue (who begins when, pauses) and the manifest, which says what source items went in.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.codec.audio import write_audio
from kame_jax.data.words import CHANNELS, Word, words_to_json
from kame_jax.errors import InputError
from kame_jax.llm import LLMError
from kame_jax.make.answers import Answers, Progress, Stopped
from kame_jax.make.origin import MANIFEST
from kame_jax.make.questions import Item, read_items
from kame_jax.make.rewrite import Limits, Line, Refused, parse_lines, rewriting, template_lines
from kame_jax.make.settings import changed_settings, write_json
from kame_jax.make.speech import RATE, Engine, Speech, SpeechError

SETTINGS = "synthesize_settings.json"
AT_ONCE = 32
"""Items worded at the same time."""


@dataclass(frozen=True)
class Timing:
    """When who speaks; ranges are seconds, drawn evenly."""

    lead: tuple[float, float] = (0.3, 2.0)
    """Silence before B begins."""
    reply: tuple[float, float] = (0.2, 0.8)
    """From the end of a turn to the beginning of the next."""
    sentence: tuple[float, float] = (0.1, 0.4)
    """Between two sentences of a turn."""
    hesitation: tuple[float, float] = (1.0, 2.5)
    """In place of `sentence`, now and then, while B thinks."""
    hesitates: float = 0.1
    """Probability of that."""
    tail: float = 0.6
    """Silence behind the last word."""

    def __post_init__(self) -> None:
        for name in ("lead", "reply", "sentence", "hesitation"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise InputError(f"timing: {name} {low:g} to {high:g}, expected 0 <= fewest <= most seconds")


@dataclass(frozen=True)
class Recipe:
    """How dialogues are made; equal recipes and items give equal dialogues."""

    voices: tuple[tuple[str, ...], tuple[str, ...]]
    """Of A and of B; one of each is drawn for a dialogue."""
    seed: int = 0
    limits: Limits = Limits()
    timing: Timing = Timing()


@dataclass
class Report:
    """What became of the items."""

    made: int = 0
    kept: int = 0
    """Dialogues that were there already."""
    seconds: float = 0.0
    """Of the dialogues made."""
    refused: Counter[str] = field(default_factory=Counter)
    """Items that cannot be spoken, by reason (`data.rewrite.REASONS`)."""
    problems: list[str] = field(default_factory=list)
    """One line for each row or dialogue at which something went wrong."""
    stopped: str | None = None


def lay_out(
    lines: Sequence[Line], name: str, engine: Engine, recipe: Recipe
) -> tuple[np.ndarray, list[Word]]:
    """Speaks a dialogue: float32 `[samples, 2]` at `speech.RATE`, A left, and its words in order of time.

    All draws come from (seed, name). Raises SpeechError when a sentence cannot be spoken.
    """
    key = hashlib.sha256(f"{recipe.seed}/{name}/voice".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(key, np.uint32))
    voices = {s: names[int(rng.integers(len(names)))] for s, names in zip("AB", recipe.voices)}
    timing, now = recipe.timing, float(rng.uniform(*recipe.timing.lead))
    clips: list[tuple[str, int, Speech]] = []
    words = []
    for line in lines:
        sentences = re.findall(r"\S[^.]*\.?", line.text)
        for number, sentence in enumerate(sentences):
            if number:
                pause = timing.sentence
                if line.speaker == "B" and rng.random() < timing.hesitates:
                    pause = timing.hesitation
                now += float(rng.uniform(*pause))
            speech = engine.speak(sentence, voices[line.speaker])
            at = round(now * RATE)
            clips.append((line.speaker, at, speech))
            words += [
                Word(line.speaker, word, round(at / RATE + start, 3), round(at / RATE + stop, 3))
                for word, start, stop in speech.words
            ]
            now = (at + len(speech.audio)) / RATE
        now += float(rng.uniform(*timing.reply))
    end = max(at + len(speech.audio) for _, at, speech in clips)
    audio = np.zeros((end + round(timing.tail * RATE), len(CHANNELS)), np.float32)
    for speaker, at, speech in clips:
        audio[at : at + len(speech.audio), CHANNELS[speaker]] = speech.audio
    return audio, sorted(words, key=lambda word: word.end)


async def synthesize(
    source: str,
    out: str | Path,
    engine: Engine,
    recipe: Recipe,
    *,
    form: str | None = None,
    answers: Answers | None = None,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Makes the dialogues of a question set that are not there yet; each appears complete or not at all.

    Args:
        source, form: see `data.questions.read_items`.
        out: folder of dialogues, in the layout that `data.dialogue` reads.
        engine: who speaks.
        recipe: voices, limits, timing and seed.
        answers: a language model that words the dialogues; None uses templates.
        limit: most items of this process.
        shard: (i, n) takes every n-th item.
        progress, say: see `data.tokens.tokenize`.

    Raises:
        InputError: the source cannot be read, or `out` holds dialogues that were made otherwise.
    """
    out = Path(out)
    description = {
        "recipe": json.loads(json.dumps(dataclasses.asdict(recipe))),
        "speech": engine.describe(),
        "wording": answers.config.model if answers else "templates",
    }
    _settle(out, description)
    report = Report()
    items = itertools.islice(
        (item for i, item in enumerate(read_items(source, form)) if i % shard[1] == shard[0]), limit
    )
    seen: set[str] = set()
    done = 0
    while group := list(itertools.islice(items, AT_ONCE)):
        worded = await asyncio.gather(
            *(_word(item, answers, recipe, out, report) for item in group), return_exceptions=True
        )
        for item, lines in zip(group, worded):
            done += 1
            if isinstance(item, InputError) or item.id in seen:
                line = (
                    str(item)
                    if isinstance(item, InputError)
                    else f"item {item.id}: there are several of this name"
                )
                report.problems.append(line)
                say(line)
                continue
            seen.add(item.id)
            try:
                if isinstance(lines, BaseException):
                    raise lines
                if lines is None:
                    report.kept += 1
                    continue
                report.seconds += await asyncio.to_thread(_make, item, source, lines, out, engine, recipe)
                report.made += 1
            except Refused as reason:
                report.refused[str(reason)] += 1
            except Stopped as error:
                report.stopped = str(error)
            except (SpeechError, LLMError) as error:
                report.problems.append(f"dialogue {item.id}: {error}")
                say(report.problems[-1])
        text = f"{sum(report.refused.values())} refused"
        progress(done, limit or done, f"{text}, {answers.status.text(0, 0)}" if answers else text)
        if report.stopped:
            break
    _write_manifest(out, description, report)
    return report


async def _word(
    item: Item | InputError, answers: Answers | None, recipe: Recipe, out: Path, report: Report
) -> list[Line] | None:
    """The lines of an item; None when its dialogue is there already."""
    if isinstance(item, InputError) or _is_there(out, item.id):
        return None
    if answers is None:
        return template_lines(item, recipe.limits, recipe.seed)
    return parse_lines(await answers.ask(rewriting(item, recipe.limits), whole=True), recipe.limits)


def _is_there(out: Path, name: str) -> bool:
    """Whether a dialogue is complete: its origin is written last."""
    return (out / "origin" / f"{name}.json").is_file()


def _make(item: Item, source: str, lines: Sequence[Line], out: Path, engine: Engine, recipe: Recipe) -> float:
    """Speaks and writes one dialogue; returns its seconds."""
    audio, words = lay_out(lines, item.id, engine, recipe)
    for folder in ("audio", "text", "origin"):
        (out / folder).mkdir(exist_ok=True)
    write_audio(out / "audio" / f"{item.id}.wav", audio, RATE)
    write_json(out / "text" / f"{item.id}.json", words_to_json(words))
    origin = {"source": source, "item": item.id, "lines": [dataclasses.asdict(line) for line in lines]}
    write_json(out / "origin" / f"{item.id}.json", origin)
    return len(audio) / RATE


def _settle(out: Path, description: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    file = out / SETTINGS
    if not file.is_file():
        write_json(file, description)
        return
    if old := changed_settings(file, description):
        raise InputError(
            f"{out}: its dialogues were made otherwise; give a new folder, or remove it first",
            [f"{name}: {value} there, {description[name]} here" for name, value in old.items()],
        )


def _write_manifest(out: Path, description: dict[str, Any], report: Report) -> None:
    """All that went into the folder so far, by whichever process."""
    by_source: dict[str, list[str]] = {}
    for path in sorted((out / "origin").glob("*.json")):
        origin = json.loads(path.read_text(encoding="utf-8"))
        by_source.setdefault(origin["source"], []).append(origin["item"])
    sources = {
        source: {
            "count": len(items),
            "sha256": hashlib.sha256("\n".join(items).encode()).hexdigest(),
            "items": items,
        }
        for source, items in by_source.items()
    }
    write_json(out / MANIFEST, description | {"refused": dict(report.refused), "sources": sources})
