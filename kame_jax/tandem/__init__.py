"""Live conversations: a transcript of the user, a back end that thinks along, and the oracle that informs the model."""

from kame_jax.tandem.backend import Backend, Embedded, LanguageModel, Question
from kame_jax.tandem.conversation import Conversation
from kame_jax.tandem.sources import open_source, read_source
from kame_jax.tandem.transcript import Heard, TimedTranscript, Transcript

__all__ = [
    "Backend",
    "Conversation",
    "Embedded",
    "Heard",
    "LanguageModel",
    "Question",
    "TimedTranscript",
    "Transcript",
    "open_source",
    "read_source",
]
