"""The steps of `kame-jax demo`, each a function from files to files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kame_jax.assets import TINY
from kame_jax.checkpoint.native import Meta
from kame_jax.checkpoint.native import save as save_native
from kame_jax.codec import mimi as codec
from kame_jax.codec.audio import write_audio
from kame_jax.codec.recording import decode_recording, encode_recording
from kame_jax.config import ModelConfig, RunConfig
from kame_jax.data.collate import oracle_row
from kame_jax.data.cutting import make_samples
from kame_jax.data.dialogue import read_dialogue, read_dialogues, read_stereo
from kame_jax.data.records import Record, load_records, save_record
from kame_jax.decode import greedy
from kame_jax.decode.offline import reply
from kame_jax.demo.dialogues import ROOT, TOKENIZER, SampleEntry, mean_recall, sample_entries
from kame_jax.demo.splice import find_exchanges, splice
from kame_jax.files import write_whole
from kame_jax.interop import load_checkpoint, load_mimi, open_checkpoint
from kame_jax.interop.export import export
from kame_jax.interop.safetensors_file import SafetensorsFile
from kame_jax.oracle import OracleSchedule
from kame_jax.oracle.levels import hint_level
from kame_jax.oracle.text import TOKENIZER_NAME, decode_text, encode_oracle, load_tokenizer
from kame_jax.picture import Mark, conversation
from kame_jax.train.corpus import Tokenizers, read_records

TAIL_FRAMES = 12
"""Silence after each question's recording, so that a late answer is complete."""
SPLICED = 2000
"""Dialogues that the model is trained on, put together from the recorded ones."""
PER_DIALOGUE = 4
"""Exchanges of a spliced dialogue, as many as of a recorded one."""


@dataclass(frozen=True)
class Conversation:
    """One held-out question under the three oracles."""

    entry: SampleEntry
    record: Record
    tokens: dict[str, np.ndarray]
    """Condition -> int32 `[1 + dep_q, frames]`."""
    oracle: dict[str, np.ndarray]
    """Condition -> int32 `[frames]`."""


@dataclass(frozen=True)
class Answers:
    """The replies to the held-out questions."""

    config: ModelConfig
    conversations: list[Conversation]
    table: list[dict[str, str]]
    scores: dict[str, Any]


