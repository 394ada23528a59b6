"""Foreign checkpoint layouts: the only place that knows a PyTorch, Hugging Face or MLX tensor name."""

from kame_jax.interop.checkpoint import Checkpoint, open_checkpoint
from kame_jax.interop.load import load_checkpoint, load_mimi

__all__ = ["Checkpoint", "load_checkpoint", "load_mimi", "open_checkpoint"]
