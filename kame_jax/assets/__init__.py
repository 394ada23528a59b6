"""What comes with the package: spoken dialogues, and the tiny model and codec that `kame-jax demo` trains on them."""

from pathlib import Path

TINY = Path(__file__).parent / "tiny"
"""Folder of the tiny model in the `kame` layout, with its codec and tokenizer."""
