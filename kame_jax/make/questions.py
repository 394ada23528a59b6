"""Question sets to items of one form: GSM8K, MMLU-Pro, HSSBench, MT-Bench and plain JSON lines, local or from the Hub.

No question set is shipped; HSSBench comes without a licence, so only the converter is here. What of an item can be
spoken is decided in `make.rewrite`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kame_jax.errors import InputError
from kame_jax.files import read_text

HUB = "hf://datasets/"
NAME_LENGTH = 80
"""Most characters of an item's name, which is a file's name later."""
FORMATS = ("gsm8k", "mmlu-pro", "hssbench", "mt-bench", "plain")


@dataclass(frozen=True)
class Item:
    """One entry of a question set: a question or several in a row, with what is known of the answers."""

    id: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    """One per question; "" where the set has none."""
    options: tuple[str, ...] = ()
    """Of a multiple choice, fillers removed."""
    reasoning: str = ""
    needs_picture: bool = False

    @property
    def digest(self) -> str:
        """A hash of the item's content, independent of its name."""
        facts = dataclasses.asdict(self) | {"id": None}
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


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
    except Exception as error:  # of many kinds, network errors among them
        raise InputError(f"{source}: cannot be fetched: {' '.join(str(error).split())[:300]}") from None


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a .jsonl, .json or .parquet file with numbers from 1; a line that is not JSON is yielded as its error.

    Raises:
        InputError: another kind of file, or one that cannot be read at all (not UTF-8, for example).
    """
    if path.suffix == ".parquet":
        from kame_jax.data.parquet import parquet_rows

        yield from enumerate(parquet_rows(path), 1)
    elif path.suffix == ".json":
        value = _parsed(read_text(path, "a list of rows in JSON"))
        if isinstance(value, Mapping):
            value = next((v for v in value.values() if isinstance(v, list)), value)
        if not isinstance(value, list):
            raise InputError(
                f"{path}: {value if isinstance(value, InputError) else 'expected a list of rows'}"
            )
        yield from enumerate(value, 1)
    elif path.suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(read_text(path, "JSON lines").split("\n"), 1):
            if line.strip():
                yield number, _parsed(line)
    else:
        raise InputError(f"{path}: expected a .jsonl, .json or .parquet file")


def _parsed(text: str) -> Any:
    """A JSON value, or the error that it is not one."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return InputError(f"is not JSON: {error}")


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
    """The items of a question set; a row that is not an item is yielded as its error, one line with the row's number.

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
            yield _checked(READERS[form or recognise(row)](row, number))
        except KeyError as error:
            yield InputError(f"{path.name}, row {number}: no field {error}")
        except (InputError, TypeError, ValueError, IndexError, AttributeError) as error:
            yield InputError(f"{path.name}, row {number}: {error}")


def _checked(item: Item) -> Item:
    if not item.questions:
        raise InputError("has no question")
    if len(item.answers) != len(item.questions):
        raise InputError(f"has {len(item.questions)} questions and {len(item.answers)} answers")
    return item


def _text(row: Mapping[str, Any], field: str) -> str:
    """A field's text; a number is written out. Raises KeyError when it is missing, InputError when it is empty."""
    value = row[field]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{field} is {'empty' if isinstance(value, str) else repr(value)[:60]}, expected text"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{field} holds half of a surrogate pair, which is not a character") from None
    return value


def _optional(row: Mapping[str, Any], field: str) -> str:
    """A field's text; "" where the set has none (missing, null, NaN or empty)."""
    value = row.get(field)
    missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
    return "" if missing else _text(row, field)


def _texts(row: Mapping[str, Any], field: str) -> list[str]:
    values = row[field]
    if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
        raise InputError(f"{field} is {repr(values)[:60]}, expected a list of texts")
    return [_text({field: value}, field).strip() for value in values]


def _name(value: Any, fallback: str) -> str:
    """A name that a file can have: of letters, digits, "_", "." and "-", and of bounded length."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return fallback
    name = re.sub(r"[^\w.-]+", "-", str(value)).strip("-.")
    if not name or len(name.encode()) > NAME_LENGTH:
        digest = hashlib.sha256(repr(value).encode()).hexdigest()[:12]
        name = f"{name.encode()[: NAME_LENGTH - 13].decode(errors='ignore')}-{digest}" if name else fallback
    return name


def _gsm8k(row: Mapping[str, Any], number: int) -> Item:
    reasoning, mark, final = _text(row, "answer").partition("####")
    if not mark or not final.strip():
        raise InputError("no final answer after ####")
    reasoning = re.sub(r"<<[^<>]*>>", "", reasoning).strip()
    return Item(f"gsm8k-{number:05d}", (_text(row, "question"),), (final.strip(),), reasoning=reasoning)


def _mmlu_pro(row: Mapping[str, Any], number: int) -> Item:
    options = _texts(row, "options")
    index = row["answer_index"]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        raise InputError(f"answer_index is {index!r}, expected 0 to {len(options) - 1}")
    answer = options[index]
    kept = tuple(option for option in options if option.upper() != "N/A")
    reasoning = re.sub(r"^A: Let's think step by step\.?\s*", "", _optional(row, "cot_content"))
    name = _name(row.get("question_id"), f"{number:05d}")
    return Item(f"mmlu-pro-{name}", (_text(row, "question"),), (answer,), kept, reasoning)


def _hssbench(row: Mapping[str, Any], number: int) -> Item:
    options = row.get("options") or []
    if isinstance(options, Mapping):
        labelled = {str(key): _text(options, key) for key in options}
    else:
        texts = _texts(row, "options") if options else []
        labelled = dict(zip("ABCDE", (re.sub(r"^[A-E][.:)]\s*", "", text) for text in texts)))
    correct = _text(row, "correct_answer").strip()
    answer = labelled.get(correct[:1], correct) if labelled else correct
    return Item(
        f"hssbench-{_name(row.get('id'), f'{number:05d}')}",
        (_text(row, "question"),),
        (answer,),
        tuple(labelled.values()),
        needs_picture=bool(row.get("pic_path")),
    )


def _mt_bench(row: Mapping[str, Any], number: int) -> Item:
    questions = tuple(_texts(row, "turns"))
    reference = row.get("reference") or []
    if not isinstance(reference, list | tuple):
        raise InputError(f"reference is {repr(reference)[:60]}, expected a list of texts")
    known = [_optional({"reference": answer}, "reference") for answer in reference]
    answers = tuple((known + [""] * len(questions))[: len(questions)])
    return Item(f"mt-bench-{_name(row.get('question_id'), f'{number:05d}')}", questions, answers)


def _plain(row: Mapping[str, Any], number: int) -> Item:
    name = _name(row.get("id"), f"q{number:05d}")
    if "turns" in row:
        pairs = [(_text(turn, "question"), _optional(turn, "answer")) for turn in row["turns"]]
        return Item(name, tuple(q for q, _ in pairs), tuple(a for _, a in pairs))
    options = tuple(_texts(row, "options")) if row.get("options") else ()
    return Item(name, (_text(row, "question"),), (_optional(row, "answer"),), options)


READERS = {
    "gsm8k": _gsm8k,
    "mmlu-pro": _mmlu_pro,
    "hssbench": _hssbench,
    "mt-bench": _mt_bench,
    "plain": _plain,
}
