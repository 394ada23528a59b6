"""What the shapes in a file say about its model: sizes only; heads, delays and windows leave no trace in weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kame_jax.config import ModelConfig, TransformerConfig
from kame_jax.interop.safetensors_file import TensorInfo

Infos = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class StackSizes:
    """One transformer: width, layers, hidden width of the feed-forward, and which optional weights it has."""

    dim: int
    num_layers: int
    ffn_dim: int
    gated: bool
    layer_norm: bool
    layer_scale: bool


@dataclass(frozen=True)
class DepthSizes(StackSizes):
    """The depth transformer: also its weight sets, input projections and embedding rank."""

    sets: int
    inputs: int
    low_rank: int | None
    head_norm: bool


@dataclass(frozen=True)
class Sizes:
    """Everything a language model's shapes tell, apart from its oracle table and adapters."""

    n_q: int
    dep_q: int
    card: int
    text_card: int
    text_card_out: int
    temporal: StackSizes
    depth: DepthSizes | None
    demux_text: bool
    norm_emb: bool
    extra_heads: int
    extra_head_dim: int
    conditioners: tuple[tuple[str, int, int], ...]
    """(name, rows of its table without the last one, width) of each; no table is 0 rows."""
    unused_depth_input_dim: int | None


def read_sizes(infos: Infos) -> Sizes:
    """The sizes of the language model in a file of any PyTorch layout.

    Raises:
        KeyError: a tensor that every such file has is not there.
    """
    shapes = {_plain(key): info.shape for key, info in infos.items()}
    dep_q = _count(shapes, r"linears\.(\d+)\.weight")
    text = shapes["text_emb.weight"]
    heads = _count(shapes, r"extra_heads\.(\d+)\.weight")
    return Sizes(
        n_q=_count(shapes, r"emb\.(\d+)\.weight"),
        dep_q=dep_q,
        card=shapes["emb.0.weight"][0] - 1,
        text_card=text[0] - 1,
        text_card_out=shapes["text_linear.weight"][0],
        temporal=StackSizes(*_stack("transformer", shapes)),
        depth=_depth(shapes) if dep_q else None,
        demux_text="text_emb.out1.weight" in shapes,
        norm_emb="text_emb.norm.weight" in shapes,
        extra_heads=heads,
        extra_head_dim=shapes["extra_heads.0.weight"][0] if heads else 6,
        conditioners=tuple(sorted(_conditioners(shapes))),
        unused_depth_input_dim=None if dep_q else shapes.get("depformer_in.0.weight", (None,))[0],
    )


def config_sizes(config: ModelConfig) -> Sizes:
    """The sizes that a configuration gives."""
    depth = config.depth
    return Sizes(
        n_q=config.n_q,
        dep_q=config.dep_q,
        card=config.card,
        text_card=config.text_card,
        text_card_out=config.text_card_out or config.text_card,
        temporal=StackSizes(*_config_stack(config.temporal)),
        depth=None
        if depth is None
        else DepthSizes(
            *_config_stack(depth),
            sets=config.depth_sets,
            inputs=max(config.depth_input_schedule) + 1,
            low_rank=depth.low_rank,
            head_norm=depth.head_norm is not None,
        ),
        demux_text=config.demux_text,
        norm_emb=config.norm_emb,
        extra_heads=config.extra_heads,
        extra_head_dim=config.extra_head_dim if config.extra_heads else 6,
        conditioners=tuple(sorted((c.name, c.num_bins, c.dim) for c in config.conditioners)),
        unused_depth_input_dim=config.unused_depth_input_dim,
    )


def lora_rank(infos: Infos) -> int | None:
    """Rank of the adapters in a file; None where there are none."""
    ranks = {
        info.shape[0]
        for key, info in infos.items()
        if re.fullmatch(r"transformer\..*s\.0\.lora_A\.weight", key)
    }
    found = ranks or {info.shape[0] for key, info in infos.items() if key.endswith(".lora_A.weight")}
    return min(found) if found else None


def _plain(key: str) -> str:
    """One spelling for the few names that are read here."""
    return re.sub(r"_weight$", ".weight", key.replace(".frozen_W.", "."))


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """One more than the highest index among keys of a form."""
    return 1 + max((int(found[1]) for key in shapes if (found := re.fullmatch(pattern, key))), default=-1)


def _stack(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int, bool, bool, bool]:
    layer = f"{prefix}.layers.0"
    layer_norm = f"{layer}.norm1.weight" in shapes
    dim = shapes[f"{layer}.norm1.weight" if layer_norm else f"{layer}.norm1.alpha"][-1]
    gates = (
        f"{layer}.gating.linear_out.weight",
        f"{layer}.gating.0.linear_out.weight",
        f"{layer}.linear2.weight",
    )
    out = next((key for key in gates if key in shapes), gates[0])
    return (
        dim,
        _count(shapes, rf"{prefix}\.layers\.(\d+)\..*"),
        shapes[out][1],
        "gating" in out,
        layer_norm,
        f"{layer}.layer_scale_1.scale" in shapes,
    )


def _config_stack(config: TransformerConfig) -> tuple[int, int, int, bool, bool, bool]:
    return (
        config.dim,
        config.num_layers,
        config.ffn_dim,
        config.gating != "none",
        config.norm.startswith("layer_norm"),
        config.layer_scale is not None,
    )


def _depth(shapes: Mapping[str, tuple[int, ...]]) -> DepthSizes:
    stack = _stack("depformer", shapes)
    attention = "depformer.layers.0.self_attn"
    split = _count(shapes, rf"{re.escape(attention)}\.in_projs\.(\d+)\.weight")
    fused = shapes.get(f"{attention}.in_proj.weight", (0,))  # `_plain` turned in_proj_weight into this
    low_rank = shapes.get("depformer_text_emb.low_rank.weight")
    return DepthSizes(
        *stack,
        sets=split or fused[0] // (3 * stack[0]),
        inputs=_count(shapes, r"depformer_in\.(\d+)\.weight"),
        low_rank=low_rank[1] if low_rank else None,
        head_norm=_count(shapes, r"depformer_norms\.(\d+)\..*") > 0,
    )


def _conditioners(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int, int]]:
    for key, shape in shapes.items():
        if found := re.fullmatch(r"condition_provider\.conditioners\.(.+)\.output_proj\.weight", key):
            table = shapes.get(key.replace("output_proj", "embed"))
            yield found[1], table[0] - 1 if table else 0, shape[1]
