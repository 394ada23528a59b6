"""Folders of dialogues to folders of records, at any size: resumable, shared by processes, bad dialogues left out.

What is wrong with a dialogue is `make.check`'s to say, what a record holds `data.records`'. A record appears complete
or not at all; one whose audio, text and oracle are as they were is not made again, and codes are made again only when
the audio changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from sentencepiece import SentencePieceProcessor

from kame_jax.data.dialogue import AUDIO_SUFFIXES, find_dialogues, read_dialogue, read_stereo
from kame_jax.data.events import build_events
from kame_jax.data.records import Record, save_record
from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError
from kame_jax.files import write_whole
from kame_jax.make.align import text_rows
from kame_jax.make.check import MIN_RATE, check_dialogue
from kame_jax.make.encoding import Encode
from kame_jax.make.origin import contamination
from kame_jax.make.rules import Rules
from kame_jax.make.settings import write_json
from kame_jax.oracle.text import load_tokenizer

SETTINGS = "settings.json"
"""What the records of a folder were made with."""
TOKENIZER = "tokenizer.model"
GROUP_SECONDS = 1800.0
"""Audio held in memory at a time, and as much again read ahead."""
GROUP_SIZE = 64
CHUNK_SECONDS = 1200
"""Longer audio is encoded in pieces of this many seconds, each from a fresh codec state."""


@dataclass(frozen=True)
class Settings:
    """How dialogues are tokenised; equal settings and dialogues give equal records."""

    tokenizer: Path
    codec: str
    """Where Mimi's weights are, as said in the data set's description."""
    codebooks: int = 8
    card: int = 2048
    """Entries of a codebook."""
    sample_rate: int = 24_000
    frame_rate: float = 12.5
    pad_id: int = 3
    end_pad_id: int = 0
    spaces: bool = True
    """Words are separated by spaces (not so in Japanese or Chinese)."""
    rules: Rules = field(default_factory=Rules)

    def description(self, weights: str) -> dict[str, Any]:
        """What `SETTINGS` holds; `weights` is a name for the codec's weights (`encoding.fingerprint`)."""
        return {
            "codec": self.codec,
            "codec_weights": weights,
            "tokenizer_sha256": hashlib.sha256(self.tokenizer.read_bytes()).hexdigest(),
            "codebooks": self.codebooks,
            "card": self.card,
            "text_card": load_tokenizer(self.tokenizer).vocab_size(),
            "sample_rate": self.sample_rate,
            "frame_rate": self.frame_rate,
            "text_padding_id": self.pad_id,
            "text_end_padding_id": self.end_pad_id,
            "spaces": self.spaces,
            "rules": {
                name: getattr(self.rules, name) for name in ("sort_words", "exact_frames", "protect_kept")
            },
        }


@dataclass
class Report:
    """What became of the dialogues of one process."""

    made: int = 0
    kept: int = 0
    """Records that were there already."""
    seconds: float = 0.0
    """Of audio, in records made or kept."""
    problems: list[str] = field(default_factory=list)
    """One line for each dialogue that was left out."""
    notes: list[str] = field(default_factory=list)
    """One line for each thing that was mended or passed over."""


@dataclass(frozen=True)
class _Job:
    """A dialogue on its way."""

    name: str
    text: dict[str, list[int]]
    oracle: tuple[dict[str, Any], ...] | None
    notes: tuple[str, ...]
    stamps: dict[str, np.ndarray]
    seconds: float
    audio: np.ndarray | None
    """float32 `[2, samples]`; None when the codes are there."""
    codes: dict[str, np.ndarray]


