"""The dialogues that come with the package, and how an answer to them is scored.

How they were made and what they hold: see `kame_jax/assets/dialogues/README.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kame_jax.assets.dialogues as assets
from kame_jax.oracle.text import TOKENIZER_NAME

ROOT = Path(assets.__file__).parent
"""Folder of the bundled dialogues, in the layout that `data.dialogue` reads."""
TOKENIZER = ROOT / TOKENIZER_NAME
"""The bundled model's tokenizer."""


@dataclass(frozen=True)
class Answer:
    """What an oracle says, and the words in it that only the oracle can know."""

    text: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Turn:
    """A question of speaker B and the answer of speaker A."""

    form: str
    """"plain", "revised" (the oracle changes its mind while A speaks) or "unknown" (no oracle comes)."""
    topic: str
    """Kind of question and what it is about; its wording varies."""
    question: str
    answer: Answer
    """What A says."""
    alternative: Answer | None
    """Another answer of the same form with three other facts (held-out dialogues)."""


@dataclass(frozen=True)
class SampleEntry:
    """One bundled dialogue, from the manifest."""

    id: str
    split: str
    """"train" or "heldout"."""
    turns: tuple[Turn, ...]
    """Four in training, one held out."""

    @property
    def question(self) -> str:
        """Of the first turn, like the next two: a held-out dialogue has no other turn."""
        return self.turns[0].question

    @property
    def answer(self) -> Answer:
        """What A says in the first turn."""
        return self.turns[0].answer

    @property
    def alternative(self) -> Answer | None:
        """Other facts for the first turn's answer; None in training."""
        return self.turns[0].alternative


def sample_entries(split: str | None = None) -> list[SampleEntry]:
    """The bundled dialogues, or those of one split ("train", "heldout")."""
    manifest = json.loads((ROOT / "manifest.json").read_text(encoding="utf-8"))
    entries = [
        SampleEntry(item["id"], item["split"], tuple(_turn(turn) for turn in item["turns"]))
        for item in manifest["dialogues"]
    ]
    return [e for e in entries if split is None or e.split == split]


def _turn(item: dict[str, Any]) -> Turn:
    other = item.get("alternative")
    return Turn(
        item["form"],
        item["topic"],
        item["question"],
        Answer(item["answer"], tuple(item["facts"])),
        Answer(other["answer"], tuple(other["facts"])) if other else None,
    )


def fact_words() -> dict[str, tuple[str, ...]]:
    """All words that answers are drawn from, by slot."""
    manifest = json.loads((ROOT / "manifest.json").read_text(encoding="utf-8"))
    return {slot: tuple(words) for slot, words in manifest["facts"].items()}


def recall(facts: Sequence[str], said: str) -> float:
    """Share of `facts` that are words of what was said, in [0, 1]; each spoken word counts for one fact.

    Raises:
        ValueError: there are no facts to look for.
    """
    if not facts:
        raise ValueError("no fact words to look for")
    words = said.lower().split()
    found = 0
    for fact in facts:
        if fact.lower() in words:
            words.remove(fact.lower())
            found += 1
    return found / len(facts)


def mean_recall(pairs: Iterable[tuple[Sequence[str], str]]) -> float:
    """Recall over all (facts, words said) pairs together: facts found over facts looked for."""
    pairs = list(pairs)
    return sum(recall(facts, said) * len(facts) for facts, said in pairs) / sum(
        len(facts) for facts, _ in pairs
    )
