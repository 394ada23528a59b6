"""Tensor names of the language model in every PyTorch layout of the Moshi family, tied to our tree.

Layouts differ in two spellings only: attention projections fused over weight sets or one tensor per set, and the
gate's linear layers as modules or exposed as bare parameters. Sources: kyutai-labs/moshi and SakanaAI/kame
`modules/transformer.py` (its load hook), kame_finetune `models/moshi_for_finetuning.py`, moshi-finetune LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator

from kame_jax.config import ModelConfig, TransformerConfig
from kame_jax.interop.layouts import Facts, Layout, named
from kame_jax.interop.table import Rule

SPELLINGS = (Layout.MOSHI, Layout.MOSHI_FUSED, Layout.FINETUNE)
"""One layout of each spelling; the others differ from these in `oracle_emb` alone."""


def written(config: ModelConfig, layout: str) -> list[Rule]:
    """The rules of one layout, one name for each slice."""
    return list(_rules(config, named(layout).facts))


def readable(config: ModelConfig) -> list[Rule]:
    """Every accepted name: all layouts, aliases of older files, and LoRA's name for a base weight."""
    rules: dict[str, Rule] = {}
    for layout in SPELLINGS:
        for rule in _rules(config, layout.facts):
            for alias in (rule.key, *_aliases(rule)):
                rules[alias] = Rule(alias, rule.path, rule.index, rule.fold)
    return list(rules.values())


def _aliases(rule: Rule) -> Iterator[str]:
    """Other names under which files have carried the same tensor."""
    key = rule.key
    if key.endswith("in_proj_weight"):
        yield key.replace("in_proj_weight", "in_proj.weight")
    if key.endswith("out_proj.weight"):
        yield key.replace("out_proj.weight", "out_proj_weight")
    # A LoRA layer keeps the weight it wraps as `frozen_W`; linear layers are the rules that fold, adapters apart.
    if key.endswith(".weight") and len(rule.fold) == 2 and rule.path.endswith(".weight"):
        yield f"{key.removesuffix('.weight')}.frozen_W.weight"


def _rules(config: ModelConfig, spelling: Facts) -> Iterator[Rule]:
    yield from _embedding("emb.{k}", "audio_emb", "k")
    yield from _embedding("text_emb", "text_emb")
    yield from _embedding("oracle_emb", "oracle_emb")
    temporal = config.temporal
    yield from _layers("transformer", "temporal.layers", temporal, spelling, sets=None, per_step=False)
    yield from _norm("out_norm", "out_norm", temporal.norm)
    yield from _linear("text_linear", "text_head")
    yield from _linear("extra_heads.{k}", "extra_heads", "k")
    if config.depth is None:
        yield from _linear("depformer_in.0", "unused_depth_input")
    else:
        depth = config.depth
        yield from _linear("depformer_in.{k}", "depth.input", "k")
        yield from _embedding("depformer_text_emb", "depth.text_emb")
        yield from _embedding("depformer_emb.{k}", "depth.audio_emb", "k")
        yield from _layers(
            "depformer", "depth.layers", depth, spelling, sets="k", per_step=depth.weights_per_step
        )
        if depth.head_norm:
            yield from _norm("depformer_norms.{k}", "depth.head_norm", depth.head_norm, "k")
        yield from _linear("linears.{k}", "depth.heads", "k")
    for conditioner in config.conditioners:
        key, path = f"condition_provider.conditioners.{conditioner.name}", f"conditioners.{conditioner.name}"
        yield Rule(f"{key}.embed.weight", f"{path}.embed.weight")
        yield from _linear(f"{key}.output_proj", f"{path}.output_proj")
        yield Rule(f"{key}.learnt_padding", f"{path}.learnt_padding", fold=(0, 0, 1))


def _layers(
    key: str, path: str, config: TransformerConfig, spelling: Facts, *, sets: str | None, per_step: bool
) -> Iterator[Rule]:
    """The layers of one transformer; `sets` names the weight-set variable where the arrays have that dimension."""
    key += ".layers.{l}"
    one = "l" if sets is None else f"l {sets}"
    number = "0" if sets is None else f"{{{sets}}}"
    yield from _norm(f"{key}.norm1", f"{path}.norm1", config.norm, "l")
    yield from _norm(f"{key}.norm2", f"{path}.norm2", config.norm, "l")
    for ours, theirs, fold, out in (("attn_in", "in_proj", (3, 1), 3), ("attn_out", "out_proj", (1, 2), 1)):
        if spelling.fused:
            stacked = (fold[0] + (sets is not None), fold[1])
            plain = f"{key}.self_attn.in_proj_weight" if ours == "attn_in" else ""
            yield from _linear(f"{key}.self_attn.{theirs}", f"{path}.{ours}", "l", stacked, out, plain)
        else:
            yield from _linear(f"{key}.self_attn.{theirs}s.{number}", f"{path}.{ours}", one, fold, out)
    if config.gating == "none":
        shared = "l" if sets is None else "l 0"
        yield from _linear(f"{key}.linear1", f"{path}.mlp_in", shared)
        yield from _linear(f"{key}.linear2", f"{path}.mlp_out", shared)
    else:
        gate = f"{key}.gating.{number}" if per_step else f"{key}.gating"
        index = one if per_step or sets is None else "l 0"
        for ours, theirs, fold, out in (
            ("mlp_in", "linear_in", (2, 1), 2),
            ("mlp_out", "linear_out", (1, 1), 1),
        ):
            exposed = f"{gate}.{theirs}_weight" if spelling.exposed else ""
            yield from _linear(f"{gate}.{theirs}", f"{path}.{ours}", index, fold, out, exposed)
    yield Rule(f"{key}.layer_scale_1.scale", f"{path}.scale1.scale", "l")
    yield Rule(f"{key}.layer_scale_2.scale", f"{path}.scale2.scale", "l")


def _linear(
    key: str, path: str, index: str = "", fold: tuple[int, int] = (1, 1), out: int = 1, weight: str = ""
) -> Iterator[Rule]:
    """A linear layer and its adapters; `out` counts the output dimensions, `weight` is an irregular weight name."""
    yield Rule(weight or f"{key}.weight", f"{path}.weight", index, fold)
    yield Rule(f"{key}.lora_A.weight", f"{path}.lora_a", index, (fold[0] - out + 1, fold[1]))
    yield Rule(f"{key}.lora_B.weight", f"{path}.lora_b", index, (fold[0], 1))


def _norm(key: str, path: str, kind: str, index: str = "") -> Iterator[Rule]:
    if kind.startswith("layer_norm"):
        yield Rule(f"{key}.weight", f"{path}.scale", index)
        yield Rule(f"{key}.bias", f"{path}.bias", index)
    else:
        yield Rule(f"{key}.alpha", f"{path}.scale", index, (0, 0, 1))


def _embedding(key: str, path: str, index: str = "") -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{path}.weight", index)
    yield from _norm(f"{key}.norm", f"{path}.norm", "layer_norm", index)
    for name in ("low_rank", "out1", "out2"):
        yield from _linear(f"{key}.{name}", f"{path}.{name}", index)
