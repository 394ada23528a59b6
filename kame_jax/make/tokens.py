"""Folders of dialogues to folders of records, at any size: resumable, shared by processes, bad dialogues left out.

What is wrong with a dialogue is `make.check`'s to say, what a record holds `data.records`'. A record appears complete
or not at all; one whose audio, text and oracle are as they were is not made again, and codes are made again only when
the audio changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor

from kame_jax.codec.sound_file import SoundFile
from kame_jax.data.dialogue import Dialogue, find_audio, find_dialogues, read_dialogue, read_stereo
from kame_jax.data.events import build_events
from kame_jax.data.records import Record, read_arrays, read_facts, record_from_columns, save_record
from kame_jax.data.words import CHANNELS
from kame_jax.errors import InputError
from kame_jax.files import make_folder, write_whole
from kame_jax.make.align import text_rows
from kame_jax.make.check import MIN_RATE, check_dialogue
from kame_jax.make.encoding import Encode
from kame_jax.make.job import Job, Outcome, Progress, Shard, settle
from kame_jax.make.origin import contamination
from kame_jax.make.rules import Rules
from kame_jax.oracle.text import TOKENIZER_NAME, load_tokenizer
from kame_jax.streams import FRAME_RATE

SETTINGS = "settings.json"
"""What the records of a folder were made with."""
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
    """Where Mimi's weights are, as the data set's description names it."""
    codebooks: int = 8
    card: int = 2048
    """Entries of a codebook."""
    sample_rate: int = 24_000
    frame_rate: float = FRAME_RATE
    pad_id: int = 3
    end_pad_id: int = 0
    spaces: bool = True
    """Words are separated by spaces (not so in Japanese or Chinese)."""
    rules: Rules = field(default_factory=Rules)

    def description(self, weights: str) -> dict[str, Any]:
        """The content of `SETTINGS`; `weights` identifies the codec's weights (`encoding.fingerprint`)."""
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


@dataclass(frozen=True)
class _Prepared:
    """A dialogue that was read and checked, and awaits its codes."""

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
    shard: Shard = (0, 1),
    threads: int = 4,
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Makes the records of a folder of dialogues that are not there yet.

    Args:
        root: dialogues, see `data.dialogue`.
        out: folder of records, made if it is not there.
        settings: how.
        encode: the codec (`encoding.batch_encoder`).
        weights: a name for its weights (`encoding.fingerprint`).
        shard: which of the dialogues.
        threads: that read and resample audio ahead of the codec.
        progress, say: see `make.job`.

    Raises:
        InputError: there are no dialogues, or `out` holds records that were made with other settings.
    """
    root, out = Path(root), Path(out)
    names, incomplete = find_dialogues(root)
    _settle(out, settings, weights, contamination(root))
    tokenizer = load_tokenizer(settings.tokenizer)
    mine = names[shard[0] :: shard[1]]
    job = Job(Outcome(), len(mine), progress=progress, say=say)
    for line in incomplete if shard[0] == 0 else ():
        job.complain(line)
    with ThreadPoolExecutor(threads) as pool:

        def submitted(names: Sequence[str]) -> dict[str, Future[_Prepared]]:
            return {name: pool.submit(_prepare, root, out, name, settings, tokenizer) for name in names}

        groups = _groups(root, mine)
        ahead = submitted(next(groups, ()))
        while ahead:
            current, ahead = ahead, submitted(next(groups, ()))
            _finish(current, out, settings, tokenizer, encode, job)
            job.advance(len(current))
    return job.outcome


def _settle(out: Path, settings: Settings, weights: str, made_of: dict[str, Any] | None) -> None:
    """Leaves tokenizer and settings in a new folder, and compares the settings with those of an old one."""
    make_folder(out)
    if not (out / SETTINGS).is_file():
        write_whole(out / TOKENIZER_NAME, lambda copy: copy.write(settings.tokenizer.read_bytes()))
    settle(
        out / SETTINGS,
        settings.description(weights) | ({"contamination": made_of} if made_of else {}),
        f"{out}: its records were made with other settings; give a new folder, or remove it first",
        told=("codec", "contamination"),
    )


def read_settings(folder: str | Path) -> dict[str, Any]:
    """How the records of a folder were made, as `Settings.description` has it; empty where there is no such file.

    Raises:
        InputError: the file cannot be read.
    """
    file = Path(folder) / SETTINGS
    return read_facts(file) if file.exists() else {}


def _groups(root: Path, names: Sequence[str]) -> Iterator[list[str]]:
    """Names in their order, as many at a time as fit the memory set aside."""
    group: list[str] = []
    seconds = 0.0
    for name in names:
        length = _seconds(root, name)
        if group and (seconds + length > GROUP_SECONDS or len(group) == GROUP_SIZE):
            yield group
            group, seconds = [], 0.0
        group.append(name)
        seconds += length
    if group:
        yield group


def _seconds(root: Path, name: str) -> float:
    """The length of a dialogue's sound; 0 where it cannot be told."""
    try:
        with SoundFile(find_audio(root, name)) as file:
            return float(file.frames / file.samplerate)
    except Exception:  # of any kind: it is reported when the dialogue is read
        return 0.0


