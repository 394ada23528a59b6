"""Simulated oracles for a folder of dialogues: `oracle_raw/<id>.json` for each, by one of three strategies.

`hint` reveals the true reply word by word, `random` (`make.random_oracle`) shows other dialogues' replies and then the
true one, `llm` asks a language model. What is asked, and when, is `make.simulate`'s; how questions are sent, cached and
paid for is `make.answers`'.
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
from kame_jax.files import make_folder, write_json
from kame_jax.make import prompts
from kame_jax.make.answers import Answers
from kame_jax.make.job import Job, Outcome, Progress, Shard, settle
from kame_jax.make.random_oracle import Reply, Tokens, pool_fingerprint, random_records, reply_pool
from kame_jax.make.rules import Rules
from kame_jax.make.simulate import HintStrategy, Request, oracle_record, oracle_requests, says_itself
from kame_jax.oracle.levels import hint_level
from kame_jax.oracle.speakable import speakable

STRATEGIES = ("hint", "random", "llm")
SETTINGS = "oracle_settings.json"
OPEN_DIALOGUES = 32
"""Dialogues processed at once."""


@dataclass
class OraclesMade(Outcome):
    """What became of the dialogues."""

    events: int = 0
    levels: list[int] = field(default_factory=lambda: [0] * 6)
    """Events by hint level."""
    empty: int = 0
    """Answers of which nothing, or not everything, could be spoken; they make no event."""
    without_reply: int = 0
    """Events of the random strategy for which no suitable reply remained; they are left out."""
    changes: Counter[str] = field(default_factory=Counter)
    """What was changed to make answers speakable, by kind (`oracle.speakable.KINDS`)."""


@dataclass(frozen=True)
class OracleRecipe:
    """What is asked about every dialogue."""

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
        pool's is not recorded elsewhere here; a file among the oracles would be taken for a dialogue's.
        """
        return dataclasses.asdict(self) | {"model": model, "prompts": prompts.VERSION, "pool": pool}


def make_oracles(
    root: str | Path,
    recipe: OracleRecipe,
    *,
    out: str | Path | None = None,
    answers: Answers | None = None,
    tokens: Tokens = str.split,
    pool: str | Path | None = None,
    shard: Shard = (0, 1),
    overwrite: bool = False,
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> Awaitable[OraclesMade]:
    """Writes the oracle of every dialogue that has none yet; each file appears complete or not at all.

    Args:
        root: folder with `text/`.
        recipe: what is asked.
        out: folder of the files (default: `<root>/oracle_raw`).
        answers: the language model, for the strategy `llm`.
        tokens: of a text, for the strategy `random`.
        pool: folder of the dialogues whose replies that strategy shows (default: `root`).
        shard: which dialogues.
        overwrite: makes existing ones again.
        progress, say: see `make.job.Job`.

    Raises:
        InputError: there are no texts, or the oracles were made with other settings.
    """
    root = Path(root)
    texts = find_texts(root)
    if not texts:
        raise InputError(f"{root}: no dialogue in it, expected text/<id>.json")
    if recipe.strategy not in STRATEGIES:
        raise InputError(f"strategy {recipe.strategy!r}: expected one of {', '.join(STRATEGIES)}")
    replies: tuple[Reply, ...] = ()
    if recipe.strategy == "random":
        replies = _reply_pool(find_texts(pool or root), recipe, tokens)
    target = Path(out) if out else root / "oracle_raw"
    model, drawn = answers.config.model if answers else None, pool_fingerprint(replies) if replies else None
    _settle(target, recipe.description(model, drawn), overwrite)
    return _run(texts, recipe, target, answers, replies, tokens, shard, overwrite, progress, say)


def _reply_pool(texts: Sequence[Path], recipe: OracleRecipe, tokens: Tokens) -> tuple[Reply, ...]:
    """All replies of all dialogues that can be read; those that cannot are reported when their turn comes."""

    def dialogues() -> Iterator[tuple[str, list[Request]]]:
        for path in texts:
            with contextlib.suppress(InputError):
                yield (
                    path.stem,
                    oracle_requests(read_words(path), interval=recipe.interval, rules=recipe.rules),
                )

    return reply_pool(dialogues(), tokens)


def _settle(target: Path, description: dict[str, Any], overwrite: bool) -> None:
    make_folder(target)
    file = target.parent / (SETTINGS if target.name == "oracle_raw" else f"{target.name}_settings.json")
    if overwrite:
        write_json(file, description)
        return
    if not file.is_file() and any(target.glob("*.json")):
        raise InputError(f"{target}: holds oracles that this command did not make; --overwrite replaces them")
    complaint = f"{target}: its oracles were made with other settings; --overwrite makes them again"
    settle(file, description, complaint)


async def _run(
    texts: Sequence[Path],
    recipe: OracleRecipe,
    target: Path,
    answers: Answers | None,
    pool: Sequence[Reply],
    tokens: Tokens,
    shard: Shard,
    overwrite: bool,
    progress: Progress,
    say: Callable[[str], None],
) -> OraclesMade:
    outcome = OraclesMade()
    mine = texts[shard[0] :: shard[1]]
    job = Job(outcome, len(mine), progress=progress, say=say)
    places = asyncio.Semaphore(OPEN_DIALOGUES)

    async def one(number: int, path: Path) -> None:
        async with places:
            if outcome.stopped:
                return
            with job.guard(path.stem):
                if (target / path.name).is_file() and not overwrite:
                    outcome.kept += 1
                else:
                    records = await _dialogue(path, recipe, answers, pool, tokens, outcome)
                    write_json(target / path.name, records)
                    outcome.made += 1
            job.advance(text=answers.status.text(number, len(mine)) if answers else "")

    await asyncio.gather(*(one(number, path) for number, path in enumerate(mine, 1)))
    return outcome


async def _dialogue(
    path: Path,
    recipe: OracleRecipe,
    answers: Answers | None,
    pool: Sequence[Reply],
    tokens: Tokens,
    outcome: OraclesMade,
) -> list[dict[str, Any]]:
    """The records of one dialogue."""
    words = read_words(path)
    requests = oracle_requests(words, interval=recipe.interval, rules=recipe.rules)
    if recipe.strategy == "random":
        records, missing = random_records(words, requests, path.stem, pool, recipe.seed, tokens)
        outcome.without_reply += missing
        for made in records:
            outcome.levels[hint_level(made["current_spoken_ratio"], recipe.bounds)] += 1
    else:
        said = await asyncio.gather(
            *(_answer(request, recipe, answers) for request in requests), return_exceptions=True
        )
        for item in said:
            if isinstance(item, BaseException):
                raise item
        records = []
        for request, text in zip(requests, said):
            assert isinstance(text, str)
            if recipe.normalise:
                spoken = speakable(text)
                outcome.changes.update(spoken.changes)
                whole = "" if spoken.refused else spoken.text
                outcome.empty += bool(text.strip()) and not whole
                text = whole
            record = oracle_record(request, text)
            if record is not None:
                records.append(record)
                outcome.levels[request.level] += 1
    outcome.events += len(records)
    return records


async def _answer(request: Request, recipe: OracleRecipe, answers: Answers | None) -> str:
    if says_itself(request, recipe.rules):
        return request.hint
    if recipe.strategy == "hint" or answers is None:
        return HintStrategy()(request)
    return await answers.ask(prompts.messages(request, recipe.context_chars))
