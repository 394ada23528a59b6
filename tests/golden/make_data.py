"""Writes data/*.json: what kame_finetune's own functions make of small dialogues.

Usage: make_data.py KAME_FINETUNE, the path of a checkout of SakanaAI/kame_finetune (2937514). Runs in the environment
that setup.sh prepares; kame_jax is not imported.
"""

import json
import random
import sys
import types
from pathlib import Path

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SAMPLE = ROOT / "kame_jax" / "assets" / "dialogues"

sys.path.insert(0, sys.argv[1])
sys.modules.setdefault("pandas", types.ModuleType("pandas"))  # writes parquet files, which nothing here does
from tools.prepare_dataset import merge_text_audio  # noqa: E402
from tools.tokenize_oracle import build_oracle_events_for_channel  # noqa: E402
from tools.tokenize_text import tokenize_and_pad_text  # noqa: E402
from utils.data import DataCollator, preprocess_function  # noqa: E402

generation = types.ModuleType("oracle_generation")
sys.modules[generation.__name__] = generation  # dataclasses look their module up
# The file's `type X = ...` statements need Python 3.12; this environment may be older, and nothing reads them.
source = (Path(sys.argv[1]) / "tools" / "oracle_generation.py").read_text()
exec("\n".join(line for line in source.splitlines() if not line.startswith("type ")), vars(generation))

VOCABULARY = (
    "Martha Oliver Rome Tokyo red green in with from one the Zoë naïve 日本 attic x I'm café ok".split()
)


def random_words(rng: random.Random, speaker: str, count: int, *, odd: bool) -> list[dict]:
    """Words in time order; every third start is an exact multiple of 80 ms, some words take no time or overlap."""
    words, time = [], 0.0
    for i in range(count):
        start = round(time / 0.08) * 0.08 if i % 3 == 0 else round(time, 3)
        end = start + rng.choice((0.0, 0.07, 0.16, 0.24, 0.5, 0.8))
        word = rng.choice(VOCABULARY)
        words.append(
            {
                "speaker": speaker,
                "word": f" {word} " if odd and i % 4 == 0 else word,
                "start": start,
                "end": end,
            }
        )
        time = end + rng.choice((-0.04, 0.0, 0.05, 0.3, 1.2))
        time = max(time, start)
    if odd:
        rng.shuffle(words)
    return words


def alignments(tokenizer: SentencePieceProcessor) -> list[dict]:
    rng = random.Random(0)
    cases = []
    for i in range(60):
        words = random_words(rng, "A", rng.randint(1, 9), odd=i % 2 == 1)
        cases.append({"words": [dict(w) for w in words], "spaces": i % 5 != 4})
    for path in sorted((SAMPLE / "text").glob("*.json"))[:6]:
        for speaker in "AB":
            words = [w for w in json.loads(path.read_text()) if w["speaker"] == speaker]
            cases.append({"words": words, "spaces": True})
    crowded = [{"speaker": "A", "word": "x" * 20, "start": 0.0, "end": 0.01}]
    cases.append({"words": crowded, "spaces": True})
    for case in cases:
        try:
            case["tokens"] = tokenize_and_pad_text(
                word_transcript=[dict(w) for w in case["words"]],
                no_whitespace_before_word=not case["spaces"],
                text_tokenizer=tokenizer,
                text_padding_id=3,
                end_of_text_padding_id=0,
                audio_tokenizer_frame_rate=12.5,
            )
        except ValueError:
            case["tokens"] = None
    return cases


def dialogue_words(rng: random.Random) -> list[dict]:
    """Turns of both speakers with pauses, overlaps and back-channels; every other dialogue is not sorted."""
    words, time = [], rng.uniform(0.0, 0.6)
    speaker = rng.choice("AB")
    for _ in range(rng.randint(2, 5)):
        for _ in range(rng.randint(1, 7)):
            end = round(time + rng.choice((0.1, 0.25, 0.5)), 3)
            words.append(
                {"speaker": speaker, "word": rng.choice(VOCABULARY), "start": round(time, 3), "end": end}
            )
            time = end + rng.choice((0.0, 0.05, 0.2, 1.1))
        speaker = "B" if speaker == "A" else "A"
        time = max(0.0, time + rng.choice((-0.3, 0.1, 0.4, 1.5)))
    if rng.random() < 0.5:
        at = rng.randrange(len(words))
        words[at:at] = [words.pop()]
    return words


def simulations() -> list[dict]:
    rng = random.Random(1)
    cases = []
    for i in range(25):
        words = dialogue_words(rng)
        interval = (0.5, 0.3, 1.0)[i % 3]
        generator = generation.OracleGenerator(
            lambda r: "" if r.total_word_count % 5 == 4 else f" {r.next_speaker} {r.next_utterance_hint[:9]}",
            time_interval=interval,
        )
        records = [
            vars(p) for p in generator.generate_predictions(generation.words_from_word_transcript(words))
        ]
        cases.append({"words": words, "interval": interval, "records": records})
    return cases


def oracle_records(rng: random.Random) -> list[dict]:
    records = []
    for _ in range(rng.randint(0, 8)):
        record = {
            "timestamp_ms": rng.choice((-100, 0, 80, 500, 1000, 1500, 2400, 2399.9, 9000, None)),
            "prediction": rng.choice(
                ("", " Martha from Rome ", "In Tokyo\nwith Oliver\n\nnow", "red green blue red", None)
            ),
            "hint": rng.choice(("", "Oliver from Rome", "the red one", "\n", None)),
            "current_spoken_ratio": rng.choice((0.2, 0.6, 1.0, 1.0, None, "x", "0.9")),
            "channel": rng.choice((0, 0, 1, "1")),
        }
        if rng.random() < 0.2:
            del record["channel"]
        records.append(record)
    return records


