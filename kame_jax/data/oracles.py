"""Simulated oracles for a folder of dialogues: `oracle_raw/<id>.json` for each, by one of three strategies.

`hint` reveals the true reply word by word, `random` shows other dialogues' replies and then the true one, `llm` asks a
language model. When what is asked is `oracle.simulate`'s; how questions are asked, cached and paid is `data.answers`'.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.data.answers import Answers, Progress, Stopped
from kame_jax.data.settings import changed_settings, write_json
from kame_jax.errors import InputError
from kame_jax.llm import LLMError
from kame_jax.oracle import prompts
from kame_jax.oracle.rules import Rules
from kame_jax.oracle.simulate import (
    HintStrategy,
    Request,
    Word,
    oracle_record,
    oracle_requests,
    says_itself,
    words_from_json,
)
from kame_jax.oracle.speakable import speakable

STRATEGIES = ("hint", "random", "llm")
SETTINGS = "oracle_settings.json"
OPEN_DIALOGUES = 32
"""Dialogues under way at once."""
LENGTHS = (0.5, 2.0)
"""Shortest and longest foreign reply of the random strategy, beside the true one."""

Length = Callable[[str], int]
"""Tokens (or words) of a text."""


@dataclass
class Report:
    """What became of the dialogues."""

    made: int = 0
    kept: int = 0
    """Files that were there already."""
    events: int = 0
    levels: list[int] = field(default_factory=lambda: [0] * 6)
    """Events by hint level."""
    empty: int = 0
    """Answers of which nothing could be spoken; they make no event."""
    changes: Counter[str] = field(default_factory=Counter)
    """What was changed to make answers speakable, by kind (`oracle.speakable.KINDS`)."""
    problems: list[str] = field(default_factory=list)
    """One line for each dialogue without an oracle."""
    stopped: str | None = None
    """Why nothing more was asked, where that happened."""


@dataclass(frozen=True)
class Job:
    """What is asked of every dialogue."""

    strategy: str
    rules: Rules
    interval: float = 0.5
    seed: int = 0
    """Of the random strategy."""
    normalise: bool = True
    """Make answers speakable."""
    context_chars: int = 6000
    """Of the conversation, shown to a language model."""

    def description(self, model: str | None) -> dict[str, Any]:
        """What `SETTINGS` holds."""
        return dataclasses.asdict(self) | {"model": model, "prompts": prompts.VERSION}


def read_words(path: Path) -> list[Word]:
    """The words of `text/<id>.json`.

    Raises:
        InputError: one line with the dialogue's name.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, list):
            raise InputError("holds no list")
        return words_from_json(value)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"dialogue {path.stem}: text/{path.name} is not JSON: {error}") from None
    except (InputError, OSError) as error:
        raise InputError(f"dialogue {path.stem}: text/{path.name}: {error}") from None


