"""The reference's configuration of Mimi (`mimi_config.json`) to a `MimiConfig` and back.

Names are those of kyutai-labs/moshi `models/loaders.py` (`_mimi_config`); the released codec comes without such a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kame_jax.config import MimiConfig, QuantizerConfig, SeanetConfig, TransformerConfig, validate
from kame_jax.errors import InputError

SEANET = {
    "dimension": "dim",
    "n_filters": "filters",
    "ratios": "ratios",
    "kernel_size": "kernel",
    "residual_kernel_size": "residual_kernel",
    "last_kernel_size": "last_kernel",
    "n_residual_layers": "residual_layers",
    "dilation_base": "dilation_base",
    "compress": "compress",
}
TRANSFORMER = {
    "d_model": "dim",
    "num_heads": "num_heads",
    "num_layers": "num_layers",
    "dim_feedforward": "ffn_dim",
    "context": "context",
    "gating": "gating",
    "norm": "norm",
    "positional_embedding": "positions",
    "max_period": "max_period",
    "layer_scale": "layer_scale",
}
QUANTIZER = {"dimension": "dim", "n_q": "n_q", "bins": "bins"}
"""Their name -> ours, in each section."""

FIXED: dict[str, dict[str, Any]] = {
    "seanet": {
        "channels": 1,
        "causal": True,
        "activation": "ELU",
        "disable_norm_outer_blocks": 0,
        "norm": "none",
        "pad_mode": "constant",
        "true_skip": True,
    },
    "transformer": {"causal": True, "conv_layout": True, "gating": "none"},
    "quantizer": {},
}
"""Options with only one supported value."""


def is_mimi_kwargs(raw: Mapping[str, Any]) -> bool:
    """Whether a configuration file is the codec's."""
    return isinstance(raw.get("seanet"), Mapping) and isinstance(raw.get("quantizer"), Mapping)


def from_kwargs(raw: Mapping[str, Any], where: str) -> MimiConfig:
    """The codec that the reference would build.

    Raises:
        InputError: options that this project does not have, missing sections or values, all in one list.
    """
    problems = list(_problems(raw))
    if problems:
        raise InputError(f"{where}: the codec cannot be built ({len(problems)} problems)", problems)
    seanet = {ours: raw["seanet"][theirs] for theirs, ours in SEANET.items() if theirs in raw["seanet"]}
    transformer = {o: raw["transformer"][t] for t, o in TRANSFORMER.items() if t in raw["transformer"]}
    quantizer = {
        ours: raw["quantizer"][theirs] for theirs, ours in QUANTIZER.items() if theirs in raw["quantizer"]
    }
    seanet["ratios"] = tuple(seanet.get("ratios", SeanetConfig.ratios))
    config = MimiConfig(
        seanet=SeanetConfig(**seanet),
        transformer=TransformerConfig(**transformer),
        quantizer=QuantizerConfig(**quantizer),
        sample_rate=raw.get("sample_rate", MimiConfig.sample_rate),
        frame_rate=raw.get("frame_rate", MimiConfig.frame_rate),
    )
    try:
        return validate(config)
    except InputError as error:
        raise InputError(f"{where}: {error.message}", error.problems) from None


def to_kwargs(config: MimiConfig) -> dict[str, Any]:
    """What the reference's `get_mimi` is built from."""
    seanet = {theirs: getattr(config.seanet, ours) for theirs, ours in SEANET.items()}
    transformer = {theirs: getattr(config.transformer, ours) for theirs, ours in TRANSFORMER.items()}
    quantizer = {theirs: getattr(config.quantizer, ours) for theirs, ours in QUANTIZER.items()}
    dim = config.seanet.dim
    return {
        "sample_rate": config.sample_rate,
        "channels": 1,
        "frame_rate": config.frame_rate,
        "seanet": FIXED["seanet"] | seanet | {"ratios": list(config.seanet.ratios)},
        "quantizer": quantizer | {"input_dimension": dim, "output_dimension": dim},
        "transformer": FIXED["transformer"]
        | transformer
        | {"input_dimension": dim, "output_dimensions": [dim]},
    }


def _problems(raw: Mapping[str, Any]) -> Iterator[str]:
    for section, fixed in FIXED.items():
        given = raw.get(section)
        if not isinstance(given, Mapping):
            yield f"{section}: missing"
            continue
        for key, value in fixed.items():
            if given.get(key, value) != value:
                yield f"{section}.{key} {given[key]!r} is not supported, only {value!r}"
    for key in ("d_model", "num_heads", "num_layers", "dim_feedforward"):
        if isinstance(raw.get("transformer"), Mapping) and key not in raw["transformer"]:
            yield f"transformer.{key}: missing"