def lists(events: dict) -> dict:
    return {name: values.tolist() for name, values in events.items()}


def event_cases(tokenizer: SentencePieceProcessor) -> list[dict]:
    rng = random.Random(2)
    cases = []
    for _ in range(40):
        records = oracle_records(rng)
        for channel in (0, 1):
            events = build_oracle_events_for_channel(records, channel, 30, tokenizer, 12.5)
            cases.append({"records": records, "channel": channel, "frames": 30, "events": lists(events)})
    return cases


MODELS = {
    "kame": {"delays": [0, 0, 1, 1, 0, 1, 1], "text_card": 500, "card": 50},
    "late": {"delays": [1, 0, 2, 3, 0, 2, 3], "text_card": 500, "card": 50},
}
CUTS = ({}, {"max_length": 12}, {"max_length": 17, "min_length": 15})
AUGMENTS = {
    "plain": {},
    "reference": {"oracle_shift_prob": 1.0, "oracle_skip_prob_min": 0.1, "oracle_skip_prob_max": 0.7},
    "sometimes": {
        "oracle_shift_prob": 0.5,
        "oracle_right_shift_range": (0, 40),
        "oracle_left_shift_range": (2, 3),
        "oracle_max_time_jitter_frames": 4,
    },
    "hints": {"oracle_hint_only": True, "oracle_skip_prob_max": 0.5},
    "warm": {
        "oracle_hint_only": True,
        "oracle_hint_only_warmup_start": 10,
        "oracle_hint_only_warmup_end": 20,
        "oracle_max_time_jitter_frames": 2,
    },
}


def collations() -> dict:
    rng = random.Random(3)
    records = []
    for i in range(4):
        frames = rng.randint(14, 40)
        record: dict = {"id": f"r{i}"}
        for side in "AB":
            text = [rng.randrange(500) for _ in range(rng.randint(5, 45))]
            audio = np.array([[rng.randrange(50) for _ in range(frames)] for _ in range(3)])
            record[side] = merge_text_audio(np.array(text), audio, 3)
            count = rng.randint(0, 6)
            packed = {}
            for name in ("pred", "hint"):
                tokens = [
                    [rng.randrange(500) for _ in range(rng.choice((0, 2, 5, 12)))] for _ in range(count)
                ]
                packed[f"{name}_values"] = [t for ts in tokens for t in ts]
                packed[f"{name}_offsets"] = np.cumsum([0, *map(len, tokens)]).tolist()
            packed["frame_pos"] = [rng.randrange(frames) for _ in range(count)]
            packed["ratio"] = [rng.choice((0.3, 0.8, 1.0)) for _ in range(count)]
            packed["skip_forbid"] = [rng.randrange(2) for _ in range(count)]
            record[f"{side}_events"] = packed
        records.append(record)
    cases = []
    for model, numbers in MODELS.items():
        initial = [numbers["text_card"]] + [numbers["card"]] * 6
        for cut in CUTS:
            for speakers in (["A"], ["B", "A"]):
                batch: dict = {side: [r[side] for r in records] for side in "AB"}
                for side in "AB":
                    for name in records[0][f"{side}_events"]:
                        column = name if name.startswith(("pred", "hint")) else f"event_{name}"
                        batch[f"{side}_oracle_{column}"] = [r[f"{side}_events"][name] for r in records]
                features = preprocess_function(
                    batch,
                    speakers=speakers,
                    max_length=cut.get("max_length"),
                    min_length=cut.get("min_length"),
                    delays=numbers["delays"],
                    initial_token_ids=initial,
                    padding_token_ids=[3] + initial[1:],
                    zero_token_id=-1,
                    oracle_column_suffix="_oracle",
                )
                examples = [dict(zip(features, values)) for values in zip(*features.values())]
                oracles = {}
                for augment, options in AUGMENTS.items():
                    collator = DataCollator(
                        -1, oracle_pad_id=3, oracle_start_id=numbers["text_card"], **options
                    )
                    collator.set_current_step(14)
                    torch.manual_seed(7)
                    collated = collator(examples)
                    oracles[augment] = collated.oracle_tokens[:, 0].tolist()
                cases.append(
                    {
                        "model": model,
                        "cut": cut,
                        "speakers": speakers,
                        "inputs": collated.input_ids.tolist(),
                        "labels": collated.labels.tolist(),
                        "oracles": oracles,
                    }
                )
    return {"records": records, "models": MODELS, "augments": AUGMENTS, "seed": 7, "step": 14, "cases": cases}


def write(name: str, value: object) -> None:
    folder = HERE / "data"
    folder.mkdir(exist_ok=True)
    items = value if isinstance(value, list) else [value]
    text = ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
    (folder / f"{name}.json").write_text(f"[\n{text}\n]\n" if isinstance(value, list) else text + "\n")


if __name__ == "__main__":
    pieces = SentencePieceProcessor(str(SAMPLE / "tokenizer.model"))
    write("align", alignments(pieces))
    write("simulate", simulations())
    write("events", event_cases(pieces))
    write("collate", collations())
