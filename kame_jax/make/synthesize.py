"""Question sets to folders of spoken dialogues: two voices on two channels, words with times, and their origin.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.codec.audio import write_audio
from kame_jax.data.words import CHANNELS, Word, words_to_json
from kame_jax.errors import InputError
from kame_jax.files import make_folder, read_json, write_json
from kame_jax.make.answers import Answers
from kame_jax.make.job import Job, Outcome, Progress, Shard, settle
from kame_jax.make.origin import MANIFEST
from kame_jax.make.questions import Item, read_items
from kame_jax.make.rewrite import Limits, Line, Refused, parse_lines, rewriting, template_lines
from kame_jax.make.speech import RATE, Engine, Speech

SETTINGS = "synthesize_settings.json"
AT_ONCE = 32
"""Items worded at the same time."""


@dataclass(frozen=True)
class Timing:
    """When each speaker speaks; ranges are seconds, drawn uniformly."""

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
    """Silence after the last word."""

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
class SpokenItems(Outcome):
    """What became of the items."""

    refused: Counter[str] = field(default_factory=Counter)
    """Items that cannot be spoken, by reason (`make.rewrite.REASONS`)."""


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
    shard: Shard = (0, 1),
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> SpokenItems:
    """Makes the dialogues of a question set that are not there yet; each appears complete or not at all.

    Args:
        source, form: see `make.questions.read_items`.
        out: folder of dialogues, in the layout that `data.dialogue` reads. It may hold those of other sets.
        engine: who speaks.
        recipe: voices, limits, timing and seed.
        answers: a language model that words the dialogues; None uses templates.
        limit: most items of this process.
        shard: which items.
        progress, say: see `make.job.Job`.

    Raises:
        InputError: the source cannot be read, or `out` holds dialogues that were made otherwise.
    """
    out = Path(out)
    description = {
        "recipe": json.loads(json.dumps(dataclasses.asdict(recipe))),
        "speech": engine.describe(),
        "wording": answers.config.model if answers else "templates",
    }
    items = list(
        itertools.islice(itertools.islice(read_items(source, form), shard[0], None, shard[1]), limit)
    )
    make_folder(out)
    complaint = f"{out}: its dialogues were made with other settings; give a new folder, or remove it first"
    settle(out / SETTINGS, description, complaint)
    outcome = SpokenItems()
    job = Job(outcome, len(items), progress=progress, say=say)
    taken: dict[str, str] = {}
    for at in range(0, len(items), AT_ONCE):
        group = []
        for item in items[at : at + AT_ONCE]:
            if isinstance(item, InputError):
                job.complain(str(item))
                job.advance()
                continue
            name, there = _place(out, item, source, taken)
            if name in taken:
                job.note(name, "occurs twice in the set, made once")
                job.advance()
                continue
            taken[name] = item.digest
            group.append((item, name, there))
        worded = await asyncio.gather(
            *(_word(item, answers, recipe) for item, _, there in group if not there), return_exceptions=True
        )
        lines = iter(worded)
        for item, name, there in group:
            with job.guard(name):
                if there:
                    outcome.kept += 1
                else:
                    outcome.seconds += await _spoken(
                        item, name, source, next(lines), out, engine, recipe, outcome
                    )
            text = f"{sum(outcome.refused.values())} refused"
            job.advance(text=f"{text}, {answers.status.text(0, 0)}" if answers else text)
        if outcome.stopped:
            break
    _write_manifest(out, description, outcome)
    return outcome


def _place(out: Path, item: Item, source: str, taken: Mapping[str, str]) -> tuple[str, bool]:
    """The name of an item's dialogue, and whether that is there already.

    Row numbers name items of more than one set: where a name belongs to another item, this one's has its digest behind.
    A dialogue of the same set is made again if its row has changed.

    Args:
        out, item, source: as in `synthesize`.
        taken: names that items of this set have already, and the digests of those items.
    """
    name = item.id
    for name in (item.id, f"{item.id}-{item.digest[:8]}"):
        if name in taken:
            if taken[name] == item.digest:
                break
            continue
        file = out / "origin" / f"{name}.json"
        origin = read_json(file) if file.is_file() else {"source": source}
        if source == origin.get("source") or item.digest == origin.get("digest"):
            return name, item.digest == origin.get("digest")
    return name, False


async def _word(item: Item, answers: Answers | None, recipe: Recipe) -> list[Line]:
    """The lines of an item."""
    if answers is None:
        return template_lines(item, recipe.limits, recipe.seed)
    return parse_lines(await answers.ask(rewriting(item, recipe.limits), whole=True), recipe.limits)


async def _spoken(
    item: Item,
    name: str,
    source: str,
    lines: list[Line] | BaseException,
    out: Path,
    engine: Engine,
    recipe: Recipe,
    outcome: SpokenItems,
) -> float:
    """Speaks the lines of an item, or counts why there are none; returns the seconds of sound."""
    try:
        if isinstance(lines, BaseException):
            raise lines
        seconds = await asyncio.to_thread(_make, item, name, source, lines, out, engine, recipe)
    except Refused as reason:
        outcome.refused[str(reason)] += 1
        return 0.0
    outcome.made += 1
    return seconds


def _make(
    item: Item, name: str, source: str, lines: Sequence[Line], out: Path, engine: Engine, recipe: Recipe
) -> float:
    """Speaks and writes one dialogue; returns its seconds. Its origin is written last: it says that all is there."""
    audio, words = lay_out(lines, name, engine, recipe)
    for folder in ("audio", "text", "origin"):
        (out / folder).mkdir(exist_ok=True)
    write_audio(out / "audio" / f"{name}.wav", audio, RATE)
    write_json(out / "text" / f"{name}.json", words_to_json(words))
    said = [dataclasses.asdict(line) for line in lines]
    origin = {"source": source, "item": item.id, "digest": item.digest, "lines": said}
    write_json(out / "origin" / f"{name}.json", origin)
    return len(audio) / RATE


def _write_manifest(out: Path, description: dict[str, Any], outcome: SpokenItems) -> None:
    """All that went into the folder so far, by whichever process."""
    by_source: dict[str, list[str]] = {}
    for path in sorted((out / "origin").glob("*.json")):
        origin = read_json(path)
        by_source.setdefault(origin["source"], []).append(origin["item"])
    sources = {
        source: {
            "count": len(items),
            "sha256": hashlib.sha256("\n".join(items).encode()).hexdigest(),
            "items": items,
        }
        for source, items in by_source.items()
    }
    write_json(out / MANIFEST, description | {"refused": dict(outcome.refused), "sources": sources})
