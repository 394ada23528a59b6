"""Who answers: a language model behind an endpoint, or the user's own questions and answers.

A back end turns what is known of a conversation into an answer that streams, piece by piece.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kame_jax.config import LLMConfig, TandemConfig
from kame_jax.errors import InputError
from kame_jax.files import read_text
from kame_jax.llm import Client, Message, Usage


@dataclass(frozen=True)
class Turn:
    """What was said, by whom, and when it began."""

    role: str
    """"user" or "assistant"."""
    text: str
    time: float
    """Seconds since the conversation began."""


@dataclass(frozen=True)
class Question:
    """What is known when an answer is asked for."""

    turns: tuple[Turn, ...]
    """The conversation so far in the order of time, including the user's current turn."""
    partial: str
    """The user's current turn, or the one that has just ended."""
    final: bool
    """The user has finished."""
    time: float
    """End of the last word known, in seconds since the conversation began."""


class Backend(Protocol):
    """Answers questions."""

    immediate: bool
    """Answers at once without waiting: a conversation with it does not depend on the machine's speed."""

    def ask(self, question: Question) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """The answer's pieces; leaving the block closes what is open. An empty answer means that there is none."""
        ...

    async def close(self) -> None:
        """Ends all connections."""
        ...

    def usage(self) -> tuple[Usage, float]:
        """What was asked so far, and what it cost."""
        ...


OPENING = "(The conversation begins.)"
"""Stands for the user where the assistant spoke first."""


class LanguageModel:
    """A language model that foresees the reply; a larger one may take over when the user has finished.

    Args:
        config: `llm` must be set.

    Raises:
        InputError: no `llm`, or what `Client` raises.
    """

    immediate = False

    def __init__(self, config: TandemConfig) -> None:
        if config.llm is None:
            raise InputError("this back end needs a language model: set llm.model and llm.base_url")
        self._config = config
        self._small = self._large = Client(config.llm, config.seed)
        if config.final_llm is not None:
            self._large = Client(config.final_llm, config.seed + 1)

    def ask(self, question: Question) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """See `Backend`."""
        client = self._large if question.final else self._small
        return client.stream(messages(question, self._config, client.config))

    async def close(self) -> None:
        """See `Backend`."""
        for client in {self._small, self._large}:
            await client.close()

    def usage(self) -> tuple[Usage, float]:
        """See `Backend`."""
        clients = {self._small, self._large}
        return sum((c.usage for c in clients), Usage()), sum(c.cost for c in clients)


def messages(question: Question, config: TandemConfig, llm: LLMConfig) -> list[Message]:
    """The chat that a language model gets: who said what in the order of time, cut from the front.

    User and assistant take turns and the user has the first and the last one, since many servers refuse other chats.
    What the assistant has begun to say in answer to the turn that is under way is therefore put in the system
    message, unless the server continues a last message (`prefill`).
    """
    turns = [(turn.role, turn.text) for turn in question.turns if turn.text]
    while len(turns) > 1 and sum(len(text) for _, text in turns) > config.context_chars:
        turns.pop(0)
    chat: list[dict[str, str]] = []
    for role, text in turns:
        text = text[-config.context_chars :]
        if chat and chat[-1]["role"] == role:
            chat[-1]["content"] += f" {text}"
        else:
            chat.append({"role": role, "content": text})
    state = "The user has finished." if question.final else "The user is still speaking."
    if chat and chat[-1]["role"] == "assistant":
        if llm.prefill:
            state += " You have begun to say your last line aloud: go on from there without repeating it."
        else:
            begun = chat.pop()["content"]
            state += f' You have begun to say aloud: "{begun}" Go on from there without repeating it.'
    if not chat or chat[0]["role"] == "assistant":
        chat.insert(0, {"role": "user", "content": OPENING})
    system = f"{config.system} {state}"
    if llm.system_role:
        return [{"role": "system", "content": system}, *chat]
    return [{"role": "user", "content": f"{system}\n\n{chat[0]['content']}"}, *chat[1:]]


_STOP_WORDS = frozenset(
    "a an and are as at be by can could did do does for from had has have he her his how i if in is it its me my of on "
    "or our she so that the their them then there they this to us was we were what when where which who why will with "
    "would you your please".split()
)


def content_words(text: str) -> list[str]:
    """Lower-case words of `text` without those that every sentence has; all of them where no others are left."""
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    return [word for word in words if word not in _STOP_WORDS] or words


