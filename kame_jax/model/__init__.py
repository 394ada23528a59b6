"""The four-stream transformer in Flax NNX."""

from kame_jax.model.execution import Execution
from kame_jax.model.lm import LM, LMOutput

__all__ = ["LM", "Execution", "LMOutput"]
