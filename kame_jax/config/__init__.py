"""Every setting of the project: frozen dataclasses, YAML files, `a.b=c` overrides and one validation.

Arrays, files of weights and devices belong to the rooms above.
"""

from kame_jax.config.model import (
    CONDITIONERS,
    GATINGS,
    NORMS,
    ORACLE_EMBEDDINGS,
    POSITIONS,
    ConditionerConfig,
    DepthConfig,
    LoRAConfig,
    MimiConfig,
    ModelConfig,
    QuantizerConfig,
    SeanetConfig,
    TransformerConfig,
)

__all__ = [
    "CONDITIONERS",
    "GATINGS",
    "NORMS",
    "ORACLE_EMBEDDINGS",
    "POSITIONS",
    "ConditionerConfig",
    "DepthConfig",
    "LoRAConfig",
    "MimiConfig",
    "ModelConfig",
    "QuantizerConfig",
    "SeanetConfig",
    "TransformerConfig",
]
