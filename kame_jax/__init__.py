"""kame_jax: the JAX home of KAME, a speech-to-speech model that speaks while it thinks."""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "config": ("load_model", "load_run"),
    "sharding": ("make_mesh",),
    "model": ("LM",),
    "codec": ("Mimi",),
    "oracle": ("OracleOp", "OracleSchedule"),
    "interop": ("load_checkpoint", "load_mimi", "open_checkpoint"),
    "interop.export": ("export",),
    "decode": ("greedy", "sampling"),
    "decode.engine": ("Engine", "EngineOptions"),
    "tandem": ("Conversation", "Embedded", "LanguageModel", "Question"),
    "train.loop": ("run",),
}
"""Module -> the names that it offers here."""


def __getattr__(name: str) -> Any:
    """Import one of these names when it is first asked for: `import kame_jax` alone loads no JAX."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"kame_jax.{module}"), name)
    raise AttributeError(f"module 'kame_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *(name for names in _HOMES.values() for name in names)]
