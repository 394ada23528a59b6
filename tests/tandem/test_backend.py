"""Back ends: the user's own questions and answers ranked, and what a language model is told."""

import asyncio
import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kame_jax.config import LLMConfig, TandemConfig
from kame_jax.errors import InputError
from kame_jax.tandem import Embedded, LanguageModel, Question
from kame_jax.tandem.backend import OPENING, Turn, content_words, messages

ENTRIES = [
    ("Where did my parcel go?", "It went to Oslo."),
    ("Where did my umbrella go?", "The umbrella is in Rome."),
    ("When do you close today?", "At six."),
    ("How much is a ticket to Boston?", "Forty dollars."),
]
LLM = LLMConfig(model="m")


def asked(partial, final=False, turns=()):
    return Question(turns, partial, final, 1.0)


async def answer(backend, question):
    async with backend.ask(question) as pieces:
        return [piece async for piece in pieces]


def test_the_answer_follows_the_growing_question():
    backend = Embedded(ENTRIES)
    heard = [
        "Where did my",
        "Where did my par",
        "Where did my umbrella",
        "what does a ticket cost",
        "when clos",
    ]
    found = [backend.best(text)[1] for text in heard[1:]]
    assert found == ["It went to Oslo.", "The umbrella is in Rome.", "Forty dollars.", "At six."]
    assert "".join(asyncio.run(answer(backend, asked("umbrella go")))) == "The umbrella is in Rome."
    assert asyncio.run(answer(backend, asked("hello there"))) == []
    assert backend.usage()[0].requests == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "a b", "answer": "c"}\n{"question": "d", "answer": "e"}\n',
        '[{"question": "a b", "answer": "c"}, {"question": "d", "answer": "e"}]',
        '{"a b": "c", "d": "e"}',
    ],
)
def test_questions_and_answers_are_read_from_a_file(tmp_path, text):
    (tmp_path / "faq").write_text(text)
    assert Embedded.read(tmp_path / "faq").best("d")[1] == "e"


def test_everything_wrong_with_such_a_file_comes_at_once(tmp_path):
    file = tmp_path / "faq.jsonl"
    file.write_text('{"question": "a", "answer": "b"}\n{"question": "a"}\nnonsense\n')
    with pytest.raises(InputError) as error:
        Embedded.read(file)
    assert "entry 2" in str(error.value)
    assert "entry 3" in str(error.value)
    with pytest.raises(InputError):
        Embedded.read(tmp_path / "nowhere")


def test_a_language_model_gets_the_turns_as_they_were_said_in_order():
    """Defect I8: pieces joined by spaces, the reply before what it replies to, one message for all."""
    turns = (
        Turn("user", "Hello", 0.4),
        Turn("assistant", "Hello, how can I help", 1.0),
        Turn("user", "Where is", 3.0),
    )
    found = messages(asked("Where is", turns=turns), TandemConfig(context_chars=30), LLM)
    assert [m["role"] for m in found] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in found[1:]] == [OPENING, "Hello, how can I help", "Where is"]
    assert "still speaking" in found[0]["content"]
    begun = (*turns, Turn("assistant", "It is", 4.0))
    told = messages(asked("x", True, begun), TandemConfig(), LLM)
    assert "finished" in told[0]["content"]
    assert '"It is" Go on from there' in told[0]["content"]
    continued = messages(asked("x", True, begun), TandemConfig(), replace(LLM, prefill=True))
    assert continued[-1] == {"role": "assistant", "content": "It is"}
    assert "go on from there" in continued[0]["content"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant"]), st.sampled_from(["", "a b", "c" * 40])), max_size=8
    ),
    st.booleans(),
)
def test_every_server_takes_the_chat(said, system_role):
    """As Mistral's, and templates of many models: the turns alternate, and the user has the first and the last."""
    turns = tuple(Turn(role, text, float(at)) for at, (role, text) in enumerate(said))
    chat = messages(
        asked("x", turns=turns), TandemConfig(context_chars=60), replace(LLM, system_role=system_role)
    )
    roles = [message["role"] for message in chat]
    assert ("system" in roles) == system_role
    roles = roles[int(system_role) :]
    assert roles[0] == roles[-1] == "user"
    assert all(one != later for one, later in itertools.pairwise(roles))
    assert all(message["content"] for message in chat)


def test_a_large_model_takes_over_at_the_end_of_a_turn():
    small, large = (LLMConfig(model=name, base_url="http://127.0.0.1:9/v1") for name in ("small", "large"))
    backend = LanguageModel(TandemConfig(llm=small, final_llm=large))
    assert (backend._small.config.model, backend._large.config.model) == ("small", "large")
    with pytest.raises(InputError, match="needs a language model"):
        LanguageModel(TandemConfig())


def test_content_words_are_those_that_say_something():
    assert content_words("It is in the blue box.") == ["blue", "box"]
    assert content_words("it is") == ["it", "is"]
