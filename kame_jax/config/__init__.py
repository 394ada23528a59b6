"""Every setting of the project: frozen dataclasses, YAML files, `a.b=c` overrides and one validation.

Arrays, files of weights and devices belong to the rooms above.
"""

from kame_jax.config.build import build, to_dict, validate
from kame_jax.config.load import config_names, find_config, load_codec, load_model, load_run, to_yaml
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
from kame_jax.config.run import (
    DTYPES,
    SPEAKERS,
    DataConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    RunModelConfig,
    TrainConfig,
)

__all__ = [
    "CONDITIONERS",
    "DTYPES",
    "GATINGS",
    "NORMS",
    "ORACLE_EMBEDDINGS",
    "POSITIONS",
    "SPEAKERS",
    "ConditionerConfig",
    "DataConfig",
    "DepthConfig",
    "LoRAConfig",
    "LossConfig",
    "MeshConfig",
    "MimiConfig",
    "ModelConfig",
    "OptimizerConfig",
    "QuantizerConfig",
    "RunConfig",
    "RunModelConfig",
    "SeanetConfig",
    "TrainConfig",
    "TransformerConfig",
    "build",
    "config_names",
    "find_config",
    "load_codec",
    "load_model",
    "load_run",
    "to_dict",
    "to_yaml",
    "validate",
]
