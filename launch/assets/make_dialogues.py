"""Makes the bundled sample: spoken dialogues with answers that only the oracle knows, and their tokenizer.

Needs the shared library of espeak-ng 1.51 (the speech and the exact word times come from it); nothing else here
does. Same seed and same library versions give the same bytes; the bundled sound was made when only B set the voice,
not every sentence, which moves espeak-ng's noise. Run: python launch/assets/make_dialogues.py --out FOLDER
"""

from __future__ import annotations

import argparse
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from speech import RATE, Speakers, write_opus

from kame_jax.data.words import CHANNELS, Word, words_to_json
from kame_jax.demo.dialogues import ROOT
from kame_jax.make.simulate import Request, simulate_oracle
from kame_jax.oracle.levels import hint_level
from kame_jax.streams import FRAME_SECONDS

SEED = 20260
TICK = 0.5
"""Seconds between two oracle requests."""
EXCHANGES = 4
"""Questions of a training dialogue; a held-out one has one."""
PER_QUESTION = 11
"""Times each question is asked in training."""
REVISED, UNKNOWN = 84, 16
HELD_OUT_WORDS = 2
"""Fact words of each slot that never go with a question in training."""

SLOTS = {
    "name": "Martha Oliver Sofia Victor Emily Daniel Laura Henry".split(),
    "city": "Rome Tokyo Paris Boston Cairo Madrid Oslo Lima".split(),
    "colour": "red green blue yellow purple silver orange brown".split(),
}
THINGS = "parcel key coat lamp ticket violin".split()
KINDS = {
    "who": (
        ("Who has the {thing}", "Who took the {thing}", "Tell me who has my {thing}"),
        "{name} from {city} in {colour}",
    ),
    "where": (
        ("Where is the {thing}", "Where did my {thing} go", "Tell me where the {thing} is"),
        "In {city} with {name} in {colour}",
    ),
    "which": (
        ("Which one is the {thing}", "Which {thing} is mine", "Tell me which {thing} came"),
        "The {colour} one with {name} in {city}",
    ),
    "how": (
        ("How did the {thing} come", "How will the {thing} get here", "Tell me how my {thing} went"),
        "From {city} in {colour} with {name}",
    ),
}
UNKNOWN_ANSWERS = ("Nobody told me", "Sorry nobody told me")


@dataclass(frozen=True)
class Question:
    """One question (kind and thing), and the fact words kept for its held-out dialogue."""

    kind: str
    thing: str
    held_out: dict[str, tuple[str, ...]]

    @property
    def slots(self) -> list[str]:
        """Slots of the answer, in its order."""
        return [w[1:-1] for w in KINDS[self.kind][1].split() if w[0] == "{"]

    def facts(self, rng: random.Random, *, held_out: bool = False, avoid: Sequence[str] = ()) -> list[str]:
        """One fact word per slot of the answer, from the training words or from the held-out ones."""
        drawn = []
        for slot in self.slots:
            words = [w for w in SLOTS[slot] if (w in self.held_out[slot]) == held_out and w not in avoid]
            drawn.append(rng.choice(words))
        return drawn

    def answer(self, facts: Sequence[str]) -> str:
        """The answer with these facts."""
        return KINDS[self.kind][1].format(**dict(zip(self.slots, facts, strict=True)))


@dataclass(frozen=True)
class Exchange:
    """A question and its answer within a dialogue; times in seconds from the dialogue's start."""

    question: Question
    form: str
    """"plain", "revised" (the oracle changes its mind while A speaks) or "unknown" (no oracle comes)."""
    asked: str
    said: str
    facts: tuple[str, ...]
    """What A says, slot by slot."""
    first: tuple[str, ...]
    """What the oracle says first: the same, unless revised."""
    other: tuple[str, ...]
    """Other facts: what a revised oracle says in the end, or what a test may let it say."""
    window: range
    """Frames in which the oracle of a revised exchange may change its mind."""
    words: tuple[Word, ...]
    clips: tuple[tuple[str, int, np.ndarray], ...]
    """Speaker, first sample and samples."""

    def guess(self, request: Request, rng: random.Random) -> str:
        """The oracle of the sample: silent at level 0, then with more and more facts right, the truth at level 5."""
        level = hint_level(request.ratio)
        if request.next_speaker == "B":
            return request.hint if level == 5 else ""
        if level == 0 or self.form == "unknown":
            return ""
        if level == 5:
            return request.hint
        guess = self.question.facts(rng, avoid=self.facts)
        right = set(rng.sample(range(len(guess)), max(0, level - 2)))
        return self.question.answer([self.facts[i] if i in right else g for i, g in enumerate(guess)])


