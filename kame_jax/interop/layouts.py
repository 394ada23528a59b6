"""The layouts of checkpoints: what each is called, what it holds, how it spells names, and which keys identify it."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import NamedTuple

from kame_jax.errors import InputError


class Facts(NamedTuple):
    """What is known of a layout."""

    about: str
    """What it is, for people."""
    holds: str = ""
    """`lm`, `mimi`, or `adapter`; empty where it is recognised but not read."""
    writable: bool = False
    fused: bool = False
    """Attention projections of all weight sets are one tensor (`in_proj_weight`)."""
    exposed: bool = False
    """Gate weights are not in a module (`linear_in_weight`), for DeepSpeed ZeRO-3."""
    oracle: bool | None = None
    """Whether it has an oracle embedding; None leaves that to the model."""


class Layout(enum.StrEnum):
    """A way to name a model's tensors."""

    facts: Facts

    def __new__(cls, name: str, facts: Facts) -> Layout:
        """A name with its facts."""
        layout = str.__new__(cls, name)
        layout._value_, layout.facts = name, facts
        return layout

    # fmt: off
    KAME = "kame", Facts("KAME: Moshi with an oracle embedding", "lm", True, oracle=True)
    MOSHI = "moshi", Facts("Moshi, one attention tensor per weight set", "lm", True, oracle=False)
    KAME_FUSED = "kame-fused", Facts(
        "KAME, attention fused over weight sets", "lm", True, fused=True, oracle=True)
    MOSHI_FUSED = "moshi-fused", Facts(
        "Moshi, attention fused over weight sets (legacy; PersonaPlex)", "lm", True, fused=True, oracle=False)
    FINETUNE = "finetune", Facts("kame_finetune, weights exposed for ZeRO-3", "lm", True, exposed=True)
    MOSHI_Q8 = "moshi-q8", Facts("Moshi in int8 (bitsandbytes)", "lm")
    LORA = "lora", Facts("LoRA adapters of moshi-finetune or PEFT", "adapter")
    MIMI = "mimi", Facts("Mimi, one attention tensor per projection", "mimi", True)
    MIMI_FUSED = "mimi-fused", Facts("Mimi, fused attention", "mimi", True, fused=True)
    MIMI_HF = "mimi-hf", Facts("Mimi of Hugging Face transformers", "mimi", True)
    HUGGINGFACE = "huggingface", Facts("Moshi of Hugging Face transformers")
    MLX = "mlx", Facts("moshi_mlx")
    CANDLE = "candle", Facts("Moshi of moshi-core (Rust, candle)")
    OURS = "kame_jax", Facts("Orbax checkpoint of kame_jax")
    # fmt: on


def named(name: str) -> Layout:
    """The layout of that name."""
    return next(layout for layout in Layout if layout == name)


READABLE = tuple(layout for layout in Layout if layout.facts.holds)
LM_LAYOUTS = tuple(layout for layout in READABLE if layout.facts.writable and layout.facts.holds == "lm")
MIMI_LAYOUTS = tuple(layout for layout in READABLE if layout.facts.writable and layout.facts.holds == "mimi")

# The first line with a key that matches decides. Adapters and int8 come before the spellings that they occur with.
_DECISIVE = (
    (Layout.MOSHI_Q8, r".*_scb"),
    (Layout.LORA, r".*\.lora_A\.weight"),
    (Layout.FINETUNE, r"transformer\.layers\.\d+\.gating\.linear_in_weight"),
    (Layout.MOSHI_FUSED, r"transformer\.layers\.\d+\.self_attn\.in_proj[_.]weight"),
    (Layout.KAME, r"oracle_emb\..*"),
    (Layout.MOSHI, r"transformer\.layers\.\d+\.self_attn\.in_projs\.0\.weight"),
    (Layout.HUGGINGFACE, r"(decoder\.)?model\.layers\.\d+\..*"),
    (Layout.MLX, r"depformer\.slices\.\d+\..*|audio_embs\.\d+\..*"),
    (Layout.CANDLE, r"depformer\.\d+\.linear_in\.weight"),
    (Layout.MIMI_HF, r"quantizer\.(semantic|acoustic)_residual_vector_quantizer\..*"),
    (Layout.MIMI_FUSED, r"(en|de)coder_transformer\.transformer\.layers\.\d+\.self_attn\.in_proj[_.]weight"),
    (Layout.MIMI, r"quantizer\.rvq_(first|rest)\..*"),
    # Parts of a damaged file: enough to say what is missing.
    (Layout.MOSHI, r"(transformer|depformer)\.layers\.\d+\..*|text_emb\.weight|depformer_in\.\d+\.weight"),
)


def detect(keys: Iterable[str]) -> Layout | None:
    """The layout that a file's keys belong to; None if it is unknown."""
    keys = list(keys)
    found = next((name for name, form in _DECISIVE if any(re.fullmatch(form, key) for key in keys)), None)
    if found is Layout.MOSHI_FUSED and any(key.startswith("oracle_emb.") for key in keys):
        return Layout.KAME_FUSED
    return found


def holds(keys: Iterable[str]) -> str:
    """`lm`, `mimi`, or `adapter` for adapters without the weights they adapt; empty for anything else."""
    keys = list(keys)
    layout = detect(keys)
    if layout is Layout.LORA and any(re.fullmatch(r"text_linear(\.frozen_W)?\.weight", key) for key in keys):
        return "lm"
    return layout.facts.holds if layout else ""


def readable_layout(keys: Iterable[str], where: str) -> Layout:
    """The layout of a file, if it can be read.

    Raises:
        InputError: it cannot; says what it is, or which keys it has, and what can be read.
    """
    keys = list(keys)
    layout = detect(keys)
    if layout in READABLE:
        return layout
    known = ", ".join(READABLE)
    if layout is not None:
        raise InputError(
            f"{where}: this is {layout.facts.about} ({layout}), which is not read; readable: {known}"
        )
    sample = ", ".join(sorted(keys)[:3]) or "no tensor at all"
    raise InputError(f"{where}: no known layout (it has {sample}); readable: {known}")
