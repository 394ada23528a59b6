"""Logits against reference outputs: `python convert/verify.py CKPT REFERENCE.safetensors`.

The same as `kame-jax convert verify`.
"""

from __future__ import annotations

import os
import sys

# This folder holds an `inspect.py`, which would hide Python's own from every import: search the project instead.
sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from collections.abc import Sequence

from kame_jax.cli.main import main as kame_jax


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return kame_jax(["convert", "verify", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
