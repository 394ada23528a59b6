"""`kame-jax demo`: the whole story on the bundled dialogues, offline, in minutes.

Tokenise, build oracle events, train a tiny four-stream model, export it to PyTorch's layout and back, then let it
answer held-out questions with the right oracle, with none, and with one that changes its mind.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kame_jax.cli.common import add_common, emit, log
from kame_jax.errors import InputError

if TYPE_CHECKING:
    from kame_jax.config import RunConfig

STEPS = 5


def add_parser(subparsers: Any) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser("demo", help="the whole story, offline, in minutes", description=__doc__)
    parser.add_argument("--out", default="runs/demo", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument(
        "--config", default="tiny", metavar="CONFIG", help="the configuration to train (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: %(default)s)"
    )
    parser.add_argument(
        "overrides", metavar="a.b=c", nargs="*", help="settings that replace those of the config"
    )
    add_common(parser)
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Run the demo, and leave a report, pictures and sound in the folder."""
    from kame_jax.train.malloc import keep_freed_memory

    keep_freed_memory()
    from kame_jax.assets import TINY
    from kame_jax.config import load_run

    out = Path(args.out)
    if out.exists() and not (out / "report.json").exists() and any(out.iterdir()):
        raise InputError(f"{out}: exists and is not an earlier demo; give another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    overrides = [
        *args.overrides,
        f"run_dir={out / 'train'}",
        f"seed={args.seed}",
        f"data.path={out / 'records' / 'train'}",
        f"data.eval_path={out / 'records' / 'heldout'}",
        f"data.codec={TINY}",
    ]
    report = tell(load_run(args.config, overrides), out)
    emit(args, report, _table(report))


def tell(config: RunConfig, out: Path) -> dict[str, Any]:
    """Runs the five steps.

    Args:
        config: of the training; its data paths are inside `out`.
        out: an empty folder.

    Returns:
        The report, also written to `out/report.json`.
    """
    from kame_jax.demo import story
    from kame_jax.files import write_whole

    started = time.perf_counter()
    seconds: dict[str, float] = {}

    def step(number: int, title: str) -> float:
        log(f"[{number}/{STEPS}] {title}")
        return time.perf_counter()

    at = step(1, "tokenise: audio to codes, words to frames, oracle records to events")
    tokens = story.tokenise(config, out / "records")
    log(f"      {tokens['dialogues']} dialogues, {tokens['minutes']} minutes, oracle events by hint level: "
        + ", ".join(f"{level}: {count}" for level, count in tokens["oracle_events"].items()))  # fmt: skip
    seconds["tokenise"] = time.perf_counter() - at

    at = step(2, f"train: {config.train.steps} steps of {config.train.batch_size} dialogues")
    trained = story.train(config)
    seconds["train"] = time.perf_counter() - at

    at = step(3, "export to the PyTorch layout of KAME, import, export again, compare bytes")
    converted = story.convert(Path(trained["checkpoint"]), out)
    log(f"      {converted['tensors']} tensors, {converted['bytes']} bytes: identical after the round trip")
    seconds["convert"] = time.perf_counter() - at

    at = step(4, "stream the held-out questions: right oracle, none, one that changes its mind")
    answers = story.answer(out)
    seconds["stream"] = time.perf_counter() - at

    at = step(5, "write pictures and sound")
    files = story.show(out, answers)
    seconds["show"] = time.perf_counter() - at

    report = {
        "seed": config.seed,
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "data": tokens,
        "training": trained,
        "conversion": converted,
        "recall": answers.scores,
        "answers": answers.table,
        "files": [str(path) for path in files],
        "honest": "A tiny model and a tiny codec, trained on one desk's questions by two synthetic speakers: it shows "
        "that the oracle is read and followed, not how a released checkpoint sounds.",
    }
    import json

    write_whole(out / "report.json", lambda file: file.write(json.dumps(report, indent=2).encode()))
    return report


def _table(report: dict[str, Any]) -> str:
    """The results, for people."""
    scores, first = report["recall"], report["answers"][0]
    lines = [
        "",
        f"Held-out questions: {scores['questions']}. Fact words that only the oracle knows, found in what was said:",
        "",
        f"  oracle             fact words said   example: {first['question']!r}",
        f"  {'right':<18} {scores['with_oracle']:>8.0%}          {first['oracle']!r} -> {first['with_oracle']!r}",
        f"  {'none':<18} {scores['without_oracle']:>8.0%}          -> {first['without_oracle']!r}",
        f"  {'changes its mind':<18} {scores['changed_to_new']:>8.0%} new      {first['changed_oracle']!r} -> "
        f"{first['changed']!r}",
        f"  {'(later words)':<18} {scores['changed_to_old']:>8.0%} old",
        "",
        f"{report['minutes']} minutes. {report['honest']}",
        "Look at: " + ", ".join(report["files"]),
    ]
    return "\n".join(lines)
