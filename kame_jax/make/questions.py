"""Question sets to items of one form: GSM8K, MMLU-Pro, HSSBench, MT-Bench and plain JSON lines, local or from the Hub.

No question set is shipped; HSSBench comes without a licence, so only the converter is here. What can be spoken of an
item is `make.rewrite`'s to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kame_jax.errors import InputError

HUB = "hf://datasets/"
FORMATS = ("gsm8k", "mmlu-pro", "hssbench", "mt-bench", "plain")


@dataclass(frozen=True)
class Item:
    """One entry of a question set: a question or several in a row, with what is known of the answers."""

    id: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    """One a question; "" where the set has none."""
    options: tuple[str, ...] = ()
    """Of a multiple choice, fillers removed."""
    reasoning: str = ""
    needs_picture: bool = False


def fetch(source: str) -> Path:
    """A local file; `hf://datasets/<owner>/<name>/<path>[@revision]` is fetched through huggingface_hub.

    Raises:
        InputError: no such file.
    """
    if not source.startswith(HUB):
        if not Path(source).is_file():
            raise InputError(f"{source}: no such file, expected .jsonl, .json or .parquet")
        return Path(source)
    from huggingface_hub import hf_hub_download

    place, _, revision = source.removeprefix(HUB).partition("@")
    parts = place.split("/", 2)
    if len(parts) < 3:
        raise InputError(f"{source}: expected {HUB}<owner>/<name>/<path of a file>")
    try:
        repo = "/".join(parts[:2])
        return Path(hf_hub_download(repo, parts[2], repo_type="dataset", revision=revision or None))
    except Exception as error:  # of many kinds, the network's among them
        raise InputError(f"{source}: cannot be fetched: {' '.join(str(error).split())[:300]}") from None


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a .jsonl, .json or .parquet file with their numbers from 1; a line that is no JSON comes as its error.

    Raises:
        InputError: another kind of file, or one that cannot be read at all.
    """
    if path.suffix == ".parquet":
        from kame_jax.data.parquet import parquet_rows

        yield from enumerate(parquet_rows(path), 1)
    elif path.suffix == ".json":
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: is not JSON: {error}") from None
        rows = (
            value if isinstance(value, list) else next((v for v in value.values() if isinstance(v, list)), [])
        )
        yield from enumerate(rows, 1)
    elif path.suffix in (".jsonl", ".ndjson"):
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except json.JSONDecodeError as error:
                        yield number, InputError(f"is not JSON: {error}")
    else:
        raise InputError(f"{path}: expected a .jsonl, .json or .parquet file")


def recognise(row: Any) -> str:
    """The format of a row."""
    if not isinstance(row, Mapping):
        return "plain"
    if "pic_path" in row and "correct_answer" in row:
        return "hssbench"
    if "answer_index" in row and "options" in row:
        return "mmlu-pro"
    if "turns" in row and "category" in row:
        return "mt-bench"
    if "question" in row and "####" in str(row.get("answer", "")):
        return "gsm8k"
    return "plain"


def read_items(source: str, form: str | None = None) -> Iterator[Item | InputError]:
    """The items of a question set; a row that is none comes as its error, one line with the row's number.

    Args:
        source: see `fetch`.
        form: in `FORMATS`; None recognises it row by row.

    Raises:
        InputError: what `fetch` and `read_rows` raise.
    """
    path = fetch(source)
    for number, row in read_rows(path):
        try:
            if isinstance(row, InputError):
                raise row
            if not isinstance(row, Mapping):
                raise InputError(f"expected an object, got {str(row)[:60]!r}")
            yield READERS[form or recognise(row)](row, number)
        except KeyError as error:
            yield InputError(f"{path.name}, row {number}: no field {error}")
        except (InputError, TypeError, ValueError, IndexError) as error:
            yield InputError(f"{path.name}, row {number}: {error}")


def _gsm8k(row: Mapping[str, Any], number: int) -> Item:
    reasoning, mark, final = str(row["answer"]).partition("####")
    if not mark:
        raise InputError("no final answer after ####")
    reasoning = re.sub(r"<<[^<>]*>>", "", reasoning).strip()
    return Item(f"gsm8k-{number:05d}", (str(row["question"]),), (final.strip(),), reasoning=reasoning)


def _mmlu_pro(row: Mapping[str, Any], number: int) -> Item:
    options = [str(option).strip() for option in row["options"]]
    answer = options[int(row["answer_index"])]
    kept = tuple(option for option in options if option.upper() != "N/A")
    reasoning = re.sub(r"^A: Let's think step by step\.?\s*", "", str(row.get("cot_content") or ""))
    return Item(
        f"mmlu-pro-{row.get('question_id', number)}", (str(row["question"]),), (answer,), kept, reasoning
    )


def _hssbench(row: Mapping[str, Any], number: int) -> Item:
    options = row.get("options") or []
    if isinstance(options, Mapping):
        labelled = {str(key): str(value) for key, value in options.items()}
    else:
        labelled = dict(zip("ABCDE", (re.sub(r"^[A-E][.:)]\s*", "", str(option)) for option in options)))
    correct = str(row["correct_answer"]).strip()
    answer = labelled.get(correct[:1], correct) if labelled else correct
    return Item(
        f"hssbench-{row.get('id', number)}",
        (str(row["question"]),),
        (answer,),
        tuple(labelled.values()),
        needs_picture=bool(row.get("pic_path")),
    )


def _mt_bench(row: Mapping[str, Any], number: int) -> Item:
    questions = tuple(str(turn) for turn in row["turns"])
    known = [str(answer) for answer in row.get("reference") or ()]
    answers = tuple((known + [""] * len(questions))[: len(questions)])
    return Item(f"mt-bench-{row.get('question_id', number)}", questions, answers)


def _plain(row: Mapping[str, Any], number: int) -> Item:
    name = re.sub(r"[^\w.-]+", "-", str(row.get("id", f"q{number:05d}"))).strip("-.") or f"q{number:05d}"
    if "turns" in row:
        pairs = [(str(turn["question"]), str(turn.get("answer", ""))) for turn in row["turns"]]
        return Item(name, tuple(q for q, _ in pairs), tuple(a for _, a in pairs))
    options = tuple(str(option) for option in row.get("options") or ())
    return Item(name, (str(row["question"]),), (str(row.get("answer", "")),), options)


READERS = {
    "gsm8k": _gsm8k,
    "mmlu-pro": _mmlu_pro,
    "hssbench": _hssbench,
    "mt-bench": _mt_bench,
    "plain": _plain,
}