def _prepare(
    root: Path, out: Path, name: str, settings: Settings, tokenizer: SentencePieceProcessor
) -> _Prepared:
    """Reads and checks one dialogue.

    Raises:
        InputError: what is wrong with it.
    """
    stamps = {
        "source_audio": _stamp([find_audio(root, name)]),
        "source_text": _stamp([root / "text" / f"{name}.json", root / "oracle_raw" / f"{name}.json"]),
    }
    old = _old(out / f"{name}.npz")
    same = {key: np.array_equal(old.get(key, ()), stamp) for key, stamp in stamps.items()}
    if same["source_audio"] and same["source_text"]:
        return _Prepared(name, {}, None, (), {}, old["A"].shape[1] / settings.frame_rate, None, {})
    dialogue = read_dialogue(root, name)
    codes, audio = {}, None
    if same["source_audio"]:
        codes = {s: old[s][1:] for s in CHANNELS}
        seconds = codes["A"].shape[1] / settings.frame_rate
    else:
        audio = _read_voices(dialogue, settings.sample_rate)
        seconds = audio.shape[1] / settings.sample_rate
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
    return _Prepared(name, text, dialogue.oracle, checked.notes, stamps, seconds, audio, codes)


def _read_voices(dialogue: Dialogue, sample_rate: int) -> np.ndarray:
    """Both speakers' audio, float32 `[2, samples]`, after a check that both can be heard."""
    with SoundFile(dialogue.audio) as file:
        if file.samplerate < MIN_RATE:
            raise InputError(
                f"{dialogue.audio.name} has {file.samplerate} samples a second, expected at least {MIN_RATE}"
            )
    audio = read_stereo(dialogue, sample_rate)
    for speaker, side in CHANNELS.items():
        if not audio[side].any():
            raise InputError(
                f"{dialogue.audio.name}: channel {side}, speaker {speaker}, is all zero, expected a voice"
            )
    return audio


def _stamp(files: Sequence[Path]) -> np.ndarray:
    """Names, sizes and times of files, those that are there: uint8 `[32]`."""
    facts = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return np.frombuffer(hashlib.sha256(json.dumps(facts).encode()).digest(), np.uint8)


def _old(path: Path) -> dict[str, np.ndarray]:
    """The record that is there already; nothing when there is none, or it cannot be read."""
    try:
        arrays = read_arrays(path)
        record_from_columns(path.stem, arrays)
    except InputError:
        return {}
    return arrays


def _finish(
    group: Mapping[str, Future[_Prepared]],
    out: Path,
    settings: Settings,
    tokenizer: SentencePieceProcessor,
    encode: Encode,
    job: Job,
) -> None:
    """Encodes a group of dialogues and writes their records."""
    step = CHUNK_SECONDS * settings.sample_rate
    waiting: list[_Prepared] = []
    places: list[tuple[str, str]] = []
    recordings: list[np.ndarray] = []
    for name, future in group.items():
        with job.guard(name):
            prepared = future.result()
            job.outcome.seconds += prepared.seconds
            if prepared.audio is None and not prepared.codes:
                job.outcome.kept += 1
                continue
            waiting.append(prepared)
            if prepared.audio is None:
                continue
            for speaker, voice in zip(CHANNELS, prepared.audio):
                pieces = [voice[i : i + step] for i in range(0, len(voice), step)]
                places += [(name, speaker)] * len(pieces)
                recordings += pieces
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for place, codes in zip(places, encode(recordings) if recordings else ()):
        found.setdefault(place, []).append(codes)
    for prepared in waiting:
        with job.guard(prepared.name):
            sides = prepared.codes or {s: np.concatenate(found[prepared.name, s], axis=1) for s in CHANNELS}
            save_record(out, _record(prepared, sides, settings, tokenizer), **prepared.stamps)
            job.outcome.made += 1
            for note in prepared.notes:
                job.note(prepared.name, note)


def _record(
    prepared: _Prepared,
    codes: Mapping[str, np.ndarray],
    settings: Settings,
    tokenizer: SentencePieceProcessor,
) -> Record:
    """The record of a dialogue; `codes` int32 `[codebooks, frames]` a speaker."""
    tokens = {s: merge_text(prepared.text[s], codes[s], settings.pad_id) for s in CHANNELS}
    frames = tokens["A"].shape[1]
    events = {
        s: build_events(
            prepared.oracle or (),
            channel,
            frames,
            tokenizer,
            frame_rate=settings.frame_rate,
            protect_kept=settings.rules.protect_kept,
        )
        for s, channel in CHANNELS.items()
    }
    return Record(prepared.name, tokens, events)


def merge_text(text: Sequence[int], codes: np.ndarray, pad_id: int) -> np.ndarray:
    """Text over audio: int32 `[1 + codebooks, frames]`; the text is cut or filled up to the audio's frames."""
    row = np.full(codes.shape[1], pad_id, np.int32)
    count = min(len(text), len(row))
    row[:count] = text[:count]
    return np.concatenate([row[None], codes.astype(np.int32)])
