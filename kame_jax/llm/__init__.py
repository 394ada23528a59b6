"""Language models behind OpenAI-compatible endpoints: asked whole or streamed, counted, limited, never trusted.

The oracle simulator of `data` and the live conversations of `tandem` ask here. What is asked is theirs.
"""

from kame_jax.llm.client import Answer, Client, Message
from kame_jax.llm.endpoint import Endpoint, LLMError, without_keys
from kame_jax.llm.usage import Usage

__all__ = ["Answer", "Client", "Endpoint", "LLMError", "Message", "Usage", "without_keys"]