def tokenize(
    root: str | Path,
    out: str | Path,
    settings: Settings,
    encode: Encode,
    weights: str,
    *,
    shard: tuple[int, int] = (0, 1),
    threads: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Makes the records of a folder of dialogues that are not there yet.

    Args:
        root: dialogues, see `data.dialogue`.
        out: folder of records, made if it is not there.
        settings: how.
        encode: the codec (`encoding.batch_encoder`).
        weights: a name for its weights (`encoding.fingerprint`).
        shard: (i, n) takes every n-th dialogue from the i-th on, so that n processes share the work.
        threads: that read and resample audio ahead of the codec.
        progress: called with the dialogues done and their total.
        say: called with each line of the report as it comes up.

    Raises:
        InputError: there are no dialogues, or `out` holds records that were made with other settings.
    """
    root, out = Path(root), Path(out)
    names, incomplete = find_dialogues(root)
    made_of = contamination(root)
    _settle(out, settings, settings.description(weights) | ({"contamination": made_of} if made_of else {}))
    tokenizer = load_tokenizer(settings.tokenizer)
    mine = names[shard[0] :: shard[1]]
    report = Report()

    def complain(line: str) -> None:
        report.problems.append(line)
        say(line)

    for line in incomplete if shard[0] == 0 else ():
        complain(line)
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        groups = _groups(root, mine)
        ahead = [pool.submit(_prepare, root, out, name, settings, tokenizer) for name in next(groups, ())]
        while ahead:
            current = ahead
            ahead = [pool.submit(_prepare, root, out, name, settings, tokenizer) for name in next(groups, ())]
            jobs = []
            for future in current:
                try:
                    job = future.result()
                except InputError as error:
                    complain(str(error))
                    continue
                report.seconds += job.seconds
                if job.audio is None and not job.codes:
                    report.kept += 1
                else:
                    jobs.append(job)
            for line in _finish(jobs, out, settings, tokenizer, encode, report, complain):
                report.notes.append(line)
                say(line)
            done += len(current)
            progress(done, len(mine))
    return report


def _settle(out: Path, settings: Settings, description: dict[str, Any]) -> None:
    """Leaves the description in a new folder, and compares it with that of an old one."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / SETTINGS
    if not file.is_file():
        write_whole(out / TOKENIZER, lambda copy: copy.write(settings.tokenizer.read_bytes()))
        write_json(file, description)
        return
    old = read_settings(out)
    told = ("codec", "contamination")  # said of the records, not how they are made
    names = [name for name in description if name not in told and old.get(name) != description[name]]
    if names:
        raise InputError(
            f"{out}: its records were made with other settings; give a new folder, or remove it first",
            [f"{name}: {old.get(name)!r} there, {description[name]!r} here" for name in names],
        )


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What a folder of records says of how they were made; empty where it says nothing.

    Raises:
        InputError: it is not JSON.
    """
    file = Path(folder) / SETTINGS
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise InputError(f"{file}: is not JSON: {error}") from None


def _groups(root: Path, names: Sequence[str]) -> Iterator[list[str]]:
    """Names in their order, so many at a time as fit the memory set aside."""
    group: list[str] = []
    seconds = 0.0
    for name in names:
        try:
            length = soundfile.info(str(_audio(root, name))).duration
        except (soundfile.LibsndfileError, RuntimeError):  # said when it is read
            length = 0.0
        if group and (seconds + length > GROUP_SECONDS or len(group) == GROUP_SIZE):
            yield group
            group, seconds = [], 0.0
        group.append(name)
        seconds += length
    if group:
        yield group


def _audio(root: Path, name: str) -> Path:
    return next(p for suffix in AUDIO_SUFFIXES if (p := root / "audio" / f"{name}{suffix}").is_file())


def _prepare(root: Path, out: Path, name: str, settings: Settings, tokenizer: SentencePieceProcessor) -> _Job:
    """Reads and checks one dialogue.

    Raises:
        InputError: one line with the dialogue's name.
    """
    try:
        stamps = {
            "source_audio": _stamp([_audio(root, name)]),
            "source_text": _stamp([root / "text" / f"{name}.json", root / "oracle_raw" / f"{name}.json"]),
        }
        old = _old(out / f"{name}.npz")
        same = {key: key in old and np.array_equal(old[key], stamp) for key, stamp in stamps.items()}
        if same["source_audio"] and same["source_text"]:
            frames = old["A"].shape[1]
            return _Job(name, {}, None, (), {}, frames / settings.frame_rate, None, {})
        dialogue = read_dialogue(root, name)
        codes, audio = {}, None
        if same["source_audio"]:
            codes = {s: old[s][1:] for s in CHANNELS}
            seconds = codes["A"].shape[1] / settings.frame_rate
        else:
            rate = soundfile.info(str(dialogue.audio)).samplerate
            if rate < MIN_RATE:
                raise InputError(
                    f"{dialogue.audio.name} has {rate} samples a second, expected at least {MIN_RATE}"
                )
            audio = read_stereo(dialogue, settings.sample_rate)
            seconds = audio.shape[1] / settings.sample_rate
            _check_audio(dialogue.audio.name, audio)
        checked = check_dialogue(dialogue.words, dialogue.oracle, seconds, mend=settings.rules.sort_words)
        text = text_rows(
            checked.words,
            tokenizer,
            settings.pad_id,
            settings.end_pad_id,
            settings.frame_rate,
            exact=settings.rules.exact_frames,
            spaces=settings.spaces,
        )
    except (InputError, soundfile.LibsndfileError) as error:
        raise InputError(about(name, InputError(str(error)))) from None
    return _Job(name, text, dialogue.oracle, checked.notes, stamps, seconds, audio, codes)


def _check_audio(name: str, audio: np.ndarray) -> None:
    if not np.isfinite(audio).all():
        raise InputError(f"{name} holds a sample that is no finite number")
    for speaker, side in CHANNELS.items():
        if not audio[side].any():
            raise InputError(f"{name}: channel {side}, speaker {speaker}, is all zero, expected a voice")


def _stamp(files: Sequence[Path]) -> np.ndarray:
    """Names, sizes and times of files, those that are there: uint8 `[32]`."""
    facts = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return np.frombuffer(hashlib.sha256(json.dumps(facts).encode()).digest(), np.uint8)


def _old(path: Path) -> dict[str, np.ndarray]:
    """The record that is there already; nothing when there is none, or it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in ("A", "B", "source_audio", "source_text")}
    except (OSError, ValueError, KeyError, EOFError):
        return {}