class Embedded:
    """Answers from a list of questions and answers, without a network: the one whose question fits best.

    Entries are ranked with BM25 over the words heard so far, with function words counting half; a word that is still
    being heard may be the beginning of one. An entry of which less than `min_score` was heard is not used.

    Args:
        entries: (question, answer) pairs.
        config: `delay` and `min_score` are read.

    Raises:
        InputError: no entries.
    """

    immediate = True

    def __init__(self, entries: Sequence[tuple[str, str]], config: TandemConfig = TandemConfig()) -> None:
        if not entries:
            raise InputError("an embedded back end needs at least one question and its answer")
        self._entries, self._config = list(entries), config
        counts = [Counter(_all_words(question)) for question, _ in entries]
        lengths = [sum(words.values()) for words in counts]
        mean = sum(lengths) / len(lengths) or 1.0
        seen = Counter(word for words in counts for word in words)
        # word -> what it adds to the score of each entry that has it
        self._gains: dict[str, list[tuple[int, float]]] = {word: [] for word in seen}
        self._whole = [0.0] * len(entries)
        for index, (words, length) in enumerate(zip(counts, lengths)):
            penalty = 1.5 * (0.25 + 0.75 * length / mean)
            for word, count in words.items():
                weight = math.log(1 + (len(entries) - seen[word] + 0.5) / (seen[word] + 0.5))
                weight *= 0.5 if word in _STOP_WORDS else 1.0
                gain = weight * count * 2.5 / (count + penalty)
                self._gains[word].append((index, gain))
                self._whole[index] += gain * count
        self._vocabulary = sorted(seen)
        self._asked = 0

    @classmethod
    def read(cls, path: str | Path, config: TandemConfig = TandemConfig()) -> Embedded:
        """From JSON lines of {"question", "answer"}, or a JSON object of question: answer.

        Raises:
            InputError: everything that is wrong with the file, in one list.
        """
        text = read_text(path, "questions and answers in JSON")
        entries, problems = [], []
        for number, item in enumerate(_items(text), 1):
            pair = (item.get("question"), item.get("answer")) if isinstance(item, Mapping) else (None, None)
            if all(isinstance(value, str) and value.strip() for value in pair):
                entries.append((str(pair[0]), str(pair[1])))
            else:
                problems.append(f'entry {number}: expected {{"question": "...", "answer": "..."}}')
        if problems:
            raise InputError(f"{path}: {len(problems)} entries are not a question with its answer", problems)
        return cls(entries, config)

    def best(self, heard: str) -> tuple[float, str]:
        """The best entry's answer, and its score as a share of what its own question would score."""
        scores: dict[int, float] = {}
        words = _all_words(heard)
        for number, word in enumerate(words):
            known: set[int] = set()
            for found in self._meant(word, last=number == len(words) - 1):
                for index, gain in self._gains[found]:
                    if index not in known:
                        known.add(index)
                        scores[index] = scores.get(index, 0.0) + gain
        index = min(scores, key=lambda index: (-scores[index], index), default=0)
        return scores.get(index, 0.0) / max(self._whole[index], 1e-9), self._entries[index][1]

    def _meant(self, word: str, last: bool) -> list[str]:
        """The words that `word` may be: itself, and while it is still being heard those that begin with it."""
        if not last or len(word) <= 2:
            return [word] if word in self._gains else []
        first = bisect.bisect_left(self._vocabulary, word)
        return list(
            itertools.takewhile(lambda w: w.startswith(word), itertools.islice(self._vocabulary, first, None))
        )

    @contextlib.asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[AsyncIterator[str]]:
        """See `Backend`."""
        self._asked += 1
        score, answer = self.best(question.partial)
        yield _words(answer if score >= self._config.min_score else "")

    async def close(self) -> None:
        """See `Backend`."""

    def usage(self) -> tuple[Usage, float]:
        """See `Backend`."""
        return Usage(requests=self._asked, tries=self._asked), 0.0


async def _words(text: str) -> AsyncIterator[str]:
    for word in re.findall(r"\S+\s*", text):
        yield word
        await asyncio.sleep(0)


def _all_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def _items(text: str) -> list[object]:
    """The entries of a file: an object, a list, or a line each."""
    try:
        whole = json.loads(text)
    except ValueError:
        items: list[object] = []
        for line in filter(str.strip, text.splitlines()):
            try:
                items.append(json.loads(line))
            except ValueError:
                items.append(None)
        return items
    if isinstance(whole, Mapping) and not {"question", "answer"} <= set(whole):
        return [{"question": question, "answer": answer} for question, answer in whole.items()]
    return list(whole) if isinstance(whole, list) else [whole]


def json_line(event: Mapping[str, object]) -> str:
    """One line of a conversation's log."""
    return json.dumps(event, ensure_ascii=False)
