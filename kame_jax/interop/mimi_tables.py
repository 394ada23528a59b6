"""Tensor names of Mimi, the codec, in its own file and in Hugging Face's, tied to our tree.

Sources: kyutai-labs/moshi `models/compression.py` and `quantization/core_vq.py`; huggingface/transformers
`models/mimi/convert_mimi_checkpoint_to_pytorch.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from kame_jax.config import MimiConfig
from kame_jax.interop.layouts import Layout, named
from kame_jax.interop.table import Rule

CODEBOOK_ALIASES = {
    "_initialized": ("inited", "_inited"),
    "cluster_usage": ("cluster_size",),
    "embedding_sum": ("embed_avg", "embed_sum"),
}

IN_MEMORY = {
    "encoder.layers.": "encoder.encoder_seanet.layers.",
    "decoder.layers.": "decoder.decoder_seanet.layers.",
    "encoder_transformer.": "encoder.encoder_transformer.",
    "decoder_transformer.": "decoder.decoder_transformer.",
    "downsample.": "encoder.downsample.",
    "upsample.": "decoder.upsample.",
}
"""Prefixes of Hugging Face's files, and of its modules in memory."""


def written(config: MimiConfig, layout: str) -> list[Rule]:
    """The rules of one layout, one name for each slice."""
    if layout == Layout.MIMI_HF:
        return list(_huggingface(config))
    return list(_native(config, named(layout).facts.fused))


def readable(config: MimiConfig) -> list[Rule]:
    """Every accepted name: both attention spellings, aliases of older files, and Hugging Face's."""
    rules: dict[str, Rule] = {}
    for rule in _huggingface(config):
        for key in (rule.key, _in_memory(rule.key)):
            rules[key] = dataclasses.replace(rule, key=key)
    for fused in (False, True):
        for rule in _native(config, fused):
            rules[rule.key] = rule
            stem, _, name = rule.key.rpartition(".")
            for alias in CODEBOOK_ALIASES.get(name, ()):
                rules[f"{stem}.{alias}"] = dataclasses.replace(rule, key=f"{stem}.{alias}")
            if name == "in_proj_weight":
                rules[f"{stem}.in_proj.weight"] = dataclasses.replace(rule, key=f"{stem}.in_proj.weight")
    return list(rules.values())


def _in_memory(key: str) -> str:
    """The name that transformers from version 5 on gives a tensor in its `state_dict()`, not in its files."""
    for prefix, longer in IN_MEMORY.items():
        if key.startswith(prefix):
            return longer + key.removeprefix(prefix)
    return key


def _native(config: MimiConfig, fused: bool) -> Iterator[Rule]:
    for key, path, wrap in _convolutions(config):
        layer = f"{wrap}.{wrap}"
        yield from _weight_and_bias(f"{key}.{layer}", path)
    yield Rule("downsample.conv.conv.conv.weight", "downsample.weight")
    yield Rule("upsample.convtr.convtr.convtr.weight", "upsample.weight")
    for side in ("encoder", "decoder"):
        key, path = f"{side}_transformer.transformer.layers.{{l}}", f"{side}_transformer.layers"
        for norm in ("norm1", "norm2"):
            yield Rule(f"{key}.{norm}.weight", f"{path}.{norm}.scale", "l")
            yield Rule(f"{key}.{norm}.bias", f"{path}.{norm}.bias", "l")
        attention = f"{key}.self_attn"
        yield Rule(
            f"{attention}.in_proj_weight" if fused else f"{attention}.in_projs.0.weight", *_attn_in(path)
        )
        yield Rule(
            f"{attention}.out_proj.weight" if fused else f"{attention}.out_projs.0.weight", *_attn_out(path)
        )
        yield Rule(f"{key}.linear1.weight", f"{path}.mlp_in.weight", "l")
        yield Rule(f"{key}.linear2.weight", f"{path}.mlp_out.weight", "l")
        yield Rule(f"{key}.layer_scale_1.scale", f"{path}.scale1.scale", "l")
        yield Rule(f"{key}.layer_scale_2.scale", f"{path}.scale2.scale", "l")
    for theirs, ours, book in (("rvq_first", "semantic", "0"), ("rvq_rest", "acoustic", "{k}")):
        key, path = f"quantizer.{theirs}", f"quantizer.{ours}"
        yield Rule(f"{key}.input_proj.weight", f"{path}.input_proj.weight", fold=(1, 1, 0))
        yield Rule(f"{key}.output_proj.weight", f"{path}.output_proj.weight", fold=(1, 1, 0))
        for name, array in (("_initialized", "initialized"), ("cluster_usage",) * 2, ("embedding_sum",) * 2):
            index = book.strip("{}")
            yield Rule(f"{key}.vq.layers.{book}._codebook.{name}", f"{path}.codebooks.{array}", index)


