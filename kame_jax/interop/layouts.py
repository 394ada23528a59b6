"""Which layout is this file? Decided on its keys, never on its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kame_jax.errors import InputError

READABLE = {
    "moshi-fused": "Moshi, attention fused over weight sets (legacy; PersonaPlex)",
    "moshi": "Moshi, one attention tensor per weight set",
    "kame": "KAME: Moshi with an oracle embedding",
    "finetune": "kame_finetune, weights exposed for ZeRO-3",
    "lora": "moshi-finetune LoRA adapters",
    "moshi-q8": "Moshi in int8 (bitsandbytes)",
    "mimi": "Mimi, one attention tensor per projection",
    "mimi-fused": "Mimi, fused attention",
    "mimi-hf": "Mimi of Hugging Face transformers",
}
"""Layouts that can be read, and what they are."""

FOREIGN = {
    "huggingface": "Moshi of Hugging Face transformers",
    "mlx": "moshi_mlx",
    "candle": "Moshi of moshi-core (Rust, candle)",
}
"""Layouts that are recognised and not read."""

# The first line with a key that matches decides. Adapters and int8 come before the spellings that they occur with.
_DECISIVE = (
    ("moshi-q8", r".*_scb"),
    ("lora", r".*\.lora_A\.weight"),
    ("finetune", r"transformer\.layers\.\d+\.gating\.linear_in_weight"),
    ("moshi-fused", r"transformer\.layers\.\d+\.self_attn\.in_proj[_.]weight"),
    ("kame", r"oracle_emb\..*"),
    ("moshi", r"transformer\.layers\.\d+\.self_attn\.in_projs\.0\.weight"),
    ("huggingface", r"(decoder\.)?model\.layers\.\d+\..*|decoder\.model\.layers\.\d+\..*"),
    ("mlx", r"depformer\.slices\.\d+\..*|audio_embs\.\d+\..*"),
    ("candle", r"depformer\.\d+\.linear_in\.weight"),
    ("mimi-hf", r"quantizer\.(semantic|acoustic)_residual_vector_quantizer\..*"),
    ("mimi-fused", r"(en|de)coder_transformer\.transformer\.layers\.\d+\.self_attn\.in_proj[_.]weight"),
    ("mimi", r"quantizer\.rvq_(first|rest)\..*"),
    # Parts of a damaged file: enough to say what is missing.
    ("moshi", r"(transformer|depformer)\.layers\.\d+\..*|text_emb\.weight|depformer_in\.\d+\.weight"),
)


def detect(keys: Iterable[str]) -> str | None:
    """The layout that a file's keys belong to; None if they are of no kind known here."""
    keys = list(keys)
    for layout, pattern in _DECISIVE:
        if any(re.fullmatch(pattern, key) for key in keys):
            return layout
    return None


def has_base(keys: Iterable[str]) -> bool:
    """Whether a file with adapters holds the weights they adapt, too."""
    return any(re.fullmatch(r"text_linear(\.frozen_W)?\.weight", key) for key in keys)


def readable_layout(keys: Iterable[str], where: str) -> str:
    """The layout of a file, if it can be read.

    Raises:
        InputError: it cannot; says what it is, or how it looks, and what can be read.
    """
    keys = list(keys)
    layout = detect(keys)
    if layout in READABLE:
        return layout
    known = ", ".join(READABLE)
    if layout is not None:
        raise InputError(
            f"{where}: this is {FOREIGN[layout]} ({layout}), which is not read; readable: {known}"
        )
    sample = ", ".join(sorted(keys)[:3]) or "no tensor at all"
    raise InputError(f"{where}: no known layout (it has {sample}); readable: {known}")
