"""Makes the bundled sample beside this file: spoken dialogues whose answers only the oracle knows, and their tokenizer.

Needs the shared library of espeak-ng 1.51 (both voices and the exact word times come from it); nothing else in the
project does. Same seed and same library versions give the same bytes. Run: python -m kame_jax.assets.dialogues.make
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import soundfile
import soxr

from kame_jax.oracle.simulate import CHANNELS, Request, Word, hint_level, simulate_oracle, words_to_json

SEED = 20260
RATE = 24_000
FRAME = 0.08
TICK = 0.5
"""Seconds between two oracle requests."""
EXCHANGES = 3
"""Questions of a training dialogue; a held-out one has one."""
PER_QUESTION = 12
"""Times each question is asked in training."""
REVISED, UNKNOWN = 60, 16
HELD_OUT_WORDS = 2
"""Fact words of each slot that never go with a question in training."""
OPUS_COMPRESSION = 0.995
VOICES = {"A": (b"en-gb+m3", 175, 45), "B": (b"en-us+f3", 195, 60)}

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


def _crc_of_byte(byte: int) -> int:
    crc = byte << 24
    for _ in range(8):
        crc = (crc << 1) ^ 0x104C11DB7 if crc & 0x80000000 else crc << 1
    return crc


CRC_TABLE = [_crc_of_byte(byte) for byte in range(256)]


class Espeak:
    """espeak-ng through its C library: audio and the sample at which the word at each character begins."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self.lib.espeak_Initialize(2, 0, None, 0)
        self.audio: list[np.ndarray] = []
        self.starts: dict[int, int] = {}
        callback_type = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
        )
        self.callback = callback_type(self._receive)
        self.lib.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        i = 0
        while events[i].type != 0:
            if events[i].type == 1:
                self.starts.setdefault(events[i].text_position - 1, events[i].sample)
            i += 1
        if count:
            self.audio.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def __call__(self, text: str, speaker: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
        """Speech (float32 [samples] at 24 kHz) and each word's (start, end) in seconds."""
        voice, words_per_minute, pitch = VOICES[speaker]
        self.lib.espeak_SetVoiceByName(voice)
        self.lib.espeak_SetParameter(1, words_per_minute, 0)
        self.lib.espeak_SetParameter(3, pitch, 0)
        self.audio, self.starts = [], {}
        data = text.encode()
        self.lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
        pcm = np.concatenate(self.audio)
        last = int(np.nonzero(np.abs(pcm) > 150)[0][-1]) + 1
        places = [m.start() for m in re.finditer(r"\S+", text)]
        if missing := [p for p in places if p not in self.starts]:
            raise RuntimeError(f"{text!r}: espeak-ng marked no word at characters {missing}")
        edges = [s / self.rate for s in (*(self.starts[p] for p in places), last)]
        audio = soxr.resample(pcm[:last].astype(np.float32) / 32768, self.rate, RATE)
        return audio, list(zip(edges[:-1], edges[1:], strict=True))


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


@dataclass(frozen=True)
class Question:
    """One question (kind and thing), and the fact words kept for its held-out dialogue."""

    kind: str
    thing: str
    held_out: dict[str, tuple[str, ...]]

    @property
    def slots(self) -> list[str]:
        return [w[1:-1] for w in KINDS[self.kind][1].split() if w[0] == "{"]

    def facts(self, rng: random.Random, *, held_out: bool = False, avoid: Sequence[str] = ()) -> list[str]:
        """One fact word per slot of the answer, from the training words or from the held-out ones."""
        drawn = []
        for slot in self.slots:
            words = [w for w in SLOTS[slot] if (w in self.held_out[slot]) == held_out and w not in avoid]
            drawn.append(rng.choice(words))
        return drawn

    def answer(self, facts: Sequence[str]) -> str:
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
    change: int
    """Slot from which on a revised answer follows `other`."""
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


def exchange(question: Question, form: str, held_out: bool, begin: float, rng: random.Random, speak: Espeak) -> Exchange:
    """Speaks one exchange that begins at `begin`; A answers just after the oracle has heard the whole question."""
    asked = rng.choice(KINDS[question.kind][0]).format(thing=question.thing)
    first = question.facts(rng, held_out=held_out)
    other = question.facts(rng, held_out=held_out, avoid=first)
    change = rng.randrange(1, len(first)) if form == "revised" else len(first)
    facts = [*first[:change], *other[change:]]
    said = rng.choice(UNKNOWN_ANSWERS) if form == "unknown" else question.answer(facts)
    asked_audio, asked_times = speak(asked, "B")
    said_audio, said_times = speak(said, "A")
    known = TICK * -(-(begin + asked_times[-1][1]) // TICK)
    reply = known + rng.uniform(0.28, 0.44)
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
        question, form, asked, said, tuple(facts), tuple(first), tuple(other), change, tuple(words), tuple(clips)
    )


def revise(records: list[dict[str, Any]], exchange: Exchange, rng: random.Random) -> list[dict[str, Any]]:
    """The oracle records of a revised exchange: asked before the last word, answered late, then differently mid-answer.

    The second answer comes so that the first fact that follows it can be read a frame before it is spoken, and the
    fact before not until a frame after that one was: whoever reads the newest word available says what was recorded.
    """
    known = next(r for r in records if r["current_spoken_ratio"] == 1.0)
    asked = known["total_word_count"] - len([w for w in exchange.words if w.speaker == "B"])
    asked_at = (known["total_word_count"] - asked - 1) / (known["total_word_count"] - asked)
    spoken = [w for w in exchange.words if w.speaker == "A"]
    places = [i for i, w in enumerate(KINDS[exchange.question.kind][1].split()) if w[0] == "{"]
    frames = [int(spoken[i].start // FRAME) for i in places]
    change = exchange.change
    earliest = frames[change - 1] - places[change - 1] - 1
    latest = frames[change] - places[change] - 3
    if earliest > latest:
        raise RuntimeError(f"{exchange.said!r}: no room to change fact {change}: frames {frames}, places {places}")
    frame = rng.randint(earliest, latest)
    first = {**known, "prediction": exchange.question.answer(exchange.first), "current_spoken_ratio": asked_at}
    second = {**first, "prediction": exchange.question.answer(exchange.other)}
    second["timestamp_ms"] = int((frame + 0.5) * FRAME * 1000)
    return [*(r for r in records if r["timestamp_ms"] < known["timestamp_ms"]), first, second]


def dialogue(plan: Sequence[tuple[Question, str]], held_out: bool, rng: random.Random, speak: Espeak):
    """A dialogue of some exchanges: audio float32 [samples, 2], words, oracle records, and the exchanges."""
    exchanges: list[Exchange] = []
    begin = rng.uniform(0.1, 0.4)
    for question, form in plan:
        exchanges.append(exchange(question, form, held_out, begin, rng, speak))
        begin = exchanges[-1].words[-1].end + rng.uniform(0.3, 0.5)
    audio = np.zeros((round(begin / FRAME) * round(FRAME * RATE), 2), np.float32)
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
                [*replies, *(r for r in mine if r["channel"] == CHANNELS["B"])], key=lambda r: r["timestamp_ms"]
            )
        kept += mine
    return audio, words, kept, exchanges


def write_opus(path: Path, audio: np.ndarray) -> None:
    """Ogg Opus with a fixed stream serial number, so that the same audio gives the same bytes."""
    soundfile.write(path, audio, RATE, format="OGG", subtype="OPUS", compression_level=OPUS_COMPRESSION)
    data = bytearray(path.read_bytes())
    at = 0
    while at < len(data):
        segments = data[at + 26]
        size = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        data[at + 14 : at + 18] = struct.pack("<I", SEED)
        data[at + 22 : at + 26] = bytes(4)
        data[at + 22 : at + 26] = struct.pack("<I", ogg_crc(data[at : at + size]))
        at += size
    path.write_bytes(bytes(data))


def ogg_crc(page: bytes | bytearray) -> int:
    """Checksum of an Ogg page (RFC 3533): polynomial 0x04c11db7, not reflected."""
    crc = 0
    for byte in page:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ CRC_TABLE[(crc >> 24) ^ byte]
    return crc


def train_tokenizer(path: Path, rng: random.Random) -> None:
    """SentencePiece model with the released tokenizer's special ids and byte fallback; each word of an answer is one piece."""
    answers = [form.format(**{s: rng.choice(w) for s, w in SLOTS.items()}) for _, form in KINDS.values() for _ in range(2000)]
    answers += [*UNKNOWN_ANSWERS] * 200
    sentences = [q.format(thing=t) for asked, _ in KINDS.values() for q in asked for t in THINGS] * 20 + answers
    sentences += sorted({w for s in sentences for w in s.split()}) * 500
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ',.?"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(path.with_suffix("")),
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
    path.with_suffix(".vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    split = sorted({w for s in answers for w in s.split() if len(model.encode(w)) != 1})
    if split:
        raise RuntimeError(f"answer words of more than one piece: {split}")


def write_json(path: Path, value: Any, *, lines: bool = True) -> None:
    """JSON; a list with one item a line."""
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
    rng = random.Random(SEED)
    for folder in ("audio", "text", "oracle_raw"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for old in (root / folder).iterdir():
            old.unlink()
    train_tokenizer(root / "tokenizer.model", random.Random(SEED))
    speak = Espeak()
    entries = []
    for i, (split, plan) in enumerate(plans(rng)):
        name = f"d{i:03d}"
        audio, words, records, exchanges = dialogue(plan, split == "heldout", rng, speak)
        write_opus(root / "audio" / f"{name}.ogg", audio)
        write_json(root / "text" / f"{name}.json", words_to_json(words))
        write_json(root / "oracle_raw" / f"{name}.json", records)
        turns: list[dict[str, Any]] = []
        for e in exchanges:
            turns.append({"form": e.form, "question": e.asked, "answer": e.said})
            turns[-1]["facts"] = [] if e.form == "unknown" else e.facts
            if split == "heldout":
                turns[-1]["alternative"] = {"answer": e.question.answer(e.other), "facts": e.other}
        entries.append({"id": name, "split": split, "turns": turns})
    head = json.dumps({"seed": SEED, "facts": SLOTS})[:-1]
    body = ",\n".join(json.dumps(e) for e in entries)
    (root / "manifest.json").write_text(f'{head}, "dialogues": [\n{body}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder that gets the sample")
    main(parser.parse_args().out)
