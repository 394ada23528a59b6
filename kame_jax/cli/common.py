"""What every command shares: its common options, and where its words go.

Progress and logs go to stderr; the result goes to stdout, as one JSON line with `--json`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from kame_jax.config import RunConfig, config_paths, config_summary, load_run, to_dict, to_yaml
from kame_jax.errors import printable


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


def emit(args: argparse.Namespace, result: Mapping[str, Any], text: str | None = None) -> None:
    """Print a command's result on stdout.

    Args:
        args: the parsed arguments; `args.json` chooses the form.
        result: what scripts read: JSON types, arrays, scalars of NumPy and JAX, paths. A number that is not finite
            becomes null, which JSON has and NaN it has not.
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