def exchange(
    question: Question, form: str, held_out: bool, begin: float, rng: random.Random, speak: Speakers
) -> Exchange:
    """Speaks one exchange that begins at `begin`; A answers just after the oracle has heard the whole question."""
    asked = rng.choice(KINDS[question.kind][0]).format(thing=question.thing)
    asked_audio, asked_times = speak(asked, "B")
    known = TICK * -(-(begin + asked_times[-1][1]) // TICK)
    reply = known + rng.uniform(0.28, 0.44)
    while True:
        first = question.facts(rng, held_out=held_out)
        other = question.facts(rng, held_out=held_out, avoid=first)
        change = rng.randrange(1, len(first)) if form == "revised" else len(first)
        facts = (*first[:change], *other[change:])
        said = rng.choice(UNKNOWN_ANSWERS) if form == "unknown" else question.answer(facts)
        said_audio, said_times = speak(said, "A")
        window = change_window(question, [reply + start for start, _ in said_times], change)
        if window or form != "revised":
            break
    words, clips = [], []
    for speaker, audio, text, times, start in (
        ("B", asked_audio, asked, asked_times, begin),
        ("A", said_audio, said, said_times, reply),
    ):
        at = round(start * RATE)
        clips.append((speaker, at, audio))
        for word, (left, right) in zip(text.split(), times, strict=True):
            words.append(Word(speaker, word, round(at / RATE + left, 3), round(at / RATE + right, 3)))
    return Exchange(
        question, form, asked, said, facts, tuple(first), tuple(other), window, tuple(words), tuple(clips)
    )


def change_window(question: Question, starts: Sequence[float], change: int) -> range:
    """Frames in which another answer may come so that the facts from slot `change` on follow it.

    Fact `change` of it can then be read a frame before it is spoken, and the fact before not until a frame after that
    one was: a model that reads the newest word available says what was recorded. `starts`: of the words said, seconds.
    """
    places = [i for i, w in enumerate(KINDS[question.kind][1].split()) if w[0] == "{"]
    if not 0 < change < len(places):
        return range(0)
    frames = [int(starts[i] // FRAME_SECONDS) for i in places]
    return range(frames[change - 1] - places[change - 1] - 1, frames[change] - places[change] - 2)


def revise(records: list[dict[str, Any]], exchange: Exchange, rng: random.Random) -> list[dict[str, Any]]:
    """Oracle records of a revised exchange: asked before the last word, answered late, then otherwise mid-answer."""
    known = next(r for r in records if r["current_spoken_ratio"] == 1.0)
    heard = len(exchange.asked.split())
    first = {
        **known,
        "prediction": exchange.question.answer(exchange.first),
        "current_spoken_ratio": (heard - 1) / heard,
    }
    second = {**first, "prediction": exchange.question.answer(exchange.other)}
    second["timestamp_ms"] = int((rng.choice(exchange.window) + 0.5) * FRAME_SECONDS * 1000)
    return [*(r for r in records if r["timestamp_ms"] < known["timestamp_ms"]), first, second]


def dialogue(
    plan: Sequence[tuple[Question, str]], held_out: bool, rng: random.Random, speak: Speakers
) -> tuple[np.ndarray, list[Word], list[dict[str, Any]], list[Exchange]]:
    """A dialogue of some exchanges: audio float32 [samples, 2], words, oracle records, and the exchanges."""
    exchanges: list[Exchange] = []
    begin = rng.uniform(0.1, 0.4)
    for question, form in plan:
        exchanges.append(exchange(question, form, held_out, begin, rng, speak))
        begin = exchanges[-1].words[-1].end + rng.uniform(0.3, 0.5)
    audio = np.zeros((round(begin / FRAME_SECONDS) * round(FRAME_SECONDS * RATE), 2), np.float32)
    for e in exchanges:
        for speaker, at, samples in e.clips:
            audio[at : at + len(samples), CHANNELS[speaker]] = samples
    words = [w for e in exchanges for w in e.words]

    def turn(time: float) -> int:
        return sum(e.words[-1].end < time for e in exchanges[:-1])

    records = simulate_oracle(
        words, lambda r: exchanges[turn(r.timestamp_ms / 1000)].guess(r, rng), interval=TICK
    )
    kept = []
    for i, e in enumerate(exchanges):
        mine = [r for r in records if turn(r["timestamp_ms"] / 1000) == i]
        if e.form == "revised":
            replies = revise([r for r in mine if r["channel"] == CHANNELS["A"]], e, rng)
            mine = sorted(
                [*replies, *(r for r in mine if r["channel"] == CHANNELS["B"])],
                key=lambda r: r["timestamp_ms"],
            )
        kept += mine
    return audio, words, kept, exchanges


def train_tokenizer(path: Path, rng: random.Random) -> None:
    """SentencePiece model with the released special ids and byte fallback; each word of an answer is one piece."""
    answers = [
        form.format(**{s: rng.choice(w) for s, w in SLOTS.items()})
        for _, form in KINDS.values()
        for _ in range(2000)
    ]
    answers += [*UNKNOWN_ANSWERS] * 200
    sentences = [
        q.format(thing=t) for asked, _ in KINDS.values() for q in asked for t in THINGS
    ] * 20 + answers
    sentences += sorted({w for s in sentences for w in s.split()}) * 500
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ',.?"
    model_bytes = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model_bytes,
        model_type="unigram",
        vocab_size=450,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        required_chars=letters,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model_bytes.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    split = sorted({w for s in answers for w in s.split() if len(model.encode(w)) != 1})
    if split:
        raise RuntimeError(f"answer words of more than one piece: {split}")


def write_json(path: Path, value: Any, *, lines: bool = True) -> None:
    """JSON; a list with one item per line."""
    dump = json.dumps
    text = "[\n" + ",\n".join(dump(v) for v in value) + "\n]\n" if lines and value else dump(value) + "\n"
    path.write_text(text, encoding="utf-8")


def plans(rng: random.Random) -> list[tuple[str, list[tuple[Question, str]]]]:
    """Split, and questions with forms, of every dialogue."""
    questions = [
        Question(kind, thing, {s: tuple(rng.sample(words, HELD_OUT_WORDS)) for s, words in SLOTS.items()})
        for kind in KINDS
        for thing in THINGS
    ]
    asked = [q for _ in range(PER_QUESTION) for q in rng.sample(questions, len(questions))]
    forms = ["revised"] * REVISED + ["unknown"] * UNKNOWN
    forms += ["plain"] * (len(asked) - len(forms))
    rng.shuffle(forms)
    turns = list(zip(asked, forms, strict=True))
    made = [("train", turns[i : i + EXCHANGES]) for i in range(0, len(turns), EXCHANGES)]
    made += [("heldout", [(q, "plain")]) for q in questions]
    rng.shuffle(made)
    return made


def main(root: Path) -> None:
    """Writes the whole sample into `root`."""
    rng = random.Random(SEED)
    for folder in ("audio", "text", "oracle_raw"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for old in (root / folder).iterdir():
            old.unlink()
    train_tokenizer(root / "tokenizer.model", random.Random(SEED))
    speak = Speakers()
    entries = []
    for i, (split, plan) in enumerate(plans(rng)):
        name = f"d{i:03d}"
        audio, words, records, exchanges = dialogue(plan, split == "heldout", rng, speak)
        write_opus(root / "audio" / f"{name}.ogg", audio, SEED)
        write_json(root / "text" / f"{name}.json", words_to_json(words))
        write_json(root / "oracle_raw" / f"{name}.json", records)
        turns: list[dict[str, Any]] = []
        for e in exchanges:
            turns.append({"form": e.form, "topic": f"{e.question.kind} {e.question.thing}"})
            turns[-1] |= {"question": e.asked, "answer": e.said}
            turns[-1]["facts"] = [] if e.form == "unknown" else e.facts
            if split == "heldout":
                turns[-1]["alternative"] = {"answer": e.question.answer(e.other), "facts": e.other}
        entries.append({"id": name, "split": split, "turns": turns})
    head = json.dumps({"seed": SEED, "facts": SLOTS})[:-1]
    body = ",\n".join(json.dumps(e) for e in entries)
    (root / "manifest.json").write_text(f'{head}, "dialogues": [\n{body}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT, help="folder that gets the sample")
    main(parser.parse_args().out)
