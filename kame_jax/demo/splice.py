"""Many dialogues out of few: exchanges of the bundled dialogues in new orders, with other recordings of fact words.

A model that sees the same few hundred answers again and again learns them by heart before it learns to listen to the
oracle. Here the frames of a fact word are replaced by those of another recorded fact word, codes with the token, the
oracle of that exchange says the new one, and what comes later is shifted. So facts come in ever new combinations
at ever new times, while every frame stays a recorded one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax.data.dialogue import Dialogue
from kame_jax.data.events import OracleEvents, pack_events
from kame_jax.data.records import Record
from kame_jax.demo.dialogues import fact_words, sample_entries
from kame_jax.errors import InputError
from kame_jax.streams import FRAME_RATE

TRIES = 20
"""Draws of an exchange's words until the oracle of a revised answer has a time to change its mind."""


@dataclass(frozen=True)
class Fact:
    """A fact word within an exchange."""

    slot: str
    token: int
    word: int
    """Which word of the answer it is, from 0."""
    start: int
    """Frame of its token."""
    stop: int
    """Frame after its sound."""


@dataclass(frozen=True)
class Exchange:
    """A question of B and the answer of A: from the end of the previous answer to the end of this one."""

    asked: np.ndarray
    """int32 `[1 + codebooks, frames]` of B, text first."""
    said: np.ndarray
    """int32 `[1 + codebooks, frames]` of A."""
    events: OracleEvents
    """About what A says; frames from the start of the exchange."""
    facts: tuple[Fact, ...]
    held_out: frozenset[int]
    """Tokens that never answer this question in training."""

    @property
    def revised(self) -> int:
        """The first fact that follows an oracle's change of mind; 0 where the oracle did not change it."""
        if not len(self.events):
            return 0
        final = set(self.events.prediction(len(self.events) - 1).tolist())
        if not final:
            return 0
        return next((i for i, fact in enumerate(self.facts) if fact.token in final), 0)


def find_exchanges(
    records: Sequence[Record],
    dialogues: Sequence[Dialogue],
    tokenizer: SentencePieceProcessor,
    *,
    pad_id: int = 3,
    end_pad_id: int = 0,
    frame_rate: float = FRAME_RATE,
) -> list[Exchange]:
    """The exchanges of bundled dialogues.

    Args:
        records: of the dialogues.
        dialogues: what the records were made of, for the times of the words; any order, further ones are ignored.
        tokenizer: the one the records were made with; a word of an answer is one piece of it.
        pad_id, end_pad_id: the text ids without a word.
        frame_rate: of the records, in Hz.

    Raises:
        InputError: a record's text does not hold the words that were spoken.
    """

    def token(word: str) -> int:
        return int(tokenizer.encode(word)[0])

    slots = {word: slot for slot, words in fact_words().items() for word in words}
    entries = {entry.id: entry for entry in sample_entries()}
    held_out = {
        entry.turns[0].topic: frozenset(
            token(w) for answer in (entry.answer, entry.alternative) if answer for w in answer.facts
        )
        for entry in sample_entries("heldout")
    }
    spoken = {dialogue.id: dialogue.words for dialogue in dialogues}
    found = []
    for record in records:
        words = [word for word in spoken[record.id] if word.speaker == "A"]
        text, events = record.tokens["A"][0], record.events["A"]
        starts = np.flatnonzero((text != pad_id) & (text != end_pad_id))
        if text[starts].tolist() != [token(word.word) for word in words]:
            raise InputError(f"record {record.id}: its text is not one token for each word that was spoken")
        first, begin = 0, 0
        for turn in entries[record.id].turns:
            last = first + len(turn.answer.text.split())
            end = min(math.ceil(words[last - 1].end * frame_rate), record.frames)
            edges = [int(start) - begin for start in starts[first:last]] + [end - begin]
            facts = tuple(
                Fact(slots[word.word], token(word.word), i, edges[i], edges[i + 1])
                for i, word in enumerate(words[first:last])
                if word.word in turn.answer.facts
            )
            mine = np.flatnonzero((events.frame_pos >= begin) & (events.frame_pos < end))
            found.append(
                Exchange(
                    record.tokens["B"][:, begin:end],
                    record.tokens["A"][:, begin:end],
                    events.select(mine, -begin),
                    facts,
                    held_out[turn.topic],
                )
            )
            first, begin = last, end
    return found


