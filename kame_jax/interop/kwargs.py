"""The reference's configuration files (`config.json`, `moshi_lm_kwargs.json`) to a `ModelConfig` and back.

Names, defaults and derived sizes are those of kyutai-labs/moshi and SakanaAI/kame: `models/lm.py` (`LMModel`),
`models/loaders.py`, `modules/transformer.py`, `modules/gating.py`. A field of ours is a key of theirs under the same
name, and with the same default, unless a table here says otherwise; `depformer_` prefixes the depth transformer's.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from kame_jax.config import (
    ConditionerConfig,
    DepthConfig,
    LoRAConfig,
    ModelConfig,
    TransformerConfig,
    build,
    to_dict,
)
from kame_jax.config.build import unpack
from kame_jax.config.fields import OneOf
from kame_jax.errors import InputError

LOADER_KEYS = (
    "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "model_type", "lm_gen_config",
    "tts_config", "stt_config", "model_id",
)  # fmt: skip
"""Keys of a `config.json` that the reference's loader removes before it builds the model."""

LORA_KEYS = ("lora", "lora_rank", "lora_scaling")

OTHER_NAMES = {
    "text_padding_id": "existing_text_padding_id",
    "text_end_padding_id": "existing_text_end_padding_id",
    "demux_text": "demux_second_text_stream",
    "extra_heads": "extra_heads_num_heads",
    "extra_head_dim": "extra_heads_dim",
    "temporal.positions": "positional_embedding",
    "depth.positions": "depformer_pos_emb",
    "depth.norm": "norm",
    "depth.schedule": "depformer_weights_per_step_schedule",
    "depth.low_rank": "depformer_low_rank_embeddings",
    "depth.head_norm": "depformer_norm",
}
"""Our field -> their key, where the names differ."""

DERIVED = (
    "temporal", "temporal.ffn_dim", "depth", "depth.ffn_dim", "depth.context", "oracle", "lora", "conditioners",
    "unused_depth_input_dim",
)  # fmt: skip
"""Our fields without a key of theirs, which follow from several keys or from the tensors."""

DEFAULTS: dict[str, Any] = {
    "delays": [0],
    "n_q": 8,
    "dep_q": 8,
    "card": 1024,
    "text_card": 32000,
    "dim": 128,
    "num_heads": 8,
    "hidden_scale": 4,
    "norm": "layer_norm",
    "gating": "none",
    "positional_embedding": "sin",
    "depformer_dim": 256,
    "depformer_multi_linear": False,
    "depformer_weights_per_step": False,
    "depformer_pos_emb": "sin",
}
"""The reference's own defaults where ours differ or do not exist."""

INHERITED = ("num_layers", "max_period", "gating", "layer_scale")
"""Keys that the depth transformer takes from the temporal one unless given with the prefix `depformer_`."""

FIXED: dict[str, Any] = {
    "bias_proj": False,
    "cross_attention": False,
    "kv_repeat": 1,
    "depformer_kv_repeat": 1,
    "causal": True,
    "positional_scale": 1.0,
    "depformer_positional_scale": 1.0,
}
"""Options with only one supported value."""

COMBINED = ("hidden_scale", "depformer_dim_feedforward", "conditioners", "fuser")
IGNORED = (
    "betas",
    "depformer_betas",
    "depformer_context",
    "depformer_causal",
    "quantize",
    "gradient_checkpointing",
)
"""Keys that are read together with others, and keys that change nothing here."""

PUBLISHED = (
    "dim", "text_card", "existing_text_padding_id", "n_q", "dep_q", "card", "num_heads", "num_layers", "hidden_scale",
    "causal", "layer_scale", "context", "max_period", "gating", "norm", "positional_embedding", "depformer_dim",
    "depformer_dim_feedforward", "depformer_num_heads", "depformer_num_layers", "depformer_layer_scale",
    "depformer_multi_linear", "depformer_context", "depformer_max_period", "depformer_gating", "depformer_pos_emb",
    "depformer_weights_per_step", "delays",
)  # fmt: skip
"""Keys of every published `config.json`, which other programs need; others are written if not at their default."""

RENAMED = {"demux_second_stream": "demux_second_text_stream"}