def _huggingface(config: MimiConfig) -> Iterator[Rule]:
    for key, path, _ in _convolutions(config):
        yield from _weight_and_bias(key.replace(".model.", ".layers.") + ".conv", path)
    yield Rule("downsample.conv.weight", "downsample.weight")
    yield Rule("upsample.conv.weight", "upsample.weight")
    for side in ("encoder", "decoder"):
        key, path = f"{side}_transformer.layers.{{l}}", f"{side}_transformer.layers"
        for theirs, ours in (("input_layernorm", "norm1"), ("post_attention_layernorm", "norm2")):
            yield Rule(f"{key}.{theirs}.weight", f"{path}.{ours}.scale", "l")
            yield Rule(f"{key}.{theirs}.bias", f"{path}.{ours}.bias", "l")
        for part, name in enumerate("qkv"):
            order = "" if name == "v" else "half_rope"
            yield Rule(
                f"{key}.self_attn.{name}_proj.weight", f"{path}.attn_in.weight", f"l {part}", (2, 1), order
            )
        yield Rule(f"{key}.self_attn.o_proj.weight", *_attn_out(path))
        yield Rule(f"{key}.mlp.fc1.weight", f"{path}.mlp_in.weight", "l")
        yield Rule(f"{key}.mlp.fc2.weight", f"{path}.mlp_out.weight", "l")
        yield Rule(f"{key}.self_attn_layer_scale.scale", f"{path}.scale1.scale", "l")
        yield Rule(f"{key}.mlp_layer_scale.scale", f"{path}.scale2.scale", "l")
    for ours, book in (("semantic", "0"), ("acoustic", "{k}")):
        key, path = f"quantizer.{ours}_residual_vector_quantizer", f"quantizer.{ours}"
        yield Rule(f"{key}.input_proj.weight", f"{path}.input_proj.weight", fold=(1, 1, 0))
        yield Rule(f"{key}.output_proj.weight", f"{path}.output_proj.weight", fold=(1, 1, 0))
        for name, array in (("initialized",) * 2, ("cluster_usage",) * 2, ("embed_sum", "embedding_sum")):
            index = book.strip("{}")
            yield Rule(f"{key}.layers.{book}.codebook.{name}", f"{path}.codebooks.{array}", index)


def _convolutions(config: MimiConfig) -> Iterator[tuple[str, str, str]]:
    """For each convolution of the SEANet halves: native key up to the wrappers, our path, and the wrapper's name."""
    seanet = config.seanet
    blocks, stages = seanet.residual_layers, len(seanet.ratios)
    span = blocks + 2
    yield "encoder.model.0", "encoder.first", "conv"
    yield "decoder.model.0", "decoder.first", "conv"
    for stage in range(stages):
        start = 1 + stage * span
        for block in range(blocks):
            for place, conv in ((1, "conv1"), (3, "conv2")):
                path = f"stages.{stage}.blocks.{block}.{conv}"
                yield f"encoder.model.{start + block}.block.{place}", f"encoder.{path}", "conv"
                yield f"decoder.model.{start + 2 + block}.block.{place}", f"decoder.{path}", "conv"
        yield f"encoder.model.{start + blocks + 1}", f"encoder.stages.{stage}.down", "conv"
        yield f"decoder.model.{start + 1}", f"decoder.stages.{stage}.up", "convtr"
    yield f"encoder.model.{2 + stages * span}", "encoder.last", "conv"
    yield f"decoder.model.{2 + stages * span}", "decoder.last", "conv"


def _weight_and_bias(key: str, path: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{path}.weight")
    yield Rule(f"{key}.bias", f"{path}.bias")


def _attn_in(path: str) -> tuple[str, str, tuple[int, ...]]:
    return f"{path}.attn_in.weight", "l", (3, 1)


def _attn_out(path: str) -> tuple[str, str, tuple[int, ...]]:
    return f"{path}.attn_out.weight", "l", (1, 2)
