"""What is this file? Layout, configuration, parameters by group and by dtype, and what is odd about it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from kame_jax.config import to_dict
from kame_jax.errors import InputError
from kame_jax.interop import oddities
from kame_jax.interop.checkpoint import open_checkpoint
from kame_jax.interop.layouts import Layout, detect
from kame_jax.interop.locate import locate
from kame_jax.interop.names import NamedTensors
from kame_jax.interop.safetensors_file import SafetensorsFile, TensorInfo

GROUPS: dict[str, tuple[str, str]] = {
    "temporal transformer": ("transformer.", "temporal."),
    "audio input embeddings": ("emb.", "audio_emb."),
    "text embedding": ("text_emb.", "text_emb."),
    "oracle embedding": ("oracle_emb.", "oracle_emb."),
    "text head": ("text_linear.", "text_head."),
    "final norm": ("out_norm.", "out_norm."),
    "extra heads": ("extra_heads.", "extra_heads."),
    "temporal->depth projection": ("depformer_in.", "depth.input."),
    "depth audio embeddings": ("depformer_emb.", "depth.audio_emb."),
    "depth text embedding": ("depformer_text_emb.", "depth.text_emb."),
    "depth transformer": ("depformer.", "depth.layers."),
    "depth norms": ("depformer_norms.", "depth.head_norm."),
    "audio heads": ("linears.", "depth.heads."),
    "conditioners": ("condition_provider.", "conditioners."),
    "encoder": ("encoder.", "encoder."),
    "encoder transformer": ("encoder_transformer.", "encoder_transformer."),
    "quantizer": ("quantizer.", "quantizer."),
    "downsample": ("downsample.", "downsample."),
    "upsample": ("upsample.", "upsample."),
    "decoder transformer": ("decoder_transformer.", "decoder_transformer."),
    "decoder": ("decoder.", "decoder."),
}
"""Group -> the prefix of its tensors in a PyTorch file, and in our tree."""

MOSHI_7B: dict[str, int] = {
    "temporal transformer": 6_576_930_816,
    "audio input embeddings": 134_283_264,
    "text embedding": 131_076_096,
    "text head": 131_072_000,
    "final norm": 4_096,
    "temporal->depth projection": 33_554_432,
    "depth audio embeddings": 14_687_232,
    "depth text embedding": 32_769_024,
    "depth transformer": 616_574_976,
    "audio heads": 16_777_216,
    "oracle embedding": 131_076_096,
}
"""Parameters of the released 7B models by group; Moshi has no oracle embedding."""

KNOWN_TOTALS = {
    7_687_729_152: "Moshi 7B",
    7_818_805_248: "KAME 7B",
    8_371_408_896: "PersonaPlex 7B, or a Moshi 7B that predicts the user too (dep_q 16)",
    8_502_484_992: "KAME 7B that predicts the user too (dep_q 16)",
    3_729_805_312: "Moshi dev 2B",
    96_151_393: "Mimi",
}


def inspect(
    spec: str | os.PathLike[str],
    config: str | None = None,
    wanted: str = "lm",
    base: str | None = None,
    *,
    values: bool = True,
) -> dict[str, Any]:
    """A report on a checkpoint that may be of any layout, readable here or not.

    Args:
        spec: see `locate`.
        config: see `open_checkpoint`.
        wanted: see `open_checkpoint`.
        base: see `open_checkpoint`.
        values: whether to read the weights too, and report where they are zeros or not finite.

    Returns:
        `source`, `layout`, `readable`, `model` (its configuration, null if unknown), `tensors`, `parameters`,
        `parameters_by_group`, `parameters_by_dtype`, `bytes`, `known_as`, `metadata`, `surprises`.

    Raises:
        InputError: nothing there, or a file that is damaged or not safetensors at all.
    """
    located = locate(spec, wanted)
    notes: list[str] = []
    checkpoint = None
    try:
        checkpoint = open_checkpoint(spec, wanted=wanted, config=config, base=base, lora="keep")
        notes += checkpoint.notes
    except InputError as error:
        if located.native is not None:
            raise
        notes += [error.message, *error.problems]
    metadata: dict[str, str] = {}
    found: dict[str, TensorInfo] = {}
    layout: Layout | None = Layout.OURS
    if located.native is None:
        paths = (*located.weights, *((located.adapter,) if located.adapter else ()))
        for file in (NamedTensors(SafetensorsFile(path)) for path in paths):
            found |= file.infos
            metadata |= file.file.metadata
        layout = detect(found)
    elif checkpoint is not None:
        weights = checkpoint.weights
        found = {
            path: TensorInfo(tuple(shape), weights.dtype(path)) for path, shape in weights.shapes.items()
        }
    if values and checkpoint is not None:
        notes += oddities.find(checkpoint.weights)
    counts = {key: math.prod(info.shape) for key, info in found.items()}
    groups = _by_group(counts, int(layout is Layout.OURS))
    total = sum(n for key, n in counts.items() if not re.search(r"_scb$|lora_[ABab]", key))
    return {
        "source": str(spec),
        "layout": layout,
        "layout_description": layout.facts.about if layout else "not known here",
        "readable": checkpoint is not None,
        "model": checkpoint and to_dict(checkpoint.config),
        "tensors": len(found),
        "parameters": total,
        "parameters_by_group": groups,
        "parameters_by_dtype": _by_dtype(found, counts),
        "bytes": sum(n * found[key].dtype.itemsize for key, n in counts.items()),
        "known_as": KNOWN_TOTALS.get(total),
        "metadata": metadata,
        "surprises": notes + _oddities(groups, found),
    }


def _by_group(counts: Mapping[str, int], ours: int) -> dict[str, int]:
    """Parameters of each group; adapters and tensors of no group are separate."""
    groups: dict[str, int] = {}
    for key, number in counts.items():
        name = next((group for group, prefixes in GROUPS.items() if key.startswith(prefixes[ours])), "other")
        if re.search(r"\.lora_[ABab]\b", key):
            name = "LoRA adapters"
        elif key.endswith("_scb"):
            name = "int8 scales"
        groups[name] = groups.get(name, 0) + number
    return {
        name: groups[name] for name in [*GROUPS, "LoRA adapters", "int8 scales", "other"] if name in groups
    }


def _by_dtype(found: Mapping[str, TensorInfo], counts: Mapping[str, int]) -> dict[str, int]:
    dtypes: dict[str, int] = {}
    for key, info in found.items():
        dtypes[info.dtype.name] = dtypes.get(info.dtype.name, 0) + counts[key]
    return dtypes


def _oddities(groups: Mapping[str, int], found: Mapping[str, TensorInfo]) -> list[str]:
    """What differs from the released 7B in a file with its temporal transformer; mixed dtypes."""
    odd = []
    if groups.get("temporal transformer") == MOSHI_7B["temporal transformer"]:
        for name, expected in MOSHI_7B.items():
            number = groups.get(name, 0)
            if number != expected and not (name == "oracle embedding" and number == 0):
                odd.append(f"{name}: {number:,} parameters, the released 7B has {expected:,}")
    if "other" in groups:
        odd.append(f"{groups['other']:,} numbers in tensors of no known group")
    kinds = {info.dtype.name for info in found.values()}
    if len(kinds) > 1:
        odd.append(f"several dtypes: {', '.join(sorted(kinds))}")
    return odd


def describe(report: Mapping[str, Any]) -> str:
    """The report for people."""
    layout = report["layout"] or "unknown"
    readable = "readable" if report["readable"] else "not readable"
    lines = [
        f"{report['source']}",
        f"  layout      {layout} ({report['layout_description']}), {readable}",
        f"  tensors     {report['tensors']:,}, {report['bytes']:,} bytes",
        f"  parameters  {report['parameters']:,}"
        + (f" = {report['known_as']}" if report["known_as"] else ""),
    ]
    lines += [f"    {number:>15,}  {name}" for name, number in report["parameters_by_group"].items()]
    lines += [f"  dtype       {name}: {number:,}" for name, number in report["parameters_by_dtype"].items()]
    lines += [f"  metadata    {key}: {value}" for key, value in report["metadata"].items()]
    if report["model"]:
        lines.append("  config")
        lines += [f"    {key}: {value}" for key, value in flatten_dict(report["model"], sep=".").items()]
    lines += [f"  note        {surprise}" for surprise in report["surprises"]]
    return "\n".join(lines)