def _keys(cls: type, section: str, prefix: str = "") -> dict[str, str]:
    """Their key -> our field, for one of our classes."""
    names = [field.name for field in dataclasses.fields(cls) if section + field.name not in DERIVED]
    return {OTHER_NAMES.get(section + name, prefix + name): name for name in names}


MODEL = _keys(ModelConfig, "")
TEMPORAL = _keys(TransformerConfig, "temporal.")
DEPTH = _keys(DepthConfig, "depth.", "depformer_")
KNOWN = frozenset((*MODEL, *TEMPORAL, *DEPTH, *FIXED, *COMBINED, *IGNORED))


def lm_kwargs(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration file that describes the model, without names of files and LoRA's keys."""
    return {RENAMED.get(k, k): v for k, v in raw.items() if k not in LOADER_KEYS and k not in LORA_KEYS}


def from_kwargs(raw: Mapping[str, Any], where: str, oracle: str = "none") -> ModelConfig:
    """The model that the reference would build.

    Args:
        raw: a `config.json` or `moshi_lm_kwargs.json`.
        where: its name, for the error.
        oracle: whether the weights have an oracle table, which no such file states.

    Raises:
        InputError: unknown keys, or options that this project does not have, all in one list.
    """
    given = lm_kwargs(raw)
    try:
        problems = [*_unknown(given), *_unsupported(given)]
        if not problems:
            return build(ModelConfig, _values(given) | {"oracle": oracle}, about=where)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: a value is not of the type that the reference takes: {error}") from None
    raise InputError(f"{where}: the model cannot be built ({len(problems)} problems)", problems)


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ModelConfig`, nested."""
    inherited = {f"depformer_{key}": given[key] for key in INHERITED if key in given}
    kwargs = {**DEFAULTS, "depformer_gating": DEFAULTS["gating"], **inherited, **given}
    values = _section(MODEL, kwargs)
    if values.get("text_card_out") == values["text_card"]:
        values["text_card_out"] = None
    values["temporal"] = _section(TEMPORAL, kwargs) | {
        "ffn_dim": hidden_dim(kwargs["dim"], int(kwargs["hidden_scale"] * kwargs["dim"]), kwargs["gating"])
    }
    dim = kwargs["depformer_dim"]
    if kwargs["dep_q"]:
        feedforward = kwargs.get("depformer_dim_feedforward") or int(kwargs["hidden_scale"] * dim)
        width = hidden_dim(dim, feedforward, kwargs["depformer_gating"])
        values["depth"] = _section(DEPTH, kwargs) | {"ffn_dim": width}
    elif not kwargs["depformer_multi_linear"]:
        values["unused_depth_input_dim"] = dim
    conditioners = kwargs.get("conditioners") or {}
    return values | {"conditioners": [_conditioner(name, spec) for name, spec in conditioners.items()]}


def _section(keys: Mapping[str, str], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one of our classes that the keys give; the others have the same default on both sides."""
    return {field: kwargs[key] for key, field in keys.items() if key in kwargs}


def _conditioner(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    options = spec[spec["type"]]
    values = {"name": name, "kind": spec["type"], "dim": options["dim"]}
    if spec["type"] == "lut":
        values |= {"num_bins": options["n_bins"], "possible_values": options.get("possible_values") or ()}
    return values


def from_lora_kwargs(raw: Mapping[str, Any], rank: int | None) -> LoRAConfig | None:
    """The adapters' settings: rank from the tensors, absolute scaling from the file (2.0 where it has none)."""
    return None if rank is None else LoRAConfig(rank, float(raw.get("lora_scaling", LoRAConfig.scaling)))


def from_peft(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The loader's keys for adapters of Hugging Face's PEFT, from its `adapter_config.json`.

    Raises:
        InputError: adapters of another kind, or options that this project does not have.
    """
    fixed = {
        "peft_type": "LORA",
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "alpha_pattern": {},
    }
    problems = [
        f"{k} {raw[k]!r} is not supported, only {v!r}"
        for k, v in fixed.items()
        if raw.get(k, v) not in (v, None)
    ]
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    if not all(isinstance(number, int | float) and number > 0 for number in (rank, alpha)):
        problems.append(f"r and lora_alpha must be positive numbers, got {rank!r} and {alpha!r}")
    if problems:
        raise InputError(f"{where}: these adapters are not read ({len(problems)} problems)", problems)
    scaling = alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)  # type: ignore[operator, arg-type]
    return {"lora": True, "lora_scaling": scaling}


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
    kwargs: dict[str, Any] = {"causal": True, "hidden_scale": _hidden_scale(temporal.dim, feedforward)}
    kwargs |= _written(MODEL, config) | _written(TEMPORAL, temporal)
    if depth is not None:
        if depth.norm != temporal.norm:
            raise InputError(
                f"the reference gives both transformers one norm, this model has {temporal.norm} and {depth.norm}"
            )
        kwargs |= _written(DEPTH, depth) | {
            "depformer_dim_feedforward": feedforward_dim(depth.dim, depth.ffn_dim, depth.gating),
            "depformer_context": config.dep_q,
        }
    elif config.unused_depth_input_dim is not None:
        kwargs["depformer_dim"] = config.unused_depth_input_dim
    else:
        kwargs["depformer_multi_linear"] = True
    kwargs = {key: kwargs[key] for key in (*PUBLISHED, *kwargs) if key in kwargs}
    if config.conditioners:
        kwargs["conditioners"] = {c.name: _conditioner_kwargs(c) for c in config.conditioners}
        kwargs["fuser"] = {"sum": [c.name for c in config.conditioners]}
    return kwargs


def _written(keys: Mapping[str, str], config: ModelConfig | TransformerConfig) -> dict[str, Any]:
    """The keys of one of our classes: those that published files have, and others that are not at their default."""
    values, default = to_dict(config), {field.name: field.default for field in dataclasses.fields(config)}
    return {
        key: values[field]
        for key, field in keys.items()
        if key in PUBLISHED or values[field] != DEFAULTS.get(key, default[field])
    }


def _conditioner_kwargs(config: ConditionerConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"dim": config.dim}
    if config.kind == "lut":
        options |= {"n_bins": config.num_bins, "tokenizer": "noop"}
        if config.possible_values:
            options["possible_values"] = list(config.possible_values)
    return {"type": config.kind, config.kind: options}


def lora_kwargs(lora: LoRAConfig | None) -> dict[str, Any]:
    """The loader's keys about adapters; empty without adapters."""
    return {} if lora is None else {"lora": True, "lora_rank": lora.rank, "lora_scaling": lora.scaling}


def _hidden_scale(dim: int, feedforward: int) -> float:
    """A factor with `int(factor * dim) == feedforward`, despite rounding."""
    scale = feedforward / dim
    while int(scale * dim) < feedforward:
        scale = math.nextafter(scale, math.inf)
    return scale


def _unknown(given: Mapping[str, Any]) -> Iterator[str]:
    known = [*KNOWN, *LOADER_KEYS, *LORA_KEYS]
    for key in given:
        if key not in KNOWN:
            near = difflib.get_close_matches(key, known, n=1)
            yield f"unknown key {key!r}" + (f"; did you mean {near[0]}?" if near else "")


def _unsupported(given: Mapping[str, Any]) -> Iterator[str]:
    """Options of the reference that this project does not have, and values that no model can be built from."""
    for key, value in FIXED.items():
        if given.get(key, value) not in (value, None):
            yield f"{key} {given[key]!r} is not supported, only {value!r}"
    if isinstance(given.get("depformer_dim_feedforward"), list):
        yield "depformer_dim_feedforward as a list (one width per weight set) is not supported, only one number"
    for keys, cls in ((MODEL, ModelConfig), (TEMPORAL, TransformerConfig), (DEPTH, DepthConfig)):
        hints = typing.get_type_hints(cls, include_extras=True)
        for key, field in keys.items():
            _, limit, _ = unpack(hints[field])
            if isinstance(limit, OneOf) and given.get(key) is not None and given[key] not in limit:
                yield f"{key} {given[key]!r} is not supported, only {limit}"
    if given.get("num_layers") is None:
        yield "num_layers is missing"
    if given.get("dep_q", 8) and given.get("depformer_num_heads") is None:
        yield "depformer_num_heads is missing"
    if given.get("fuser") or given.get("conditioners"):
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
