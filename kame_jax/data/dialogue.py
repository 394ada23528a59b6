"""Dialogues on disk: stereo audio, words with times, oracle records, in the layout of kame_finetune.

    <root>/audio/<id>.wav        A left, B right; or any other file that libsndfile reads (.flac, .ogg, .opus)
    <root>/text/<id>.json        list of {speaker, word, start, end}; seconds
    <root>/oracle_raw/<id>.json  optional: list of oracle records

What they mean to the model is `data.records`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.codec.audio import read_channels
from kame_jax.data.words import CHANNELS, Word, words_from_json
from kame_jax.errors import InputError
from kame_jax.files import read_json_list

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus")


@dataclass(frozen=True)
class Dialogue:
    """One recorded conversation; its audio stays on disk."""

    id: str
    audio: Path
    words: tuple[Word, ...]
    oracle: tuple[dict[str, Any], ...] | None
    """Records in file order; None when there is no file."""


def find_dialogues(root: str | Path) -> tuple[list[str], list[str]]:
    """The ids of the complete dialogues under `root`, sorted, and one line for each one left out.

    Left out are dialogues that lack their audio or their text, and names that cannot be one.

    Raises:
        InputError: no such folder, or no dialogue in it.
    """
    root = Path(root)
    if not (root / "text").is_dir() or not (root / "audio").is_dir():
        raise InputError(f"{root}: no folder of dialogues, expected audio/ and text/ in it")
    texts, audio = {path.stem for path in find_texts(root)}, _names(root / "audio", AUDIO_SUFFIXES)
    problems = [f"dialogue {name}: {fault}" for name in sorted(texts | audio) if (fault := _fault(name))]
    texts, audio = (set(filterfalse(_fault, names)) for names in (texts, audio))
    problems += [
        f"dialogue {name}: no audio/{name}.wav (or {', '.join(AUDIO_SUFFIXES[1:])})"
        for name in sorted(texts - audio)
    ]
    problems += [f"dialogue {name}: no text/{name}.json" for name in sorted(audio - texts)]
    if not texts and not audio and not problems:
        raise InputError(f"{root}: no dialogue in it, expected text/<id>.json and audio/<id>.wav")
    return sorted(texts & audio), problems


def find_texts(root: str | Path) -> list[Path]:
    """The files `<root>/text/<id>.json` by id, whether or not their dialogues are complete."""
    return [Path(root) / "text" / f"{name}.json" for name in sorted(_names(Path(root) / "text", (".json",)))]


def _names(folder: Path, suffixes: Sequence[str]) -> set[str]:
    """Names of files without their suffix; not those that macOS leaves next to files (`._x.json`)."""
    files = (p for p in folder.glob("*") if p.suffix.lower() in suffixes)
    return {p.stem for p in files if not p.name.startswith("._")}


def _fault(name: str) -> str | None:
    """Why no dialogue can have this name."""
    if name.startswith("."):
        return "its name begins with a dot, so its record would be hidden; rename it"
    if not name.isprintable():
        return "its name holds a character that cannot be printed; rename it"
    return None


def dialogue_ids(root: str | Path) -> list[str]:
    """The ids of all dialogues under `root`, sorted.

    Raises:
        InputError: no such folder, no dialogue in it, or a list of those that lack their audio or their text.
    """
    names, problems = find_dialogues(root)
    if problems:
        raise InputError(f"{root}: {len(problems)} dialogues are not complete", problems)
    return names


def read_dialogue(root: str | Path, name: str) -> Dialogue:
    """One dialogue, its text and oracle records read and checked.

    Raises:
        InputError: names the dialogue and what is wrong: broken JSON, a word without a field, a speaker other than
            A and B, a speaker who never speaks, no audio.
    """
    root = Path(root)
    words = read_words(root / "text" / f"{name}.json")
    speakers = {w.speaker for w in words}
    if speakers - set(CHANNELS):
        raise InputError(f"dialogue {name}: speakers {sorted(speakers)}, expected only {sorted(CHANNELS)}")
    if missing := sorted(set(CHANNELS) - speakers):
        raise InputError(f"dialogue {name}: no word of speaker {', '.join(missing)}, expected words of both")
    audio = find_audio(root, name)
    oracle = root / "oracle_raw" / f"{name}.json"
    return Dialogue(name, audio, tuple(words), tuple(_read_list(oracle)) if oracle.exists() else None)


def read_words(path: Path) -> list[Word]:
    """The words of `text/<id>.json`, of any speakers.

    Raises:
        InputError: names the dialogue and what is wrong.
    """
    items = _read_list(path)
    try:
        return words_from_json(items)
    except InputError as e:
        raise InputError(f"dialogue {path.stem}: text/{path.name}: {e}") from e


def _read_list(path: Path) -> list[Any]:
    try:
        return read_json_list(path)
    except InputError as e:
        short = str(e).removeprefix(f"{path.parent.parent}/")
        raise InputError(f"dialogue {path.stem}: {short}") from None


def find_audio(root: Path, name: str) -> Path:
    """The sound file of a dialogue, its suffix in any case.

    Raises:
        InputError: there is none.
    """
    exact = (root / "audio" / f"{name}{suffix}" for suffix in AUDIO_SUFFIXES)
    found = next((p for p in exact if p.exists()), None) or next(
        (p for p in (root / "audio").iterdir() if p.stem == name and p.suffix.lower() in AUDIO_SUFFIXES), None
    )
    if found is None:
        raise InputError(f"dialogue {name}: no audio/{name}.wav")
    return found


def read_stereo(dialogue: Dialogue, sample_rate: int = 24_000) -> np.ndarray:
    """Both speakers' audio: float32 `[2, samples]`, A first.

    Raises:
        InputError: names the dialogue; also when the file is not stereo.
    """
    try:
        audio = read_channels(dialogue.audio, sample_rate)
    except InputError as e:
        raise InputError(f"dialogue {dialogue.id}: {e}") from e
    if audio.shape[0] != len(CHANNELS):
        raise InputError(
            f"dialogue {dialogue.id}: {dialogue.audio.name} has {audio.shape[0]} channels, expected 2: A left, B right"
        )
    return audio


def read_dialogues(root: str | Path, names: Sequence[str] | None = None) -> list[Dialogue]:
    """All dialogues under `root`, or those named.

    Raises:
        InputError: everything that is wrong with them, in one list.
    """
    dialogues, problems = [], []
    for name in dialogue_ids(root) if names is None else names:
        try:
            dialogues.append(read_dialogue(root, name))
        except InputError as e:
            problems.append(str(e))
    if problems:
        raise InputError(f"{root}: {len(problems)} dialogues cannot be read", problems)
    return dialogues
