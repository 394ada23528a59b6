"""The four-stream transformer in Flax NNX."""

from kame_jax.model.lm import LM, LMOutput

__all__ = ["LM", "LMOutput"]
