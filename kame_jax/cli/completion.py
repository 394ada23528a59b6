"""`kame-jax completion SHELL`: what a shell runs at its start to complete commands, options and file names."""

from __future__ import annotations

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "fish", "powershell")


def add_parser(subparsers: Any) -> None:
    """Add `completion` to the command line."""
    parser = subparsers.add_parser(
        "completion",
        help="shell completion: print the code for a shell",
        description='Print shell code that completes commands, options and file names. For bash: eval "$(kame-jax '
        'completion bash)" in ~/.bashrc; for fish: kame-jax completion fish > ~/.config/fish/completions/kame-jax.fish',
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.set_defaults(func=_run)


def _run(args: argparse.Namespace) -> None:
    """Print the code."""
    import argcomplete

    print(argcomplete.shellcode(["kame-jax"], shell=args.shell))
