"""Language models behind OpenAI-compatible endpoints: whole or streamed answers, counted, limited, never trusted.

The oracle simulator of `data` and the live conversations of `tandem` ask here. What is asked is theirs.
"""

from kame_jax.llm.client import Answer, Client, Message
from kame_jax.llm.endpoint import Endpoint
from kame_jax.llm.errors import Failures, LLMError, one_line
from kame_jax.llm.retry import Budget, Retry
from kame_jax.llm.usage import Usage

__all__ = [
    "Answer",
    "Budget",
    "Client",
    "Endpoint",
    "Failures",
    "LLMError",
    "Message",
    "Retry",
    "Usage",
    "one_line",
]
