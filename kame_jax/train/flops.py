"""How much arithmetic a frame takes, in closed form from the model's sizes: the numerator of MFU.

A multiply-add is two FLOPs. Counted are the matrix products and attention; norms, softmax and embedding lookups are
not, as is usual. XLA's own count is of no use here: it counts the body of a scan over layers once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from kame_jax.config import ModelConfig, TransformerConfig
from kame_jax.train.optimizer import group_of


class FrameFlops(NamedTuple):
    """FLOPs of one frame of one sequence."""

    forward: float
    """Loss alone, attention included."""
    train: float
    """Forward and backward; this is what MFU counts: 6 FLOPs for each use of a weight that learns, 4 for one that does
    not (LoRA's base, frozen groups), which gets no gradient."""
    hardware: float
    """Including what the remat policy recomputes."""


def linear_sizes(config: ModelConfig) -> dict[str, tuple[int, int, int]]:
    """Every linear map of a frame: path -> (times it is applied, outputs, inputs)."""
    temporal, dim = config.temporal, config.temporal.dim
    sizes = {
        f"temporal.{name}": (times, out, inp) for name, (times, out, inp) in _layers(temporal, 1).items()
    }
    sizes["text_head"] = (1, config.text_card_out or config.text_card, dim)
    if config.demux_text:
        tables = ("text_emb", "oracle_emb") if config.oracle == "separate" else ("text_emb",)
        sizes |= {f"{table}.out{i}": (1, dim, dim) for table in tables for i in (1, 2)}
    depth, steps = config.depth, config.dep_q
    if depth is not None:
        sizes["depth.input"] = (steps, depth.dim, dim)
        sizes |= {f"depth.{name}": size for name, size in _layers(depth, steps).items()}
        sizes["depth.heads"] = (steps, config.card, depth.dim)
        inner = depth.low_rank or depth.dim
        if depth.low_rank and not config.demux_text:
            sizes["depth.text_emb.low_rank"] = (1, depth.dim, inner)
        if depth.low_rank:
            sizes["depth.audio_emb.low_rank"] = (steps - 1, depth.dim, inner)
        if config.demux_text:
            sizes |= {f"depth.text_emb.out{i}": (1, depth.dim, inner) for i in (1, 2)}
    return sizes


def _layers(config: TransformerConfig, steps: int) -> dict[str, tuple[int, int, int]]:
    times, dim, ffn = config.num_layers * steps, config.dim, config.ffn_dim
    return {
        "layers.attn_in": (times, 3 * dim, dim),
        "layers.attn_out": (times, dim, dim),
        "layers.mlp_in": (times, ffn if config.gating == "none" else 2 * ffn, dim),
        "layers.mlp_out": (times, dim, ffn),
    }


def active_parameters(config: ModelConfig) -> int:
    """Weights that a frame is multiplied with, counted as often as it is used; embedding tables are not counted."""
    return sum(times * out * inp for times, out, inp in linear_sizes(config).values())


def attention_flops(config: ModelConfig, steps: int) -> float:
    """Forward FLOPs of attention per frame, averaged over `steps` frames; masked pairs do not count."""
    seen = _mean_window(steps, config.temporal.context)
    total = 4.0 * config.temporal.num_layers * config.temporal.dim * seen
    if config.depth is not None:
        pairs = config.dep_q * (config.dep_q + 1) / 2
        total += 4.0 * config.depth.num_layers * config.depth.dim * pairs
    return total


def _mean_window(steps: int, context: int | None) -> float:
    """Steps that a step sees, itself included, averaged over a sequence."""
    window = min(steps, context or steps)
    return (window * (window + 1) / 2 + (steps - window) * window) / steps


def frame_flops(
    config: ModelConfig, steps: int, *, frozen: Collection[str] = (), remat: str = "none"
) -> FrameFlops:
    """FLOPs of one frame.

    Args:
        config: of the model.
        steps: frames of a sequence.
        frozen: groups (`optimizer.GROUPS`) whose weights get no gradient: a third less work each.
        remat: policy of `model.execution`.
    """
    forward = train = layers = 0.0
    for path, (times, out, inp) in linear_sizes(config).items():
        flops = 2.0 * times * out * inp
        low = 2.0 * times * config.lora.rank * (out + inp) if config.lora else 0.0
        forward += flops + low
        train += flops * (2 if group_of([*path.split("."), "weight"]) in frozen else 3)
        train += low * (2 if "adapters" in frozen else 3)
        layers += flops + low if ".layers." in path else 0.0
    attention = attention_flops(config, steps)
    again = {"none": 0.0, "dots": attention, "attention": layers, "full": layers + attention}[remat]
    return FrameFlops(forward + attention, train + 3 * attention, train + 3 * attention + again)
