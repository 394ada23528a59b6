"""Simulated oracles for a folder of dialogues: `oracle_raw/<id>.json` for each, by one of three strategies.

`hint` reveals the true reply word by word, `random` (`make.random_oracle`) shows other dialogues' replies and then the
true one, `llm` asks a language model. When what is asked is `make.simulate`'s; how questions are asked, cached and
paid is `make.answers`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kame_jax.data.dialogue import find_texts, read_words
from kame_jax.errors import InputError
from kame_jax.llm import LLMError
from kame_jax.make import prompts
from kame_jax.make.answers import Answers, Progress, Stopped
from kame_jax.make.random_oracle import Reply, Tokens, pool_fingerprint, random_records, reply_pool
from kame_jax.make.rules import Rules
from kame_jax.make.settings import changed_settings, write_json
from kame_jax.make.simulate import HintStrategy, Request, oracle_record, oracle_requests, says_itself
from kame_jax.oracle.levels import hint_level
from kame_jax.oracle.speakable import speakable

STRATEGIES = ("hint", "random", "llm")
SETTINGS = "oracle_settings.json"
OPEN_DIALOGUES = 32
"""Dialogues under way at once."""


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
    without_reply: int = 0
    """Events of the random strategy for which no fitting reply was left; they are left out."""
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

    @property
    def bounds(self) -> str:
        """Name of the hint levels' bounds."""
        return "paper" if self.rules.paper_bounds else "released"

    def description(self, model: str | None, pool: str | None) -> dict[str, Any]:
        """What `SETTINGS` holds.

        The reference leaves hashes of all texts and oracles in `oracle_raw/manifest.json` instead. Of those only the
        pool's says something that nothing else here does; a file among the oracles would be taken for a dialogue's.
        """
        return dataclasses.asdict(self) | {"model": model, "prompts": prompts.VERSION, "pool": pool}


def make_oracles(
    root: str | Path,
    job: Job,
    *,
    out: str | Path | None = None,
    answers: Answers | None = None,
    tokens: Tokens = str.split,
    pool: str | Path | None = None,
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
        tokens: of a text, for the strategy `random`.
        pool: folder of the dialogues whose replies that strategy shows (default: `root`).
        shard: (i, n) takes every n-th dialogue.
        overwrite: makes those anew that are there.
        progress, say: see `data.tokens.tokenize`.

    Raises:
        InputError: no texts there, or oracles that were made with other settings.
    """
    root = Path(root)
    texts = find_texts(root)
    if not texts:
        raise InputError(f"{root}: no dialogue in it, expected text/<id>.json")
    if job.strategy not in STRATEGIES:
        raise InputError(f"strategy {job.strategy!r}: expected one of {', '.join(STRATEGIES)}")
    replies: tuple[Reply, ...] = ()
    if job.strategy == "random":
        replies = _reply_pool(find_texts(pool or root), job, tokens)
    target = Path(out) if out else root / "oracle_raw"
    model, drawn = answers.config.model if answers else None, pool_fingerprint(replies) if replies else None
    _settle(target, job.description(model, drawn), overwrite)
    return _run(texts, job, target, answers, replies, tokens, shard, overwrite, progress, say)


def _reply_pool(texts: Sequence[Path], job: Job, tokens: Tokens) -> tuple[Reply, ...]:
    """All replies of all dialogues that can be read; those that cannot are said in their turn."""

    def dialogues() -> Iterator[tuple[str, list[Request]]]:
        for path in texts:
            with contextlib.suppress(InputError):
                yield path.stem, oracle_requests(read_words(path), interval=job.interval, rules=job.rules)

    return reply_pool(dialogues(), tokens)


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
    pool: Sequence[Reply],
    tokens: Tokens,
    shard: tuple[int, int],
    overwrite: bool,
    progress: Progress,
    say: Callable[[str], None],
) -> Report:
    report = Report()
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
                    records = await _dialogue(path, job, answers, pool, tokens, report)
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
    pool: Sequence[Reply],
    tokens: Tokens,
    report: Report,
) -> list[dict[str, Any]]:
    """The records of one dialogue."""
    words = read_words(path)
    requests = oracle_requests(words, interval=job.interval, rules=job.rules)
    if job.strategy == "random":
        records, missing = random_records(words, requests, path.stem, pool, job.seed, tokens)
        report.without_reply += missing
        for made in records:
            report.levels[hint_level(made["current_spoken_ratio"], job.bounds)] += 1
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
