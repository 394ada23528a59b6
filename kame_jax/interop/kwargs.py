"""The reference's configuration files (`config.json`, `moshi_lm_kwargs.json`) to a `ModelConfig` and back.

Names, defaults and derived sizes are those of kyutai-labs/moshi and SakanaAI/kame: `models/lm.py` (`LMModel`),
`models/loaders.py`, `modules/transformer.py`, `modules/gating.py`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from kame_jax.config import (
    GATINGS,
    NORMS,
    POSITIONS,
    ConditionerConfig,
    DepthConfig,
    LoRAConfig,
    ModelConfig,
    TransformerConfig,
    validate,
)
from kame_jax.errors import InputError

LOADER_KEYS = (
    "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "model_type", "lm_gen_config",
    "tts_config", "stt_config", "model_id",
)  # fmt: skip
"""Keys of a `config.json` that the reference's loader takes out before it builds the model."""

LORA_KEYS = ("lora", "lora_rank", "lora_scaling")

DEFAULTS: dict[str, Any] = {
    "delays": [0],
    "n_q": 8,
    "dep_q": 8,
    "card": 1024,
    "text_card": 32000,
    "text_card_out": None,
    "demux_second_text_stream": False,
    "dim": 128,
    "num_heads": 8,
    "num_layers": None,
    "hidden_scale": 4,
    "norm": "layer_norm",
    "norm_emb": False,
    "bias_proj": False,
    "context": None,
    "causal": True,
    "max_period": 10_000,
    "gating": "none",
    "layer_scale": None,
    "positional_embedding": "sin",
    "positional_scale": 1.0,
    "cross_attention": False,
    "kv_repeat": 1,
    "betas": None,
    "existing_text_padding_id": 3,
    "existing_text_end_padding_id": 0,
    "extra_heads_num_heads": 0,
    "extra_heads_dim": 6,
    "depformer_dim": 256,
    "depformer_dim_feedforward": None,
    "depformer_num_heads": None,
    "depformer_multi_linear": False,
    "depformer_weights_per_step": False,
    "depformer_weights_per_step_schedule": None,
    "depformer_low_rank_embeddings": None,
    "depformer_pos_emb": "sin",
    "depformer_norm": None,
    "depformer_context": None,
    "depformer_causal": True,
    "conditioners": {},
    "fuser": None,
    "quantize": False,
    "gradient_checkpointing": False,
}
"""The reference's own defaults, where it has one."""

INHERITED = ("num_layers", "max_period", "gating", "layer_scale", "kv_repeat", "positional_scale", "betas")
"""Keys that the depth transformer takes from the temporal one unless given with the prefix `depformer_`."""

RENAMED = {"demux_second_stream": "demux_second_text_stream"}


