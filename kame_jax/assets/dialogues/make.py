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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import soundfile
import soxr

from kame_jax.oracle.simulate import Request, Word, hint_level, simulate_oracle, words_to_json

SEED = 20260
RATE = 24_000
FRAME = 0.08
PER_QUESTION = 7
REVISED, UNKNOWN = 36, 12
OPUS_COMPRESSION = 0.995
VOICES = {"A": (b"en-gb+m3", 170, 45), "B": (b"en-us+f3", 190, 60)}

SLOTS = {
    "name": "Martha Oliver Sofia Victor Emily Daniel Laura Henry Nora Peter".split(),
    "city": "Rome Tokyo Paris Boston Cairo Madrid Oslo Lima Berlin Dublin".split(),
    "colour": "red green blue yellow purple silver orange brown golden black".split(),
    "hour": "two three four five six seven eight nine ten eleven".split(),
}
THINGS = "parcel key coat lamp ticket violin".split()
KINDS = {
    "who": (
        ("Who has the {thing}", "Please tell me who took the {thing}", "Do you know who has my {thing}"),
        "{name} from {city} at {hour}",
    ),
    "where": (
        ("Where is the {thing}", "Please tell me where the {thing} is", "Do you know where my {thing} went"),
        "In {city} with {name} at {hour}",
    ),
    "which": (
        ("Which one is the {thing}", "Please tell me which {thing} is mine", "Do you know which {thing} came"),
        "The {colour} one in {city} with {name}",
    ),
    "when": (
        ("When will the {thing} come", "Please tell me when the {thing} leaves", "Do you know when my {thing} is here"),
        "At {hour} by the {colour} door in {city}",
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


def guesser(question: Question, facts: Sequence[str], rng: random.Random) -> Callable[[Request], str]:
    """Predictor of the sample: silent at level 0, then guesses with more and more facts right, the truth at level 5."""

    def predict(request: Request) -> str:
        level = hint_level(request.ratio)
        if level == 5:
            return request.hint
        guess = question.facts(rng, avoid=facts)
        right = set(rng.sample(range(len(facts)), max(0, level - 2)))
        return question.answer([facts[i] if i in right else g for i, g in enumerate(guess)]) if level else ""

    return predict


def dialogue(name: str, question: Question, form: str, split: str, rng: random.Random, speak: Espeak):
    """Audio [samples, 2], words, oracle records and manifest entry of one dialogue; form: plain, revised or unknown."""
    asked = rng.choice(KINDS[question.kind][0]).format(thing=question.thing)
    first = question.facts(rng, held_out=split == "heldout")
    other = question.facts(rng, held_out=split == "heldout", avoid=first)
    change = rng.choice((1, 2)) if form == "revised" else 0
    facts = first[:change] + other[change:] if form == "revised" else first
    said = rng.choice(UNKNOWN_ANSWERS) if form == "unknown" else question.answer(facts)

    question_audio, question_times = speak(asked, "B")
    answer_audio, answer_times = speak(said, "A")
    begin = rng.uniform(0.1, 0.5)
    known = 0.5 * -(-(begin + question_times[-1][1]) // 0.5)
    reply = known + rng.uniform(0.28, 0.44)
    length = round((reply + answer_times[-1][1] + rng.uniform(0.3, 0.5)) / FRAME) * round(FRAME * RATE)
    audio = np.zeros((length, 2), np.float32)
    starts = {"A": round(reply * RATE), "B": round(begin * RATE)}
    words = []
    for speaker, samples, text, times in (
        ("B", question_audio, asked, question_times),
        ("A", answer_audio, said, answer_times),
    ):
        at = starts[speaker]
        audio[at : at + len(samples), 0 if speaker == "A" else 1] = samples
        for word, (start, end) in zip(text.split(), times, strict=True):
            words.append(Word(speaker, word, round(at / RATE + start, 3), round(at / RATE + end, 3)))

    records: list[dict[str, Any]] = []
    if form != "unknown":
        records = simulate_oracle(words, guesser(question, facts, rng))
    if form == "revised":
        records = revised(records, words, question, first, other, change, rng)
    entry: dict[str, Any] = {"id": name, "split": split, "form": form, "question": asked, "answer": said}
    entry["facts"] = [] if form == "unknown" else facts
    if form == "plain" and split == "heldout":
        entry["alternative"] = {"answer": question.answer(other), "facts": other}
    return audio, words, records, entry


def revised(
    records: list[dict[str, Any]],
    words: Sequence[Word],
    question: Question,
    first: Sequence[str],
    other: Sequence[str],
    change: int,
    rng: random.Random,
) -> list[dict[str, Any]]:
    """An oracle that changes its mind: asked before the last word, answered with `first`, then with `other` mid-answer.

    The second answer comes so that fact `change` of it can be read a frame before it is spoken, and the fact before
    not until a frame after that one was: whoever reads the newest word available says what was recorded.
    """
    known = next(r for r in records if r["current_spoken_ratio"] == 1.0)
    asked_at = (known["total_word_count"] - 1) / known["total_word_count"]
    spoken = [w for w in words if w.speaker == "A"]
    places = [i for i, w in enumerate(KINDS[question.kind][1].split()) if w[0] == "{"]
    frames = [int(spoken[i].start // FRAME) for i in places]
    earliest = frames[change - 1] - places[change - 1] - 1
    latest = frames[change] - places[change] - 3
    if earliest > latest:
        raise RuntimeError(f"{question}: no room to change fact {change}: {frames} {places}")
    frame = rng.randint(earliest, latest)
    early = [r for r in records if r["timestamp_ms"] < known["timestamp_ms"]]
    first_answer = {**known, "prediction": question.answer(first), "current_spoken_ratio": asked_at}
    second = {**first_answer, "prediction": question.answer(other), "timestamp_ms": int((frame + 0.5) * FRAME * 1000)}
    return [*early, first_answer, second]


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


def main(root: Path) -> None:
    rng = random.Random(SEED)
    for folder in ("audio", "text", "oracle_raw"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for old in (root / folder).iterdir():
            old.unlink()
    train_tokenizer(root / "tokenizer.model", random.Random(SEED))
    questions = [
        Question(kind, thing, {s: tuple(rng.sample(SLOTS[s], 3)) for s in SLOTS}) for kind in KINDS for thing in THINGS
    ]
    plan = [(q, "heldout", "plain") for q in questions]
    forms = ["revised"] * REVISED + ["unknown"] * UNKNOWN
    forms += ["plain"] * (PER_QUESTION * len(questions) - len(forms))
    rng.shuffle(forms)
    plan += [(q, "train", form) for q, form in zip(questions * PER_QUESTION, forms, strict=True)]
    rng.shuffle(plan)
    speak = Espeak()
    entries = []
    for i, (question, split, form) in enumerate(plan):
        name = f"d{i:03d}"
        audio, words, records, entry = dialogue(name, question, form, split, rng, speak)
        write_opus(root / "audio" / f"{name}.ogg", audio)
        write_json(root / "text" / f"{name}.json", words_to_json(words))
        write_json(root / "oracle_raw" / f"{name}.json", records)
        entries.append(entry)
    manifest = {"seed": SEED, "facts": SLOTS, "dialogues": entries}
    head = json.dumps({k: v for k, v in manifest.items() if k != "dialogues"}, indent=1)[:-2]
    body = ",\n".join(json.dumps(e) for e in entries)
    (root / "manifest.json").write_text(f'{head},\n "dialogues": [\n{body}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder that gets the sample")
    main(parser.parse_args().out)