def make_oracles(
    root: str | Path,
    job: Job,
    *,
    out: str | Path | None = None,
    answers: Answers | None = None,
    length: Length = lambda text: len(text.split()),
    shard: tuple[int, int] = (0, 1),
    overwrite: bool = False,
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> Awaitable[Report]:
    """Writes the oracle of every dialogue that has none yet; each file appears complete or not at all.

    Args:
        root: folder with `text/`.
        job: what is asked.
        out: folder of the files (default: `<root>/oracle_raw`).
        answers: the language model, for the strategy `llm`.
        length: measures replies, for the strategy `random`.
        shard: (i, n) takes every n-th dialogue.
        overwrite: makes those anew that are there.
        progress, say: see `data.tokens.tokenize`.

    Raises:
        InputError: no texts there, or oracles that were made with other settings.
    """
    root = Path(root)
    texts = sorted((root / "text").glob("*.json"))
    if not texts:
        raise InputError(f"{root}: no dialogue in it, expected text/<id>.json")
    if job.strategy not in STRATEGIES:
        raise InputError(f"strategy {job.strategy!r}: expected one of {', '.join(STRATEGIES)}")
    target = Path(out) if out else root / "oracle_raw"
    _settle(target, job.description(answers.config.model if answers else None), overwrite)
    return _run(texts, job, target, answers, length, shard, overwrite, progress, say)


def _settle(target: Path, description: dict[str, Any], overwrite: bool) -> None:
    target.mkdir(parents=True, exist_ok=True)
    file = target.parent / f"{target.name}_settings.json" if target.name != "oracle_raw" else None
    file = file or target.parent / SETTINGS
    if file.is_file() and not overwrite:
        if old := changed_settings(file, description):
            raise InputError(
                f"{target}: its oracles were made with other settings; --overwrite makes them anew",
                [f"{name}: {value!r} there, {description[name]!r} here" for name, value in old.items()],
            )
    elif not overwrite and any(target.glob("*.json")):
        raise InputError(f"{target}: holds oracles that this command did not make; --overwrite replaces them")
    write_json(file, description)


async def _run(
    texts: Sequence[Path],
    job: Job,
    target: Path,
    answers: Answers | None,
    length: Length,
    shard: tuple[int, int],
    overwrite: bool,
    progress: Progress,
    say: Callable[[str], None],
) -> Report:
    report = Report()
    pool = _reply_pool(texts, job, report, say) if job.strategy == "random" else {}
    mine = texts[shard[0] :: shard[1]]
    places = asyncio.Semaphore(OPEN_DIALOGUES)
    done = 0

    async def one(path: Path) -> None:
        nonlocal done
        async with places:
            try:
                if report.stopped:
                    return
                if (target / path.name).is_file() and not overwrite:
                    report.kept += 1
                else:
                    records = await _dialogue(path, job, answers, pool, length, report)
                    write_json(target / path.name, records)
                    report.made += 1
            except (InputError, LLMError) as error:
                line = " ".join(str(error).split())
                line = line if line.startswith(f"dialogue {path.stem}: ") else f"dialogue {path.stem}: {line}"
                if line not in report.problems:
                    report.problems.append(line)
                    say(line)
            except Stopped as error:
                report.stopped = str(error)
            finally:
                done += 1
                progress(done, len(mine), answers.status.text(done, len(mine)) if answers else "")

    await asyncio.gather(*(one(path) for path in mine))
    return report


async def _dialogue(
    path: Path,
    job: Job,
    answers: Answers | None,
    pool: Mapping[str, Sequence[str]],
    length: Length,
    report: Report,
) -> list[dict[str, Any]]:
    """The records of one dialogue."""
    requests = oracle_requests(read_words(path), interval=job.interval, rules=job.rules)
    if job.strategy == "random":
        records = random_records(requests, path.stem, pool, job.seed, length)
    else:
        said = await asyncio.gather(
            *(_answer(request, job, answers) for request in requests), return_exceptions=True
        )
        for item in said:
            if isinstance(item, BaseException):
                raise item
        records = []
        for request, text in zip(requests, said):
            assert isinstance(text, str)
            if job.normalise:
                spoken = speakable(text)
                report.changes.update(spoken.changes)
                report.empty += bool(text.strip()) and not spoken.text
                text = spoken.text
            record = oracle_record(request, text)
            if record is not None:
                records.append(record)
                report.levels[request.level] += 1
    report.events += len(records)
    return records


async def _answer(request: Request, job: Job, answers: Answers | None) -> str:
    if says_itself(request, job.rules):
        return request.hint
    if job.strategy == "hint" or answers is None:
        return HintStrategy()(request)
    return await answers.ask(prompts.messages(request, job.context_chars))


def _reply_pool(
    texts: Sequence[Path], job: Job, report: Report, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """All replies of all dialogues."""
    pool = {}
    for path in texts:
        try:
            requests = oracle_requests(read_words(path), interval=job.interval, rules=job.rules)
        except InputError:  # said when the dialogue's turn comes
            continue
        pool[path.stem] = list(dict.fromkeys(r.hint for r in requests if r.next_speaker != r.speaker))
    if len([name for name, replies in pool.items() if replies]) < 2:
        raise InputError(
            "the random strategy takes replies from other dialogues: expected at least two with replies"
        )
    return pool


def random_records(
    requests: Sequence[Request], name: str, pool: Mapping[str, Sequence[str]], seed: int, length: Length
) -> list[dict[str, Any]]:
    """Records without a predictor: for each reply, foreign replies first, then the true one.

    The last event of a reply at a hint level above 0 shows the hint (`use_hint`); the events before it show replies of
    other dialogues, half to twice as long, none twice, drawn from (seed, dialogue, reply, speaker). Events behind it
    are left out. Semantics: `--strategy random` of later versions of SakanaAI/kame_finetune.

    Args:
        requests: of one dialogue.
        name: the dialogue's.
        pool: replies by dialogue.
        seed: of the draws.
        length: measures replies.
    """
    targets: dict[tuple[str, str], list[Request]] = {}
    for request in requests:
        if request.next_speaker != request.speaker:
            targets.setdefault((request.next_speaker, request.hint), []).append(request)
    records = []
    for number, ((speaker, hint), events) in enumerate(targets.items()):
        last = max((i for i, event in enumerate(events) if event.level > 0), default=None)
        if last is None:
            continue
        key = hashlib.sha256(f"{seed}/{name}/{number}/{speaker}".encode()).digest()
        rng = np.random.default_rng(np.frombuffer(key, np.uint32))
        foreign = _foreign(pool, name, length(hint), last, rng, length)
        for event, text in zip(events[:last], foreign):
            record = oracle_record(event, text)
            if record is not None:
                records.append(record | {"use_hint": False})
        record = oracle_record(events[last], hint)
        if record is not None:
            records.append(record | {"use_hint": True})
    # While a speaker says the true reply, the oracle keeps up with them.
    for event in requests:
        if event.next_speaker == event.speaker:
            record = oracle_record(event, event.hint)
            records += [record | {"use_hint": True}] if record else []
    return sorted(records, key=lambda record: record["timestamp_ms"])


def _foreign(
    pool: Mapping[str, Sequence[str]],
    name: str,
    size: int,
    count: int,
    rng: np.random.Generator,
    length: Length,
) -> list[str]:
    """Replies of other dialogues, about as long; fewer than asked for where there are no more."""
    names = [other for other in pool if other != name and pool[other]]
    found: list[str] = []
    for other in (names[i] for i in rng.permutation(len(names))):
        if len(found) == count:
            break
        fitting = [r for r in pool[other] if LENGTHS[0] * size <= length(r) <= LENGTHS[1] * size]
        if fitting:
            text = fitting[int(rng.integers(len(fitting)))]
            if text not in found:
                found.append(text)
    return found
