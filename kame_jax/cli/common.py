"""What every command shares: its common options, and where its words go.

Progress and logs go to stderr; the result goes to stdout, as one JSON line with `--json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has: `--json` and `--debug`."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, the last line of stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def log(message: str) -> None:
    """Write one line of progress to stderr."""
    print(message, file=sys.stderr, flush=True)


def emit(args: argparse.Namespace, result: Mapping[str, Any], text: str | None = None) -> None:
    """Print a command's result on stdout.

    Args:
        args: the parsed arguments; `args.json` chooses the form.
        result: what scripts read; values are JSON types, NumPy scalars or paths.
        text: what people read; None prints one `key: value` line per entry of `result`.
    """
    if args.json:
        print(json.dumps(result, default=_plain, allow_nan=False), flush=True)
    elif text is None:
        print("\n".join(f"{key}: {value}" for key, value in result.items()), flush=True)
    else:
        print(text, flush=True)


def _plain(value: Any) -> Any:
    """JSON form of what `json` does not know: arrays and NumPy scalars as numbers, the rest as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
