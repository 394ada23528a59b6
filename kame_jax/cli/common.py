"""What every command shares: common options, and where output goes.

Progress and logs go to stderr; the result goes to stdout, as one JSON line with `--json`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from kame_jax.config import RunConfig, config_paths, config_summary, load_run, to_dict, to_yaml
from kame_jax.errors import InputError, printable
from kame_jax.files import output_place, regular_file

REPORT_SECONDS = 5.0
"""Between two progress lines."""


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has: `--json` and `--debug`."""
    parser.add_argument(
        "--json", action="store_true", help="print the result as one JSON object, the last line of stdout"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add a configuration: its file or name, overrides, and `--print-config`; `read_config` reads them."""
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file, or the name of a ready one (tiny, kame_7b, ...)"
    )
    parser.add_argument("overrides", metavar="a.b=c", nargs="*", help="settings that replace those of CONFIG")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    parser.add_argument(
        "--list", action=_List, nargs=0, help="print the names of the ready configurations and stop"
    )


class _List(argparse.Action):
    """Prints every ready configuration with what it is, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        paths = config_paths()
        width = max(len(path.stem) for path in paths)
        print("\n".join(f"{path.stem:<{width}}  {config_summary(path)}" for path in paths))
        parser.exit()


def read_config(args: argparse.Namespace) -> RunConfig | None:
    """The configuration that `add_config` asked for; None when it was only to be printed, which is done here.

    Raises:
        InputError: everything that is wrong with the file and the overrides, in one list.
    """
    config = load_run(args.config, args.overrides)
    if not args.print_config:
        return config
    if args.json:
        emit(args, to_dict(config))
    else:
        print(to_yaml(config), end="", flush=True)
    return None


def log(message: str) -> None:
    """Write one line of progress to stderr."""
    print(printable(message), file=sys.stderr, flush=True)


def reporter() -> Callable[[int, int], None]:
    """A progress callback, called with the frames done and their total, that logs every few seconds."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            log(f"frame {done} of {total}")

    return report


def check_output(path: str, *suffixes: str) -> None:
    """Checks before any work that the result can be written, under a name that ends in one of `suffixes` (if any).

    Raises:
        InputError: it cannot.
    """
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise InputError(f"{path}: the name must end in {' or '.join(suffixes)}")
    output_place(path)


def read_codes(path: str, names: Sequence[str]) -> np.ndarray:
    """Codes of an .npz file: integers `[codebooks, frames]`, at least one of each.

    Args:
        path: the file.
        names: the array has one of these.

    Raises:
        InputError: the file cannot be read, or holds no such array, or several.
    """
    expected = f"an npz file with {' or '.join(names)}"
    regular_file(path, expected)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = [file[name] for name in names if name in file]
            there = ", ".join(file.files) or "nothing"
    except Exception as error:  # NumPy, zipfile and zlib have many ways to refuse a damaged file
        raise InputError(f"{path}: cannot be read as {expected}: {error}") from None
    if len(found) != 1:
        raise InputError(f"{path}: expected one array named {' or '.join(names)}, found {there}")
    codes = found[0]
    if codes.ndim != 2 or not codes.size or not np.issubdtype(codes.dtype, np.integer):
        raise InputError(
            f"{path}: codes must be integers [codebooks, frames], got {codes.dtype} {list(codes.shape)}"
        )
    return codes


def emit(args: argparse.Namespace, result: Mapping[str, Any], text: str | None = None) -> None:
    """Print a command's result on stdout.

    Args:
        args: the parsed arguments; `args.json` chooses the form.
        result: what scripts read: JSON types, arrays, scalars of NumPy and JAX, paths. A number that is not finite
            becomes null, since JSON has no NaN.
        text: what people read; None prints one `key: value` line per entry of `result`.
    """
    if args.json:
        print(json.dumps(_plain(result), ensure_ascii=False, allow_nan=False), flush=True)
    else:
        lines = (f"{key}: {value}" for key, value in result.items())
        print(printable("\n".join(lines) if text is None else text), flush=True)


def _plain(value: Any) -> Any:
    """The JSON types of a result."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
