"""kame_jax: the JAX home of KAME, a speech-to-speech model that speaks while it thinks."""

__version__ = "0.1.0"
