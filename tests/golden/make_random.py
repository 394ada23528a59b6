"""Writes data/random.json, use_hint.parquet and use_hint.json: kame_finetune's random strategy and what follows it.

Usage: make_random.py KAME_FINETUNE, the path of a checkout of SakanaAI/kame_finetune with `tools/random_oracle.py`
(174256f). Runs in the environment that setup.sh prepares, with pyarrow; kame_jax is not imported.
"""

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sentencepiece import SentencePieceProcessor

HERE = Path(__file__).parent
TOKENIZER = HERE.parent.parent / "kame_jax" / "assets" / "dialogues" / "tokenizer.model"
OUT = HERE / "data"


def stand_in_for_datasets() -> types.ModuleType:
    """As much of the package `datasets` as the reference's schema needs: names and types of columns."""

    class Features(dict):
        @property
        def arrow_schema(self) -> pa.Schema:
            return pa.schema(list(self.items()))

    module = types.ModuleType("datasets")
    module.Features, module.Sequence, module.Value = Features, pa.list_, lambda name: pa.type_for_alias(name)
    return module


def reference_modules(root: Path) -> None:
    """Puts the reference's modules in place; `type X = ...` statements need Python 3.12, and nothing reads them."""
    sys.path.insert(0, str(root))
    sys.modules["datasets"] = stand_in_for_datasets()
    name = "tools.oracle_generation"
    generation = types.ModuleType(name)
    sys.modules[name] = generation
    source = (root / "tools" / "oracle_generation.py").read_text()
    exec("\n".join(line for line in source.splitlines() if not line.startswith("type ")), vars(generation))


reference_modules(Path(sys.argv[1]))
from tools import prepare_dataset  # noqa: E402
from tools.oracle_generation import words_from_word_transcript  # noqa: E402
from tools.random_oracle import build_response_pool, generate_random_predictions  # noqa: E402
from tools.tokenize_oracle import build_oracle_events_for_channel  # noqa: E402
from utils.data import DataCollator, preprocess_function  # noqa: E402

VOCABULARY = "Martha Oliver Rome Tokyo red green in with from one the Zoë naïve attic x I'm café ok".split()
SEED = 42


def dialogue(rng: random.Random) -> list[dict]:
    """Turns of both speakers, with pauses; now and then they overlap."""
    words, time, speaker = [], rng.uniform(0.0, 0.6), rng.choice("AB")
    for _ in range(rng.randint(2, 4)):
        for _ in range(rng.randint(3, 6)):
            end = round(time + rng.choice((0.15, 0.3, 0.5)), 3)
            word = rng.choice(VOCABULARY)
            words.append({"speaker": speaker, "word": word, "start": round(time, 3), "end": end})
            time = end + rng.choice((0.0, 0.05, 0.2, 1.1))
        speaker = "B" if speaker == "A" else "A"
        time = max(0.0, time + rng.choice((-0.2, 0.1, 0.4)))
    return words


def record(prediction: object) -> dict:
    """`prediction_to_record` of the reference's command, which asks for more packages than are here."""
    fields = dataclasses.asdict(prediction)
    if fields["use_hint"] is None:
        del fields["use_hint"]
    return fields


def random_files(tokenizer: SentencePieceProcessor) -> dict:
    """The first ten files, with all dialogues as the pool: the reference stops where too few replies fit."""
    rng = random.Random(5)
    texts = {f"d{i:02}": dialogue(rng) for i in range(40)}
    pool = build_response_pool(
        ((name, words_from_word_transcript(words)) for name, words in texts.items()), tokenizer
    )
    files = {}
    for name, words in list(texts.items())[:10]:
        result = generate_random_predictions(
            words_from_word_transcript(words), dialogue_id=name, pool=pool, tokenizer=tokenizer, seed=SEED
        )
        records = [record(prediction) for prediction in result.predictions]
        files[name] = json.dumps(records, ensure_ascii=False, indent=2) + "\n"
    return {"seed": SEED, "texts": texts, "files": files}


