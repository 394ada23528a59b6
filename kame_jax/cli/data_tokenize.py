"""`kame-jax data tokenize`: recorded dialogues to records of tokens, on all local devices.

Killed and started again, it continues where it was; a dialogue whose files have changed is made again. A dialogue with
something wrong is reported in one line and left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from kame_jax.cli.common import add_common, log
from kame_jax.cli.data_common import add_max_bad, add_rules, finish, read_shard
from kame_jax.errors import InputError


def add_parser(subparsers: Any) -> None:
    """Add `tokenize`."""
    parser = subparsers.add_parser(
        "tokenize", help="dialogues (audio/, text/, oracle_raw/) to records of tokens", description=__doc__
    )
    add = parser.add_argument
    add("dialogues", metavar="DIALOGUES", help="folder with audio/, text/ and optionally oracle_raw/")
    add("out", metavar="RECORDS", help="folder of records, one <id>.npz per dialogue")
    add_tokenizing(parser)
    add("--shard", metavar="I/N", help="take every N-th dialogue, so that N processes share the work")
    add_rules(parser)
    add_max_bad(parser)
    add_common(parser)
    parser.set_defaults(func=_run)


def add_tokenizing(parser: argparse.ArgumentParser) -> None:
    """Add what turns sound and text into tokens."""
    add = parser.add_argument
    add("--codec", metavar="MIMI", help="Mimi's weights: folder, file or hf://org/repo")
    add("--tokenizer", metavar="FILE", help="SentencePiece model (default: tokenizer.model of DIALOGUES)")
    add("--codebooks", type=int, help="codebooks of each speaker (default: 8, or all if the codec has fewer)")
    add("--batch", type=int, default=16, help="recordings of one speaker encoded at a time (default: 16)")
    add("--no-spaces", action="store_true", help="words are not separated by spaces (Japanese, Chinese)")


def _run(args: argparse.Namespace) -> None:
    """Tokenise a folder."""
    report, facts = tokenize_folder(args, args.dialogues, args.out)
    result = {"records": args.out, "made": report.made, "kept": report.kept} | facts
    text = f"{args.out}: {report.made} records made, {report.kept} there already, {facts['hours']:.2f} h of audio"
    finish(args, result | {"notes": len(report.notes)}, report.problems, text)


def tokenize_folder(args: argparse.Namespace, dialogues: str, out: str) -> tuple[Any, dict[str, Any]]:
    """Tokenises as the options say; returns the report and figures for the result."""
    from kame_jax.interop import load_mimi
    from kame_jax.make.encoding import batch_encoder, fingerprint
    from kame_jax.make.rules import read_rules
    from kame_jax.make.tokens import Settings, tokenize
    from kame_jax.oracle.text import TOKENIZER_NAME, tokenizer_file
    from kame_jax.train.progress import Terminal

    rules = read_rules(args.preset, args.rule)
    shard = _shard(args)
    tokenizer = tokenizer_file(args.tokenizer or Path(dialogues) / TOKENIZER_NAME)
    if not args.codec:
        raise InputError("--codec: expected Mimi's weights, as hf://kyutai/moshiko-pytorch-bf16 or a folder")
    mimi = load_mimi(args.codec)
    stored = mimi.config.quantizer.n_q
    codebooks = min(8, stored) if args.codebooks is None else args.codebooks
    if not 1 <= codebooks <= stored:
        raise InputError(f"--codebooks {codebooks}: expected 1 to {stored}, those in {args.codec}")
    settings = Settings(
        tokenizer,
        args.codec,
        codebooks=codebooks,
        card=mimi.config.quantizer.bins,
        sample_rate=mimi.config.sample_rate,
        frame_rate=mimi.config.frame_rate,
        spaces=not args.no_spaces,
        rules=rules,
    )
    start = time.perf_counter()
    with Terminal() as terminal:
        report = tokenize(
            dialogues,
            out,
            settings,
            batch_encoder(mimi, codebooks, max(1, args.batch)),
            fingerprint(mimi),
            shard=shard,
            progress=lambda done, total, text: terminal.count(f"tokenising {dialogues}", done, total),
            say=log,
        )
    wall = time.perf_counter() - start
    return report, {"hours": report.seconds / 3600, "wall_seconds": round(wall, 2)}


def _shard(args: argparse.Namespace) -> tuple[int, int]:
    """From the option, or from JAX where several processes were started together."""
    import jax

    if getattr(args, "shard", None):
        return read_shard(args.shard)
    return jax.process_index(), jax.process_count()
