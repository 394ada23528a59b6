"""Items of question sets to dialogues that can be spoken, by templates or by a language model; what cannot is refused.

B asks, A answers. Every text goes through `oracle.speakable`. A refusal has a reason, so that reasons can be counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kame_jax.make.questions import Item
from kame_jax.oracle.speakable import speakable

REASONS = (
    *("picture", "formula", "table", "code", "options", "language", "long", "no answer", "rewriting"),
    *("address", "number", "symbol"),
)
"""The last three, like "formula" and "code", may be what `oracle.speakable` could not read aloud."""

OPENINGS = (
    "",
    "Hi.",
    "Hello.",
    "Okay, next one.",
    "Here is a question for you.",
    "Can you help me with something.",
)
LISTS = ("Is it {0}?", "Would you say {0}?", "The choices are {0}.")
ANSWERS = ("It is {0}.", "The answer is {0}.", "I would say {0}.", "That is {0}.", "{0}.")
FOLLOWED = ("So the answer is {0}.", "That makes {0}.", "So it is {0}.")
UNSURE = ("Give me a moment.", "Let me think.")
_VERBS = frozenset(
    "is are was were am has have had do does did will would can could should may might must equals means makes gives "
    "it's that's there's you're".split()
)
_BEGINS = frozenset("i you he she it we they there because if so yes no".split())


class Refused(ValueError):
    """An item that cannot be spoken; its text is one of `REASONS`."""


@dataclass(frozen=True)
class Limits:
    """Most that is said at once, in words."""

    question: int = 80
    answer: int = 60
    option: int = 8
    options: int = 5


@dataclass(frozen=True)
class Line:
    """What one speaker says in a turn."""

    speaker: str
    text: str


def template_lines(item: Item, limits: Limits, seed: int = 0) -> list[Line]:
    """A dialogue by templates, drawn from (seed, item).

    Raises:
        Refused: why it cannot be spoken.
    """
    check_item(item, limits)
    key = hashlib.sha256(f"{seed}/{item.id}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(key, np.uint32))

    def draw(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    lines = []
    for number, (question, answer) in enumerate(zip(item.questions, item.answers)):
        asked = _said(question, limits.question)
        if number == 0:
            asked = f"{draw(OPENINGS)} {asked}".strip()
        if item.options:
            listed = [_said(option, limits.option).rstrip(".") for option in item.options]
            listed = [listed[i] for i in rng.permutation(len(listed))]
            asked = f"{asked} {speakable(draw(LISTS).format(_either(listed))).text}"
        lines.append(Line("B", asked))
        final = _said(answer, limits.answer).rstrip(".")
        reasoning = speakable(item.reasoning)
        explained = bool(reasoning.text) and not reasoning.refused
        explained = explained and len(reasoning.text.split()) <= limits.answer - 8
        if is_sentence(answer, final):
            reply = f"{final[:1].upper()}{final[1:]}."
        else:
            reply = draw(FOLLOWED if explained else ANSWERS).format(final)
        if explained:
            reply = f"{reasoning.text.rstrip('.')}. {reply}"
        if rng.random() < 0.15:
            reply = f"{draw(UNSURE)} {reply}"
        lines.append(Line("A", reply[:1].upper() + reply[1:]))
    return lines


def is_sentence(written: str, spoken: str) -> bool:
    """Whether an answer is a sentence by itself, so that nothing like "The answer is" may precede it."""
    words = spoken.lower().replace(",", "").rstrip(".").split()
    return (
        len(words) > 12
        or ". " in spoken
        or bool(_VERBS & set(words))
        or (len(words) > 1 and words[0] in _BEGINS)
        or (len(words) > 3 and written.rstrip()[-1:] in (".", "!"))
    )


def rewriting(item: Item, limits: Limits) -> list[dict[str, str]]:
    """The chat that asks a language model for the dialogue.

    Raises:
        Refused: why the item is not worth asking.
    """
    check_item(item, limits)
    facts = []
    for number, (question, answer) in enumerate(zip(item.questions, item.answers), 1):
        facts.append(f"Question {number}: {question}")
        if item.options:
            facts.append("Choices: " + "; ".join(item.options))
        facts.append(
            f"Correct answer {number}: {answer}" if answer else f"Answer {number}: a good one of yours"
        )
    if item.reasoning:
        facts.append(f"Why: {item.reasoning[:1500]}")
    system = (
        "You turn quiz items into short, natural telephone conversations. B is a curious caller, A a friendly expert "
        "who knows the answer."
    )
    task = (
        "Write the conversation, one line a turn, each beginning with `B: ` or `A: `, B first, turns alternating. "
        "B asks in everyday words without reading out a list; A gives the correct answer early and explains it in at "
        f"most {limits.answer} words. Spoken language only: numbers in words, no symbols, no lists, no headings."
    )
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join([*facts, "", task])}]


def parse_lines(text: str, limits: Limits) -> list[Line]:
    """The dialogue in a model's answer; a line without a speaker continues the turn before it.

    Raises:
        Refused: turns that do not alternate from B, fewer than two of them, or a turn that is too long.
    """
    # Some models leave out the tag that opens their thinking.
    text = re.sub(r"<(think|thinking)>.*?(?:</\1>|\Z)", "", text, flags=re.DOTALL)
    text = re.split(r"</think(?:ing)?>", text)[-1]
    turns: list[tuple[str, list[str]]] = []
    for part in text.splitlines():
        match = re.match(r"\s*[*_]*([AB])[*_]*\s*:[*_]*\s*(.*)", part)
        if match:
            turns.append((match[1], [match[2]]))
        elif turns and part.strip() and not re.fullmatch(r"\W*", part):
            turns[-1][1].append(part.strip())
    lines = [Line(who, _said(" ".join(said), limits.question + limits.answer)) for who, said in turns]
    if len(lines) < 2 or any(line.speaker != "BA"[i % 2] for i, line in enumerate(lines)):
        raise Refused("rewriting")
    return lines if lines[-1].speaker == "A" else lines[:-1]


def check_item(item: Item, limits: Limits) -> None:
    """Raises Refused when an item cannot be spoken in any wording."""
    texts = [*item.questions, *item.answers, *item.options]
    if item.needs_picture:
        raise Refused("picture")
    for text in texts:
        if re.search(r"```|\bdef \w+\(|\bimport \w+|#include|</?\w+>|;\s*$", text, re.MULTILINE):
            raise Refused("code")
        if len(re.findall(r"^\s*\|.*\|", text, re.MULTILINE)) > 1 or "\t" in text:
            raise Refused("table")
        if re.search(r"\\[a-zA-Z]+|\$[^$\n]*[\\^_{}][^$\n]*\$|[∑∫√∂∞≡∈⊂∀∃]|\w\^\{?\w|_\{", text):
            raise Refused("formula")
        letters = [c for c in text if c.isalpha()]
        if letters and sum(not c.isascii() for c in letters) > 0.2 * len(letters):
            raise Refused("language")
    if len(item.options) > limits.options or any(len(o.split()) > limits.option for o in item.options):
        raise Refused("options")
    if any(len(text.split()) > limits.question for text in item.questions):
        raise Refused("long")
    if any(len(text.split()) > limits.answer for text in item.answers):
        raise Refused("long")
    if not all(speakable(text).text for text in item.questions):
        raise Refused("rewriting")
    if not all(speakable(text).text for text in item.answers):
        raise Refused("no answer")


def _said(text: str, most: int) -> str:
    said = speakable(text)
    if said.refused:
        raise Refused(said.refused[0].reason)
    spoken = said.text
    if not spoken:
        raise Refused("rewriting")
    if len(spoken.split()) > most:
        raise Refused("long")
    return spoken if spoken[-1] in ".," else f"{spoken}."


def _either(options: Sequence[str]) -> str:
    """Options as they are listed aloud."""
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])}, or {options[-1]}"