def events(records: list[dict], channel: int, frames: int, tokenizer: SentencePieceProcessor) -> dict:
    """The arrays of one channel, with the flag of each event that is kept."""
    arrays = build_oracle_events_for_channel(records, channel, frames, tokenizer, 12.5)
    kept = [
        entry
        for entry in records
        if len(build_oracle_events_for_channel([entry], channel, frames, tokenizer, 12.5)["event_ratio"])
    ]
    if all("use_hint" in entry for entry in records):
        arrays["event_use_hint"] = np.array([entry["use_hint"] for entry in kept], np.int8)
    return arrays


def write_parquet(made: dict, tokenizer: SentencePieceProcessor) -> None:
    """Some of the dialogues as the reference's file; one has no flags, as older oracles have none."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind in ("text", "audio", "oracle"):
            (root / kind).mkdir()
        for number, name in enumerate(sorted(made["files"])[:6]):
            records = json.loads(made["files"][name])
            if number == 2:
                records = [{k: v for k, v in r.items() if k != "use_hint"} for r in records]
            # One dialogue ends before its last events.
            seconds = made["texts"][name][-1]["end"] - (1.0 if number == 1 else -0.3)
            frames = int(seconds * 12.5)
            np.savez(root / "text" / f"{name}.npz", **{s: rng.integers(4, 500, frames - 3) for s in "AB"})
            np.savez(root / "audio" / f"{name}.npz", **{s: rng.integers(0, 50, (3, frames)) for s in "AB"})
            arrays = {
                f"{side}_{key}": value
                for channel, side in enumerate("AB")
                for key, value in events(records, channel, frames, tokenizer).items()
            }
            np.savez(root / "oracle" / f"{name}.npz", **arrays)
        prepare_dataset.main(
            argparse.Namespace(
                tokenized_text_dir=str(root / "text"),
                tokenized_audio_dir=str(root / "audio"),
                tokenized_oracle_dir=str(root / "oracle"),
                output_prefix=str(root / "out" / "set"),
                text_padding_id=3,
                num_examples_per_parquet=100,
            )
        )
        table = pq.read_table(root / "out" / "set-001-of-001.parquet")
    names = [f"set/{name.rsplit('/', 1)[-1]}" for name in table.column("dialogue_id").to_pylist()]
    table = table.set_column(0, "dialogue_id", pa.array(names))
    pq.write_table(table, OUT / "use_hint.parquet", compression="zstd")


MODEL = {"delays": [0, 0, 1, 1, 0, 1, 1], "text_card": 512, "card": 50}
AUGMENTS = {
    "plain": {},
    "reference": {"oracle_shift_prob": 1.0, "oracle_skip_prob_min": 0.1, "oracle_skip_prob_max": 0.7},
    "skips": {"oracle_skip_prob_min": 0.9, "oracle_skip_prob_max": 0.95, "oracle_max_time_jitter_frames": 3},
    "hints": {"oracle_hint_only": True, "oracle_skip_prob_max": 0.5, "oracle_max_time_jitter_frames": 3},
}


def collations() -> dict:
    """Rows of the collator for the dialogues with flags; it takes no batch in which only some have them."""
    rows = pq.read_table(OUT / "use_hint.parquet").to_pylist()
    rows = [row for row in rows if row["A_oracle_event_use_hint"] is not None]
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    cases = []
    for cut, speakers in (({}, ["A"]), ({}, ["B", "A"]), ({"max_length": 21}, ["A", "B"])):
        initial = [MODEL["text_card"]] + [MODEL["card"]] * 6
        features = preprocess_function(
            batch,
            speakers=speakers,
            max_length=cut.get("max_length"),
            min_length=None,
            delays=MODEL["delays"],
            initial_token_ids=initial,
            padding_token_ids=[3] + initial[1:],
            zero_token_id=-1,
        )
        examples = [dict(zip(features, values)) for values in zip(*features.values())]
        oracles = {}
        for name, options in AUGMENTS.items():
            collator = DataCollator(-1, oracle_pad_id=3, oracle_start_id=MODEL["text_card"], **options)
            torch.manual_seed(7)
            oracles[name] = collator(examples).oracle_tokens[:, 0].tolist()
        cases.append({"cut": cut, "speakers": speakers, "oracles": oracles})
    return {"model": MODEL, "seed": 7, "cases": cases}


def write(name: str, value: object) -> None:
    (OUT / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    pieces = SentencePieceProcessor(str(TOKENIZER))
    made = random_files(pieces)
    write("random", made)
    write_parquet(made, pieces)
    write("use_hint", collations())
