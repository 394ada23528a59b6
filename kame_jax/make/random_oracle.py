"""Oracles without a language model: replies of other dialogues first, then the true one.

Semantics: `tools/random_oracle.py` of SakanaAI/kame_finetune (`--strategy random` of its later versions), its draws in
its order. When a question is asked, and which, is `make.simulate`'s; files are `make.oracles`'.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kame_jax.data.words import Word
from kame_jax.errors import InputError
from kame_jax.make.simulate import Request, oracle_record

SHORTEST, LONGEST = 0.5, 2.0
"""Length of a foreign reply, relative to the true one."""

Tokens = Callable[[str], Sequence[Any]]
"""The tokens (or words) of a text: replies are compared and measured by them."""


@dataclass(frozen=True)
class Reply:
    """A reply that may be shown in dialogues other than its own."""

    text: str
    tokens: tuple[Any, ...]
    owners: frozenset[str]
    """The dialogues in which it occurs."""


@dataclass(frozen=True)
class _Group:
    """The events that ask for one reply."""

    events: list[int]
    last: int | None
    """The one that shows the true reply: the last at a hint level above 0."""
    text: str


def _groups(requests: Sequence[Request]) -> dict[tuple[int, str], _Group]:
    places: dict[tuple[int, str], list[int]] = {}
    for i, request in enumerate(requests):
        if request.next_speaker != request.speaker:
            places.setdefault((request.target, request.next_speaker), []).append(i)
    groups = {}
    for key, events in places.items():
        hinted = [i for i in events if requests[i].level > 0 and requests[i].hint.strip()]
        last = hinted[-1] if hinted else None
        groups[key] = _Group(events, last, requests[events[-1] if last is None else last].hint)
    return groups


def reply_pool(dialogues: Iterable[tuple[str, Sequence[Request]]], tokens: Tokens) -> tuple[Reply, ...]:
    """Every reply of the dialogues once, in the order of its tokens.

    Args:
        dialogues: name and requests of each.
        tokens: of a text.

    Raises:
        InputError: replies of fewer than two dialogues.
    """
    texts: dict[tuple[Any, ...], str] = {}
    owners: dict[tuple[Any, ...], set[str]] = {}
    for name, requests in dialogues:
        for group in _groups(requests).values():
            key = tuple(tokens(group.text))
            if key:
                texts[key] = min(texts.get(key, group.text), group.text)
                owners.setdefault(key, set()).add(name)
    if len(set().union(*owners.values())) < 2:
        raise InputError(
            "the random strategy takes replies from other dialogues: expected at least two with replies"
        )
    return tuple(Reply(texts[key], key, frozenset(owners[key])) for key in sorted(texts))


def pool_fingerprint(pool: Sequence[Reply]) -> str:
    """A hash of what may be shown: a job that continued with another pool would draw other replies."""
    facts = [[reply.text, list(reply.tokens), sorted(reply.owners)] for reply in pool]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def random_records(
    words: Sequence[Word],
    requests: Sequence[Request],
    name: str,
    pool: Sequence[Reply],
    seed: int,
    tokens: Tokens,
) -> tuple[list[dict[str, Any]], int]:
    """The records of one dialogue, each of which says by `use_hint` which of its texts is shown.

    The last event of a reply at a hint level above 0 shows the hint; the others show replies of other dialogues, half
    to twice as long, none twice, drawn from (seed, dialogue, place of the reply, speaker). While a speaker says the
    true reply, the oracle keeps up with them.

    Args:
        words: of the dialogue; what is said in it is never drawn.
        requests: of the dialogue.
        name: the dialogue's.
        pool: what may be drawn.
        seed: of the draws.
        tokens: of a text.

    Returns:
        The records, and the events left out because no suitable reply remained; the reference stops there.
    """
    said = {
        tuple(tokens(" ".join(w.word for w in turn)))
        for _, turn in itertools.groupby(words, key=lambda w: w.speaker)
    }
    said |= {tuple(tokens(text)) for text in {r.hint for r in requests}}
    shown: dict[int, str | None] = {
        i: None for i, request in enumerate(requests) if request.next_speaker == request.speaker
    }
    missing = 0
    for (target, speaker), group in _groups(requests).items():
        if group.last is not None:
            shown[group.last] = None
        events = [i for i in group.events if i != group.last]
        key = f"{seed}\0{name}\0{target}\0{speaker}".encode()
        rng = random.Random(int.from_bytes(hashlib.sha256(key).digest(), "big"))
        replies = _drawn(pool, len(events), name, said, len(tokens(group.text)), rng)
        shown.update(zip(events, replies))
        missing += len(events) - len(replies)
    records = []
    for i, text in sorted(shown.items()):
        record = oracle_record(requests[i], text or "", use_hint=text is None)
        records += [record] if record else []
    return records, missing


def _drawn(
    pool: Sequence[Reply],
    count: int,
    name: str,
    said: set[tuple[Any, ...]],
    length: int,
    rng: random.Random,
) -> list[str]:
    """Texts of this many replies, or of all that fit."""

    def fits(i: int) -> bool:
        reply = pool[i]
        return (
            name not in reply.owners
            and reply.tokens not in said
            and SHORTEST * length <= len(reply.tokens) <= LONGEST * length
        )

    # Most draws of a large pool hit; the whole pool is searched only when many miss.
    chosen: dict[int, None] = {}
    for _ in range(max(1000, 20 * count)):
        if len(chosen) == count or not pool:
            break
        i = rng.randrange(len(pool))
        if i not in chosen and fits(i):
            chosen[i] = None
    if len(chosen) < count:
        left = [i for i in range(len(pool)) if i not in chosen and fits(i)]
        chosen |= dict.fromkeys(rng.sample(left, min(count - len(chosen), len(left))))
    return [pool[i].text for i in chosen]