def lm_kwargs(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration file that describes the model, without names of files and LoRA's keys."""
    return {RENAMED.get(k, k): v for k, v in raw.items() if k not in LOADER_KEYS and k not in LORA_KEYS}


def from_kwargs(raw: Mapping[str, Any], where: str, oracle: str = "none") -> ModelConfig:
    """The model that the reference would build.

    Args:
        raw: a `config.json` or `moshi_lm_kwargs.json`.
        where: its name, for the error.
        oracle: whether the weights have an oracle table, which no such file says.

    Raises:
        InputError: unknown keys, or options that this project does not have, all in one list.
    """
    given = lm_kwargs(raw)
    try:
        problems = [*_unknown(given), *_unsupported(given)]
        if not problems:
            return validate(_config({**DEFAULTS, **given}, given, oracle))
    except InputError as error:
        raise InputError(f"{where}: {error.message}", error.problems) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{where}: a value is not of the type that the reference takes: {error}") from None
    raise InputError(f"{where}: the model cannot be built ({len(problems)} problems)", problems)


def _config(kwargs: Mapping[str, Any], given: Mapping[str, Any], oracle: str) -> ModelConfig:
    inherited = {f"depformer_{key}": given.get(f"depformer_{key}", kwargs[key]) for key in INHERITED}
    dim, dep_q = kwargs["dim"], kwargs["dep_q"]
    temporal = TransformerConfig(
        dim=dim,
        num_heads=kwargs["num_heads"],
        num_layers=kwargs["num_layers"],
        ffn_dim=hidden_dim(dim, int(kwargs["hidden_scale"] * dim), kwargs["gating"]),
        context=kwargs["context"],
        gating=kwargs["gating"],
        norm=kwargs["norm"],
        positions=kwargs["positional_embedding"],
        max_period=kwargs["max_period"],
        layer_scale=kwargs["layer_scale"],
    )
    return ModelConfig(
        n_q=kwargs["n_q"],
        dep_q=dep_q,
        card=kwargs["card"],
        text_card=kwargs["text_card"],
        delays=tuple(kwargs["delays"]),
        temporal=temporal,
        depth=_depth({**kwargs, **inherited}) if dep_q else None,
        text_card_out=None if kwargs["text_card_out"] == kwargs["text_card"] else kwargs["text_card_out"],
        text_padding_id=kwargs["existing_text_padding_id"],
        text_end_padding_id=kwargs["existing_text_end_padding_id"],
        oracle=oracle,
        demux_text=kwargs["demux_second_text_stream"],
        norm_emb=kwargs["norm_emb"],
        extra_heads=kwargs["extra_heads_num_heads"],
        extra_head_dim=kwargs["extra_heads_dim"],
        conditioners=tuple(_conditioner(name, spec) for name, spec in (kwargs["conditioners"] or {}).items()),
        unused_depth_input_dim=None if dep_q or kwargs["depformer_multi_linear"] else kwargs["depformer_dim"],
    )


def _depth(kwargs: Mapping[str, Any]) -> DepthConfig:
    dim, feedforward = kwargs["depformer_dim"], kwargs["depformer_dim_feedforward"]
    if feedforward is None:
        feedforward = int(kwargs["hidden_scale"] * dim)
    schedule = kwargs["depformer_weights_per_step_schedule"]
    return DepthConfig(
        dim=dim,
        num_heads=kwargs["depformer_num_heads"],
        num_layers=kwargs["depformer_num_layers"],
        ffn_dim=hidden_dim(dim, feedforward, kwargs["depformer_gating"]),
        gating=kwargs["depformer_gating"],
        norm=kwargs["norm"],
        positions=kwargs["depformer_pos_emb"],
        max_period=kwargs["depformer_max_period"],
        layer_scale=kwargs["depformer_layer_scale"],
        weights_per_step=kwargs["depformer_weights_per_step"],
        schedule=None if schedule is None else tuple(schedule),
        multi_linear=kwargs["depformer_multi_linear"],
        low_rank=kwargs["depformer_low_rank_embeddings"],
        head_norm=kwargs["depformer_norm"],
    )


def _conditioner(name: str, spec: Mapping[str, Any]) -> ConditionerConfig:
    options = spec[spec["type"]]
    if spec["type"] == "tensor":
        return ConditionerConfig(name, "tensor", options["dim"])
    return ConditionerConfig(
        name, "lut", options["dim"], options["n_bins"], tuple(options.get("possible_values") or ())
    )


def from_lora_kwargs(raw: Mapping[str, Any], rank: int | None) -> LoRAConfig | None:
    """The adapters' settings: rank from the tensors, absolute scaling from the file (2.0 where it says none)."""
    return None if rank is None else LoRAConfig(rank, float(raw.get("lora_scaling", 2.0)))


def hidden_dim(dim: int, feedforward: int, gating: str) -> int:
    """Hidden width behind the reference's `dim_feedforward` (`modules/gating.py`, `ActivationGating`)."""
    if gating == "none":
        return feedforward
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3


def feedforward_dim(dim: int, hidden: int, gating: str) -> int:
    """A `dim_feedforward` from which the reference makes this hidden width.

    Raises:
        InputError: there is none.
    """
    near = hidden if gating == "none" else 3 * hidden // 2
    for candidate in (near, near + 1, 4 * dim):
        if hidden_dim(dim, candidate, gating) == hidden:
            return candidate
    raise InputError(f"no dim_feedforward gives the reference a hidden width of {hidden} at dim {dim}")


def to_kwargs(config: ModelConfig) -> dict[str, Any]:
    """What the reference's `LMModel` (through its loader) is built from.

    The oracle table and adapters are not among these keys; `lora_kwargs` gives the latter.

    Raises:
        InputError: the reference cannot express the model.
    """
    temporal, depth = config.temporal, config.depth
    feedforward = feedforward_dim(temporal.dim, temporal.ffn_dim, temporal.gating)
    kwargs: dict[str, Any] = {
        "dim": temporal.dim,
        "text_card": config.text_card,
        "existing_text_padding_id": config.text_padding_id,
        "n_q": config.n_q,
        "dep_q": config.dep_q,
        "card": config.card,
        "num_heads": temporal.num_heads,
        "num_layers": temporal.num_layers,
        "hidden_scale": _hidden_scale(temporal.dim, feedforward),
        "causal": True,
        "layer_scale": temporal.layer_scale,
        "context": temporal.context,
        "max_period": temporal.max_period,
        "gating": temporal.gating,
        "norm": temporal.norm,
        "positional_embedding": temporal.positions,
    }
    optional = {
        "existing_text_end_padding_id": config.text_end_padding_id,
        "text_card_out": config.text_card_out,
        "demux_second_text_stream": config.demux_text,
        "norm_emb": config.norm_emb,
        "extra_heads_num_heads": config.extra_heads,
        "extra_heads_dim": config.extra_head_dim,
    }
    kwargs |= {key: value for key, value in optional.items() if value != DEFAULTS[key]}
    if depth is not None:
        kwargs |= _depth_kwargs(config, depth)
    elif config.unused_depth_input_dim is not None:
        kwargs["depformer_dim"] = config.unused_depth_input_dim
    else:
        kwargs["depformer_multi_linear"] = True
    kwargs["delays"] = list(config.delays)
    if config.conditioners:
        kwargs["conditioners"] = {c.name: _conditioner_kwargs(c) for c in config.conditioners}
        kwargs["fuser"] = {"sum": [c.name for c in config.conditioners]}
    return kwargs


def _depth_kwargs(config: ModelConfig, depth: DepthConfig) -> dict[str, Any]:
    if depth.norm != config.temporal.norm:
        raise InputError(
            f"the reference gives both transformers one norm, this model has {config.temporal.norm} and {depth.norm}"
        )
    kwargs: dict[str, Any] = {
        "depformer_dim": depth.dim,
        "depformer_dim_feedforward": feedforward_dim(depth.dim, depth.ffn_dim, depth.gating),
        "depformer_num_heads": depth.num_heads,
        "depformer_num_layers": depth.num_layers,
        "depformer_layer_scale": depth.layer_scale,
        "depformer_multi_linear": depth.multi_linear,
        "depformer_context": config.dep_q,
        "depformer_max_period": depth.max_period,
        "depformer_gating": depth.gating,
        "depformer_pos_emb": depth.positions,
        "depformer_weights_per_step": depth.weights_per_step,
    }
    optional = {
        "depformer_weights_per_step_schedule": list(depth.schedule) if depth.schedule else None,
        "depformer_low_rank_embeddings": depth.low_rank,
        "depformer_norm": depth.head_norm,
    }
    return kwargs | {key: value for key, value in optional.items() if value is not None}


def _conditioner_kwargs(config: ConditionerConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"dim": config.dim}
    if config.kind == "lut":
        options |= {"n_bins": config.num_bins, "tokenizer": "noop"}
        if config.possible_values:
            options["possible_values"] = list(config.possible_values)
    return {"type": config.kind, config.kind: options}


def lora_kwargs(lora: LoRAConfig | None) -> dict[str, Any]:
    """The loader's keys about adapters; none where there are none."""
    return {} if lora is None else {"lora": True, "lora_rank": lora.rank, "lora_scaling": lora.scaling}


def _hidden_scale(dim: int, feedforward: int) -> float:
    """A factor with `int(factor * dim) == feedforward`, in spite of rounding."""
    scale = feedforward / dim
    while int(scale * dim) < feedforward:
        scale = math.nextafter(scale, math.inf)
    return scale


def _unknown(given: Mapping[str, Any]) -> Iterator[str]:
    known = [*DEFAULTS, *(f"depformer_{key}" for key in INHERITED), *LOADER_KEYS, *LORA_KEYS]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            yield f"unknown key {key!r}" + (f"; did you mean {near[0]}?" if near else "")


def _unsupported(given: Mapping[str, Any]) -> Iterator[str]:
    """Options of the reference that this project does not have, and values that no model can be built from."""

    def needs(key: str, value: object) -> Iterator[str]:
        if given.get(key, value) not in (value, None):
            yield f"{key} {given[key]!r} is not supported, only {value!r}"

    for key in ("bias_proj", "cross_attention"):
        yield from needs(key, False)
    for key in ("kv_repeat", "depformer_kv_repeat"):
        yield from needs(key, 1)
    yield from needs("causal", True)
    for key in ("positional_scale", "depformer_positional_scale"):
        yield from needs(key, 1.0)
    if isinstance(given.get("depformer_dim_feedforward"), list):
        yield "depformer_dim_feedforward as a list (one width per weight set) is not supported, only one number"
    choices = {"gating": GATINGS, "depformer_gating": GATINGS, "norm": NORMS, "depformer_norm": NORMS}
    choices |= {"positional_embedding": POSITIONS, "depformer_pos_emb": POSITIONS}
    for key, names in choices.items():
        if given.get(key) is not None and given[key] not in names:
            yield f"{key} {given[key]!r} is not supported, only {', '.join(names)}"
    if given.get("num_layers") is None:
        yield "num_layers is missing"
    if given.get("dep_q", 8) and given.get("depformer_num_heads") is None:
        yield "depformer_num_heads is missing"
    yield from _unsupported_conditions(given)


def _unsupported_conditions(given: Mapping[str, Any]) -> Iterator[str]:
    fuser = given.get("fuser") or {}
    conditioners = given.get("conditioners") or {}
    for method in ("cross", "prepend"):
        if fuser.get(method):
            yield f"fuser.{method} {fuser[method]} is not supported, only sum"
    for name in conditioners:
        if name not in fuser.get("sum", ()) and not any(
            name in fuser.get(m, ()) for m in ("cross", "prepend")
        ):
            yield f"conditioners.{name}: not named by fuser.sum"
    for name, spec in conditioners.items():
        kind = spec.get("type")
        options = spec.get(kind)
        if kind not in ("lut", "tensor") or not isinstance(options, Mapping):
            yield f"conditioners.{name}: type {kind!r} is not supported, only lut or tensor with their options"
            continue
        expected = {"tokenizer": "noop", "learn_padding": True, "force_linear": True, "output_bias": False}
        for key, value in expected.items():
            if options.get(key, value) != value:
                yield f"conditioners.{name}.{kind}.{key} {options[key]!r} is not supported, only {value!r}"
        for key in ("dim", "n_bins") if kind == "lut" else ("dim",):
            if key not in options:
                yield f"conditioners.{name}.{kind}.{key} is missing"