def _progress() -> Progress:
    columns = (
        TextColumn("      {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def tokenise(config: RunConfig, folder: Path) -> dict[str, Any]:
    """The bundled dialogues as records; returns what they hold.

    `folder/heldout` gets the held-out ones as they are, `folder/train` the exchanges of the others in new combinations.
    """
    dialogues = read_dialogues(ROOT)
    splits = {entry.id: entry.split for entry in sample_entries()}
    tokenizer = load_tokenizer(TOKENIZER)
    with _progress() as bar:
        task = bar.add_task("dialogues", total=len(dialogues))
        records = read_records(
            ROOT,
            config.model,
            lambda: Tokenizers(TOKENIZER, str(TINY)),
            rules=config.data.rules,
            progress=lambda done, total, text: bar.update(task, completed=done, total=total),
        )
    training = [record for record in records if splits[record.id] == "train"]
    exchanges = find_exchanges(
        training,
        dialogues,
        tokenizer,
        pad_id=config.model.text_padding_id,
        end_pad_id=config.model.text_end_padding_id,
        frame_rate=config.codec.frame_rate,
    )
    rng = np.random.default_rng(config.seed)
    silent = (config.model.text_padding_id, config.model.text_end_padding_id)
    for record in splice(exchanges, SPLICED, PER_DIALOGUE, rng, silent):
        save_record(folder / "train", record)
    for record in records:
        if splits[record.id] == "heldout":
            save_record(folder / "heldout", record)
    levels = [hint_level(float(ratio)) for record in records for ratio in record.events["A"].ratio]
    frames = sum(record.frames for record in records)
    return {
        "dialogues": len(records),
        "heldout": len(records) - len(training),
        "exchanges": len(exchanges),
        "spliced": SPLICED,
        "minutes": round(frames / config.codec.frame_rate / 60, 1),
        "oracle_events": {str(level): levels.count(level) for level in sorted(set(levels))},
    }


def train(config: RunConfig) -> dict[str, Any]:
    """Trains; returns the result of the trainer, with the path of the last `checkpoint`."""
    from kame_jax.train.loop import run

    return run(config)


def convert(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Ours -> `out/kame` (PyTorch's layout, with codec and tokenizer) -> ours -> PyTorch's; compares the two exports.

    Raises:
        RuntimeError: a tensor came back with different bytes.
    """
    bundle, again = out / "kame", out / "again"
    export(open_checkpoint(checkpoint), bundle, "kame")
    imported = open_checkpoint(bundle)
    save_native(again / "jax", imported.weights, Meta(imported.config, imported.provenance))
    export(open_checkpoint(again / "jax"), again / "kame", "kame")
    first, second = (SafetensorsFile(folder / "model.safetensors") for folder in (bundle, again / "kame"))
    with first, second:
        if list(first.infos) != list(second.infos):
            raise RuntimeError("the round trip changed the list of tensors")
        changed = [key for key in first.infos if first.read(key).tobytes() != second.read(key).tobytes()]
        if changed:
            raise RuntimeError(f"the round trip changed {len(changed)} tensors: {', '.join(changed[:5])}")
        count, size = len(first.infos), (bundle / "model.safetensors").stat().st_size
    shutil.rmtree(again)
    for name in ("mimi.safetensors", "mimi_config.json", TOKENIZER_NAME):
        shutil.copyfile(TINY / name, bundle / name)
    settings = json.loads((bundle / "config.json").read_text())
    settings |= {
        "mimi_name": "mimi.safetensors",
        "mimi_config_name": "mimi_config.json",
        "tokenizer_name": TOKENIZER_NAME,
    }
    write_whole(
        bundle / "config.json", lambda file: file.write((json.dumps(settings, indent=4) + "\n").encode())
    )
    return {"checkpoint": str(bundle), "tensors": count, "bytes": size}


def answer(out: Path) -> Answers:
    """Streams the held-out questions from the exported checkpoint, greedily, under the three oracles."""
    tokenizer = load_tokenizer(TOKENIZER)
    config, model = load_checkpoint(out / "kame")
    mimi = load_mimi(out / "kame")
    quiet = encode_recording(
        codec.prepare(mimi, config.num_user_rows), np.zeros((1, mimi.config.frame_size), np.float32)
    )[0, :, 0]
    entries = {entry.id: entry for entry in sample_entries("heldout")}
    records = load_records(out / "records" / "heldout")
    frames = max(record.frames for record in records) + TAIL_FRAMES
    user = np.stack([_heard(record, quiet, frames) for record in records])
    schedule = OracleSchedule(config.text_card, config.text_padding_id)
    right = np.stack([_right_oracle(record, config, schedule, frames) for record in records])
    none = np.full_like(right, config.text_padding_id)
    with _progress() as bar:
        task = bar.add_task("frames", total=2 * frames)

        def stream(users: np.ndarray, oracle: np.ndarray, done: int) -> np.ndarray:
            keys = jax.random.split(jax.random.key(0), len(users))
            return reply(
                model, users, quiet, oracle, greedy(len(users)), keys,
                progress=lambda step, _: bar.update(task, completed=done + step),
            )  # fmt: skip

        both = stream(np.concatenate([user, user]), np.concatenate([right, none]), 0)
        spoken, silent = np.split(both, 2)
        changed = np.stack(
            [
                _changed_oracle(row, tokens, entries[record.id], tokenizer, schedule)
                for row, tokens, record in zip(right, spoken, records)
            ]
        )
        revised = stream(user, changed, frames)
    conversations = [
        Conversation(
            entries[record.id],
            record,
            {"right": spoken[i], "none": silent[i], "changed": revised[i]},
            {"right": right[i], "none": none[i], "changed": changed[i]},
        )
        for i, record in enumerate(records)
    ]
    said = [{name: decode_text(tokenizer, t[0]) for name, t in c.tokens.items()} for c in conversations]
    table = [
        {
            "question": c.entry.question,
            "oracle": c.entry.answer.text,
            "changed_oracle": c.entry.alternative.text if c.entry.alternative else "",
            "with_oracle": words["right"],
            "without_oracle": words["none"],
            "changed": words["changed"],
        }
        for c, words in zip(conversations, said)
    ]
    return Answers(config, conversations, table, _scores(conversations, said))


def _scores(conversations: list[Conversation], said: list[dict[str, str]]) -> dict[str, Any]:
    """Share of fact words said: all of them, and after a change of mind those that were still to come."""
    true = [c.entry.answer.facts for c in conversations]
    new = [c.entry.alternative.facts if c.entry.alternative else () for c in conversations]

    def share(facts: list[tuple[str, ...]], name: str) -> float:
        return round(mean_recall(zip(facts, (words[name] for words in said))), 4)

    return {
        "questions": len(conversations),
        "fact_words": sum(len(facts) for facts in true),
        "with_oracle": share(true, "right"),
        "without_oracle": share(true, "none"),
        "changed_to_new": share([facts[1:] for facts in new], "changed"),
        "changed_to_old": share([facts[1:] for facts in true], "changed"),
    }


def _heard(record: Record, quiet: np.ndarray, frames: int) -> np.ndarray:
    """The caller's codes, then silence: int32 `[codebooks, frames]`."""
    codes = record.tokens["B"][1:]
    tail = np.repeat(quiet[:, None], frames - codes.shape[1], axis=1)
    return np.concatenate([codes, tail], axis=1)


def _right_oracle(record: Record, config: ModelConfig, schedule: OracleSchedule, frames: int) -> np.ndarray:
    """The oracle at each user frame, as training would show it undisturbed."""
    (sample,) = make_samples([record], config)
    row = oracle_row(sample, schedule)[1:][:frames]
    return np.pad(row, (0, frames - len(row)), constant_values=schedule.pad_id)


def _changed_oracle(
    row: np.ndarray, spoken: np.ndarray, entry: SampleEntry, tokenizer: Any, schedule: OracleSchedule
) -> np.ndarray:
    """The right oracle until the answer has begun, then the alternative: its first fact comes just too late."""
    assert entry.alternative is not None
    fact = entry.answer.facts[0]
    said = np.flatnonzero(np.isin(spoken[0], tokenizer.encode(fact)))
    before = len(encode_oracle(tokenizer, entry.answer.text.partition(fact)[0].strip()))
    at = max(int(said[0]) - before, 0) if said.size else len(row) // 2
    after = schedule.row([at], [encode_oracle(tokenizer, entry.alternative.text)], len(row))
    return np.where(np.arange(len(row)) < at, row, after)


def show(out: Path, answers: Answers) -> list[Path]:
    """Pictures and sound of the first held-out question under each oracle."""
    tokenizer = load_tokenizer(TOKENIZER)
    mimi = load_mimi(out / "kame")
    ready = codec.prepare(mimi, answers.config.dep_q)
    chosen = answers.conversations[0]
    dialogue = read_dialogue(ROOT, chosen.entry.id)
    rate = mimi.config.sample_rate
    caller = read_stereo(dialogue, rate)[1]
    words = [Mark(word.start, word.word) for word in dialogue.words if word.speaker == "B"]
    titles = {
        "right": f"The oracle says: {chosen.entry.answer.text}",
        "none": "No oracle",
        "changed": f"The oracle changes its mind: {chosen.entry.alternative.text if chosen.entry.alternative else ''}",
    }
    batch = np.stack([chosen.tokens[name][1:] for name in titles])
    voices = decode_recording(ready, batch)
    files = []
    for name, own in zip(titles, voices):
        heard = np.pad(caller, (0, max(len(own) - len(caller), 0)))[: len(own)]
        files.append(out / f"{name}.wav")
        write_audio(files[-1], own, rate)
        files.append(out / f"{name}.png")
        conversation(
            files[-1], tokenizer, mimi.config, answers.config, heard, own, chosen.tokens[name][0], chosen.oracle[name],
            title=titles[name], user_words=words,
        )  # fmt: skip
    return files + sorted((out / "train" / "plots").glob("*.png"))