def splice(
    exchanges: Sequence[Exchange],
    count: int,
    per_dialogue: int,
    rng: np.random.Generator,
    silent: tuple[int, int] = (3, 0),
) -> Iterator[Record]:
    """New dialogues: exchanges in random order, with newly drawn fact words.

    Args:
        exchanges: of `find_exchanges`; each is used once before one is used again.
        count: of dialogues.
        per_dialogue: exchanges of each.
        rng: what is drawn.
        silent: the text ids of a frame within a word, and of the one before the next word.
    """
    recorded: dict[str, dict[int, list[np.ndarray]]] = {}
    for exchange in exchanges:
        for fact in exchange.facts:
            clips = recorded.setdefault(fact.slot, {}).setdefault(fact.token, [])
            clips.append(exchange.said[1:, fact.start : fact.stop])
    order: list[int] = []
    for number in range(count):
        parts = []
        for _ in range(per_dialogue):
            order = order or rng.permutation(len(exchanges)).tolist()
            parts.append(_reworded(exchanges[order.pop()], recorded, rng, silent))
        yield _joined(f"spliced-{number:05d}", parts)


def _reworded(
    exchange: Exchange,
    recorded: Mapping[str, Mapping[int, list[np.ndarray]]],
    rng: np.random.Generator,
    silent: tuple[int, int],
) -> Exchange:
    """The exchange with other fact words; unchanged where none leave enough time for a change of mind."""
    for _ in range(TRIES):
        words, clips = [], []
        for fact in exchange.facts:
            words.append(int(rng.choice(sorted(recorded[fact.slot].keys() - exchange.held_out))))
            recordings = recorded[fact.slot][words[-1]]
            clips.append(recordings[rng.integers(len(recordings))])
        spoken = _with_clips(exchange, words, clips, silent)
        if not (change := exchange.revised):
            return spoken
        before, after = spoken.facts[change - 1], spoken.facts[change]
        window = range(before.start - before.word - 1, after.start - after.word - 2)
        if window:
            frames = spoken.events.frame_pos.copy()
            frames[-1] = rng.integers(window.start, window.stop)
            return replace(spoken, events=replace(spoken.events, frame_pos=frames))
    return exchange


def _with_clips(
    exchange: Exchange, words: Sequence[int], clips: Sequence[np.ndarray], silent: tuple[int, int]
) -> Exchange:
    """The exchange with these tokens and codes for its facts, and everything after each of them shifted."""
    asked, said, facts, at = [], [], [], 0
    moved = np.arange(exchange.said.shape[1])
    """Frame before -> frame after."""
    grown = 0
    for fact, word, clip in zip(exchange.facts, words, clips):
        old, new = fact.stop - fact.start, clip.shape[1]
        text = np.full(new, silent[0], np.int32)
        if old > 1:
            text[-1] = exchange.said[0, fact.stop - 1]
        elif fact.stop < exchange.said.shape[1]:  # the next word followed at once, now it follows padding
            text[-1] = silent[1]
        text[0] = word
        asked += [exchange.asked[:, at : fact.start]]
        asked += [exchange.asked[:, fact.start + np.minimum(np.arange(new), old - 1)]]
        said += [exchange.said[:, at : fact.start], np.concatenate([text[None], clip])]
        start = fact.start + grown
        moved[fact.start : fact.stop] = start + np.minimum(np.arange(old), new - 1)
        grown, at = grown + new - old, fact.stop
        moved[at:] = np.arange(at, len(moved)) + grown
        facts.append(replace(fact, token=word, start=start, stop=start + new))
    swap: dict[int, int] = {}
    for fact, word in zip(exchange.facts, words):
        swap |= {fact.token: word, word: fact.token}
    events = replace(
        exchange.events,
        frame_pos=moved[exchange.events.frame_pos].astype(np.int32),
        pred_values=_swapped(exchange.events.pred_values, swap),
        hint_values=_swapped(exchange.events.hint_values, swap),
    )
    return Exchange(
        np.concatenate([*asked, exchange.asked[:, at:]], axis=1),
        np.concatenate([*said, exchange.said[:, at:]], axis=1),
        events,
        tuple(facts),
        exchange.held_out,
    )


def _swapped(tokens: np.ndarray, swap: Mapping[int, int]) -> np.ndarray:
    return np.array([swap.get(int(token), int(token)) for token in tokens], np.int32)


def _joined(name: str, parts: Sequence[Exchange]) -> Record:
    """Exchanges one after the other; the oracle of speaker B is left out."""
    begins = np.cumsum([0, *(part.said.shape[1] for part in parts)])
    sets = [part.events.select(np.arange(len(part.events)), int(at)) for part, at in zip(parts, begins)]
    each = [(events, i) for events in sets for i in range(len(events))]
    events = pack_events(
        np.concatenate([e.frame_pos for e in sets]),
        np.concatenate([e.ratio for e in sets]),
        np.concatenate([e.skip_forbid for e in sets]),
        [e.prediction(i) for e, i in each],
        [e.hint(i) for e, i in each],
    )
    tokens = {
        "A": np.concatenate([part.said for part in parts], axis=1),
        "B": np.concatenate([part.asked for part in parts], axis=1),
    }
    return Record(name, tokens, {"A": events, "B": pack_events([], [], [], [], [])})
