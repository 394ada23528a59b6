# %% [markdown]
# # Stream with your LLM
#
# ```sh
# python docs/examples/stream_with_llm.py
# ```
#
# A question is spoken to the model while a back end thinks along. Here the back end is a function of three lines;
# in its place goes `kame_jax.LanguageModel`, which talks to any OpenAI-compatible endpoint.

# %%
import asyncio
import contextlib
from collections.abc import AsyncIterator

import kame_jax
from kame_jax.assets import TINY
from kame_jax.codec.audio import read_audio
from kame_jax.demo.dialogues import ROOT, sample_entries
from kame_jax.llm import Failures, Usage
from kame_jax.tandem import TimedTranscript

entry = sample_entries("heldout")[0]
print("asked:", entry.question)
print("only the oracle knows:", entry.answer.text)

# %% [markdown]
# A back end answers a `Question`: what was said so far, and the user's turn that is still growing. The answer is
# a stream of pieces; each new answer replaces the oracle of the one before.


# %%
class MyBackend:
    """Knows one answer, and gives it word by word."""

    immediate = True

    def __init__(self) -> None:
        self.failures = Failures()

    @contextlib.asynccontextmanager
    async def ask(self, question: kame_jax.Question) -> AsyncIterator[AsyncIterator[str]]:
        async def pieces() -> AsyncIterator[str]:
            for word in entry.answer.text.split():
                yield word + " "

        yield pieces()

    async def close(self) -> None:
        """Nothing is open."""

    def usage(self) -> tuple[Usage, float]:
        return Usage(), 0.0


# %% [markdown]
# An engine holds the model, its codec and its tokenizer. A conversation ties one of its sessions to a transcript
# of the user (a file with times here, a streaming recogniser in real use) and to the back end.

# %%
engine = kame_jax.Engine.open(TINY, slots=1)
audio = read_audio(ROOT / "audio" / f"{entry.id}.ogg", engine.codec_config.sample_rate, channel="right")
transcript = TimedTranscript.read(ROOT / "text" / f"{entry.id}.json", speaker="B")


async def converse() -> tuple[str, dict]:
    with engine.join(seed=0, settings=kame_jax.greedy(1)) as session:
        conversation = kame_jax.Conversation(session, transcript, MyBackend())
        size = engine.frame_size
        for start in range(0, len(audio) - size + 1, size):
            await conversation.step(audio[start : start + size])
        return session.words.text, conversation.report()


said, report = asyncio.run(converse())
print("said:", said)
print("oracle tokens read:", report["oracle_tokens_read"])