def _finish(
    jobs: Sequence[_Job],
    out: Path,
    settings: Settings,
    tokenizer: SentencePieceProcessor,
    encode: Encode,
    report: Report,
    complain: Callable[[str], None],
) -> Iterator[str]:
    """Encodes a group of dialogues and writes their records; yields what was mended."""
    step = CHUNK_SECONDS * settings.sample_rate
    places: list[tuple[str, str]] = []
    recordings: list[np.ndarray] = []
    for job in jobs:
        for speaker, side in CHANNELS.items():
            if job.audio is not None:
                pieces = [job.audio[side, i : i + step] for i in range(0, job.audio.shape[1], step)]
                places += [(job.name, speaker)] * len(pieces)
                recordings += pieces
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for place, codes in zip(places, encode(recordings) if recordings else ()):
        found.setdefault(place, []).append(codes)
    for job in jobs:
        sides = job.codes or {s: np.concatenate(found[job.name, s], axis=1) for s in CHANNELS}
        try:
            record = make_record(
                job.name,
                job.text,
                sides,
                job.oracle,
                tokenizer,
                settings.pad_id,
                settings.frame_rate,
                protect_kept=settings.rules.protect_kept,
            )
        except InputError as error:
            complain(about(job.name, error))
            continue
        save_record(out, record, **job.stamps)
        report.made += 1
        for note in job.notes:
            yield f"dialogue {job.name}: {note}"


def about(name: str, error: InputError) -> str:
    """An error's text with the dialogue's name in front, if it is not there yet."""
    text = " ".join(str(error).split())
    return text if text.startswith(f"dialogue {name}: ") else f"dialogue {name}: {text}"


def make_record(
    name: str,
    text: Mapping[str, Sequence[int]],
    codes: Mapping[str, np.ndarray],
    oracle: Sequence[Mapping[str, Any]] | None,
    tokenizer: SentencePieceProcessor,
    pad_id: int = 3,
    frame_rate: float = 12.5,
    *,
    protect_kept: bool = False,
) -> Record:
    """One record from its parts.

    Args:
        name: the dialogue.
        text: a row of text a speaker, of any length.
        codes: int32 `[codebooks, frames]` a speaker.
        oracle: records of `oracle_raw/<id>.json`.
        tokenizer: of the inner monologue.
        pad_id: fills the text up.
        frame_rate: frames a second.
        protect_kept: see `build_events`.

    Raises:
        InputError: an oracle record that cannot be read.
    """
    tokens = {s: merge_text(text[s], codes[s], pad_id) for s in CHANNELS}
    frames = tokens["A"].shape[1]
    events = {
        s: build_events(
            oracle or (), channel, frames, tokenizer, frame_rate=frame_rate, protect_kept=protect_kept
        )
        for s, channel in CHANNELS.items()
    }
    return Record(name, tokens, events)


def merge_text(text: Sequence[int], codes: np.ndarray, pad_id: int) -> np.ndarray:
    """Text over audio: int32 `[1 + codebooks, frames]`; the text is cut or filled up to the audio's frames."""
    row = np.full(codes.shape[1], pad_id, np.int32)
    count = min(len(text), len(row))
    row[:count] = text[:count]
    return np.concatenate([row[None], codes.astype(np.int32)])
