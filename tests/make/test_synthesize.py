"""Question sets of any form become spoken dialogues; what cannot be spoken is counted, the origin of all is written."""

import asyncio
import json

import numpy as np
import pytest

from kame_jax.config import LLMConfig
from kame_jax.data.dialogue import dialogue_ids, read_dialogue, read_stereo
from kame_jax.errors import InputError
from kame_jax.make.answers import Answers
from kame_jax.make.check import check_dialogue
from kame_jax.make.origin import contamination
from kame_jax.make.questions import Item, read_items
from kame_jax.make.rewrite import Limits, Line, Refused, parse_lines, template_lines
from kame_jax.make.speech import RATE, Speech, SpeechError
from kame_jax.make.synthesize import Recipe, Timing, lay_out, synthesize
from tests.llm.server import Server, Turn

ROWS = {
    "gsm8k": {"question": "2 apples and 3 more?", "answer": "2+3 = <<2+3=5>>5 apples.\n#### 5"},
    "mmlu-pro": {
        "question_id": 7,
        "question": "Which gas?",
        "options": ["Oxygen", "N/A", "Neon"],
        "answer": "C",
        "answer_index": 2,
        "cot_content": "A: Let's think step by step. It glows.",
    },
    "hssbench": {
        "id": 9,
        "pic_path": "x.png",
        "question": "Who?",
        "options": ["A. Plato", "B. Kant"],
        "correct_answer": "B",
    },
    "mt-bench": {
        "question_id": 101,
        "category": "reasoning",
        "turns": ["One?", "Two?"],
        "reference": ["1", "2"],
    },
    "plain": {"id": "my/own id", "question": "What colour is the sky?", "answer": "blue"},
}
EXPECTED = {
    "gsm8k": Item("gsm8k-00001", ("2 apples and 3 more?",), ("5",), (), "2+3 = 5 apples."),
    "mmlu-pro": Item("mmlu-pro-7", ("Which gas?",), ("Neon",), ("Oxygen", "Neon"), "It glows."),
    "hssbench": Item("hssbench-9", ("Who?",), ("Kant",), ("Plato", "Kant"), "", True),
    "mt-bench": Item("mt-bench-101", ("One?", "Two?"), ("1", "2")),
    "plain": Item("my-own-id", ("What colour is the sky?",), ("blue",)),
}
RECIPE = Recipe((("low",), ("high", "higher")))


class Tones:
    """Speaks a tone for each word, as long as the word."""

    spoken = 0

    def describe(self):
        return {"engine": "tones"}

    def speak(self, text, voice):
        if "unspeakable" in text:
            raise SpeechError("no voice for that")
        self.spoken += 1
        sizes = [0.05 * len(word) for word in text.split()]
        edges = np.cumsum([0.0, *sizes])
        time = np.arange(round(edges[-1] * RATE)) / RATE
        pitch = {"low": 110, "high": 220, "higher": 330}[voice]
        words = tuple(zip(text.split(), edges.tolist(), edges[1:].tolist()))
        return Speech((0.3 * np.sin(2 * np.pi * pitch * time)).astype(np.float32), words)


def write(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def make(source, out, engine=None, **options):
    return asyncio.run(synthesize(source, out, engine or Tones(), options.pop("recipe", RECIPE), **options))


@pytest.mark.parametrize("form", ROWS)
def test_question_sets_are_recognised_and_read(form, tmp_path):
    source = write(tmp_path / "set.jsonl", [ROWS[form]])
    assert list(read_items(source)) == list(read_items(source, form)) == [EXPECTED[form]]


def test_json_and_parquet_files_are_read_and_bad_rows_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    (tmp_path / "set.json").write_text(json.dumps([ROWS["hssbench"]]))
    pyarrow.parquet.write_table(pa.Table.from_pylist([ROWS["gsm8k"]]), tmp_path / "set.parquet")
    for name, form in (("set.json", "hssbench"), ("set.parquet", "gsm8k")):
        assert list(read_items(str(tmp_path / name))) == [EXPECTED[form]]
    bad = [ROWS["plain"], "{", "[1]", '{"answer": 1}', '{"question": "x", "options": 3}']
    found = list(read_items(write(tmp_path / "bad.jsonl", bad)))
    assert [isinstance(item, InputError) for item in found] == [False, True, True, True, True]
    assert str(found[3]) == "bad.jsonl, row 4: no field 'question'"
    for source, message in (("none.jsonl", "no such file"), ("hf://datasets/x/y", "expected hf://")):
        with pytest.raises(InputError, match=message):
            list(read_items(source))
    (tmp_path / "set.csv").write_text("x")
    with pytest.raises(InputError, match=r"expected a \.jsonl"):
        list(read_items(str(tmp_path / "set.csv")))


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Item("x", ("Who is on the picture?",), ("Kant",), needs_picture=True), "picture"),
        (Item("x", (r"What is $\frac{1}{2}$?",), ("a half",)), "formula"),
        (Item("x", ("Read:\n| a | b |\n| 1 | 2 |",), ("b",)), "table"),
        (Item("x", ("What does this print?\n```\nprint(1)\n```",), ("1",)), "code"),
        (Item("x", ("Which?",), ("a",), tuple("abcdef")), "options"),
        (Item("x", ("Which?",), ("a",), ("a", "one two three four five six seven eight nine")), "options"),
        (Item("x", ("Как дела сегодня?",), ("a",)), "language"),
        (Item("x", ("why " * 90,), ("a",)), "long"),
        (Item("x", ("Who?",), ("",)), "no answer"),
    ],
)
def test_what_cannot_be_spoken_has_a_reason(item, reason):
    with pytest.raises(Refused, match=reason):
        template_lines(item, Limits())


def test_templates_give_speakable_turns_that_differ_by_seed():
    lines = template_lines(EXPECTED["mmlu-pro"], Limits())
    assert [line.speaker for line in lines] == ["B", "A"]
    assert "Oxygen" in lines[0].text
    assert "Neon" in lines[1].text
    several = {template_lines(EXPECTED["gsm8k"], Limits(), seed)[1].text for seed in range(12)}
    assert len(several) > 2
    assert all("five" in text and not any(c.isdigit() for c in text) for text in several)
    assert len(template_lines(EXPECTED["mt-bench"], Limits())) == 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("You are in second place.", "You are in second place."),
        ("Total number of passengers is 50 * 2 = $100", "Total number of passengers is fifty times two equals one "
        "hundred dollars."),
        ("x = 5", "X equals five."),
        ("Because of the rain", "Because of the rain."),
        ("Yes, two of them.", "Yes, two of them."),
        ("Stop at the first light!", "Stop at the first light."),
    ],
)  # fmt: skip
def test_a_sentence_is_an_answer_of_its_own(answer, said):
    item = Item("x", ("What is it?",), (answer,))
    replies = {template_lines(item, Limits(), seed)[1].text for seed in range(20)}
    assert {reply.removeprefix("Give me a moment. ").removeprefix("Let me think. ") for reply in replies} == {
        said
    }


def test_a_phrase_stands_in_a_template():
    item = Item("x", ("What is it?",), ("second place",))
    replies = {template_lines(item, Limits(), seed)[1].text for seed in range(20)}
    assert "The answer is second place." in replies


def test_an_answer_that_cannot_be_read_aloud_whole_is_refused_with_its_reason():
    with pytest.raises(Refused, match="symbol"):
        template_lines(Item("x", ("What is it?",), ("5 ⊕ 3",)), Limits())
    assert "⊕" not in template_lines(Item("x", ("Why?",), ("six",), reasoning="5 ⊕ 3"), Limits())[1].text


def test_a_models_dialogue_is_parsed_or_refused():
    text = "<think>B: no</think>\n**B:** Is it 5?\nA: Yes, *five*!\nB: thanks"
    assert parse_lines(text, Limits()) == [Line("B", "Is it five."), Line("A", "Yes, five.")]
    for text in ("", "A: hello\nB: hi", "B: one\nB: two\nA: three", "just words"):
        with pytest.raises(Refused, match="rewriting"):
            parse_lines(text, Limits())


def test_each_speaker_has_a_channel_and_words_lie_where_they_sound():
    lines = [Line("B", "What is it. Please say."), Line("A", "It is blue.")]
    recipe = Recipe(RECIPE.voices, timing=Timing(lead=(1.0, 1.0), hesitates=1.0))
    audio, words = lay_out(lines, "name", Tones(), recipe)
    assert words[0].start == 1.0
    assert [w.word for w in words] == "What is it. Please say. It is blue.".split()
    for word in words:
        side = 0 if word.speaker == "A" else 1
        part = slice(round(word.start * RATE) + 50, round(word.end * RATE) - 50)
        assert np.abs(audio[part, side]).mean() > 0.1
        assert np.abs(audio[part, 1 - side]).max() == 0
    assert words[3].start - words[2].end >= 1.0, "B hesitates between sentences"
    assert not check_dialogue(words, None, len(audio) / RATE).notes
    again, _ = lay_out(lines, "name", Tones(), recipe)
    assert np.array_equal(audio, again)
    with pytest.raises(InputError, match="lead 2 to 1"):
        Timing(lead=(2.0, 1.0))


def test_dialogues_are_complete_resumed_and_counted(tmp_path):
    rows = [
        ROWS["plain"],
        ROWS["gsm8k"],
        ROWS["hssbench"],
        ROWS["plain"],
        "{",
        {"question": "unspeakable", "answer": "x"},
    ]
    source = write(tmp_path / "set.jsonl", rows)
    out = tmp_path / "out"
    report = make(source, out)
    assert (report.made, dict(report.refused)) == (2, {"picture": 1})
    assert [line.split(": ")[0] for line in report.problems] == [
        "set.jsonl, row 5",
        "dialogue q00006",
    ]
    assert report.notes == ["dialogue my-own-id: occurs twice in the set, made once"]
    assert dialogue_ids(out) == ["gsm8k-00002", "my-own-id"]
    dialogue = read_dialogue(out, "my-own-id")
    assert read_stereo(dialogue).shape[0] == 2
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sources"][source]["items"] == ["gsm8k-00002", "my-own-id"]
    assert contamination(out)[source]["count"] == 2
    (out / "origin" / "my-own-id.json").unlink()
    again = Tones()
    report = make(source, out, again)
    assert (report.made, report.kept) == (1, 1)
    assert again.spoken <= 4
    with pytest.raises(InputError, match="made with other settings"):
        make(source, out, recipe=Recipe(RECIPE.voices, seed=1))
    whole = {p.name: p.read_bytes() for p in (out / "text").iterdir()}
    for i in range(2):
        make(source, tmp_path / "shards", shard=(i, 2))
    assert {p.name: p.read_bytes() for p in (tmp_path / "shards" / "text").iterdir()} == whole


def test_a_second_set_with_the_same_row_numbers_is_made_beside_the_first(tmp_path):
    first = write(tmp_path / "first.jsonl", [{"question": "What is red?", "answer": "a rose"}])
    second = write(tmp_path / "second.jsonl", [{"question": "What is blue?", "answer": "the sky"}])
    out = tmp_path / "out"
    assert [make(source, out).made for source in (first, second)] == [1, 1]
    assert [make(source, out).kept for source in (first, second)] == [1, 1]
    origins = [json.loads(path.read_text()) for path in sorted((out / "origin").iterdir())]
    assert sorted(origin["lines"][1]["text"].split()[-1] for origin in origins) == ["rose.", "sky."]
    assert len(dialogue_ids(out)) == 2
    write(tmp_path / "first.jsonl", [{"question": "What is red?", "answer": "a fire"}])
    assert (make(first, out).made, make(second, out).kept) == (1, 1)
    assert len(dialogue_ids(out)) == 2


BAD_ROWS = [
    ({"question": None, "answer": "x"}, "question is None, expected text"),
    ({"question": float("nan"), "answer": "x"}, "question is nan, expected text"),
    ({"question": " ", "answer": "x"}, "question is empty"),
    ({"question": ["a"], "answer": "x"}, "question is ['a'], expected text"),
    ({"question": True, "answer": "x"}, "question is True, expected text"),
    ({"turns": []}, "has no question"),
    ({"turns": ["text"]}, "string indices"),
    ({"turns": 5}, "not iterable"),
    ({"question": "why", "answer": "y", "options": "abc"}, "options is 'abc', expected a list"),
    ({"question": "why", "answer": "\ud800"}, "half of a surrogate pair"),
    (5, "expected an object, got '5'"),
    ({"answer_index": 9, "options": ["a", "b"], "question": "why"}, "answer_index is 9, expected 0 to 1"),
    ({"question_id": 1, "category": "x", "turns": ["a"], "reference": "abc"}, "reference is 'abc'"),
]


def test_a_bad_row_is_one_line_and_the_others_are_made(tmp_path):
    good = {"question": "What is red?", "answer": "a rose"}
    rows = [row for row, _ in BAD_ROWS]
    source = write(tmp_path / "set.jsonl", [*rows, good, {"question": "What is two?", "answer": 2}])
    report = make(source, tmp_path / "out")
    assert report.made == 2
    assert len(report.problems) == len(rows)
    for number, (line, (_, expected)) in enumerate(zip(report.problems, BAD_ROWS), 1):
        assert line.startswith(f"set.jsonl, row {number}: ")
        assert expected in line
    # An answer that is missing is no answer; it is not spoken as "None".
    assert dict(report.refused) == {}
    absent = write(tmp_path / "absent.jsonl", [{"question": "why", "answer": None}, {"question": "why"}])
    assert dict(make(absent, tmp_path / "absent").refused) == {"no answer": 2}


def test_names_of_items_are_names_of_files(tmp_path):
    ids = ["a/b", "../../etc/passwd", "x" * 300, "y" * 300, "...", "日" * 100, 7, None]
    rows = [{"id": name, "question": "What is red?", "answer": "a rose"} for name in ids]
    found = [item.id for item in read_items(write(tmp_path / "set.jsonl", rows))]
    assert len(set(found)) == len(ids)
    assert found[0] == "a-b"
    assert found[6:] == ["7", "q00008"]
    assert all("/" not in name and not name.startswith(".") and len(name.encode()) <= 80 for name in found)


def test_only_utf8_is_read_with_or_without_a_byte_order_mark(tmp_path):
    row = '{"question": "Où est-ce?", "answer": "ici"}\n'
    (tmp_path / "marked.jsonl").write_bytes(b"\xef\xbb\xbf" + row.encode())
    assert [item.questions for item in read_items(str(tmp_path / "marked.jsonl"))] == [("Où est-ce?",)]
    (tmp_path / "latin.jsonl").write_bytes(row.encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8 text \(byte 15\)"):
        list(read_items(str(tmp_path / "latin.jsonl")))
    (tmp_path / "scalar.json").write_text("5")
    with pytest.raises(InputError, match="expected a list of rows"):
        list(read_items(str(tmp_path / "scalar.json")))


def test_a_turn_has_all_its_lines_and_thinking_without_a_beginning_is_cut():
    text = "B: What colour is the sky?\nOn a clear day, I mean.\n\nA: It is blue.\nThat is because air scatters it."
    assert [line.text for line in parse_lines(text, Limits())] == [
        "What colour is the sky. On a clear day, I mean.",
        "It is blue. That is because air scatters it.",
    ]
    draft = "Draft:\nB: What is it?\nA: Maybe red? No.\n</think>\nB: What colour is the sky?\nA: It is blue."
    assert [line.text for line in parse_lines(draft, Limits())] == ["What colour is the sky.", "It is blue."]


def test_a_model_words_the_dialogues(tmp_path):
    source = write(tmp_path / "set.jsonl", [ROWS["plain"], {"question": "Why?", "answer": "so"}])

    def turn(request):
        wants = "sky" in request["messages"][1]["content"]
        return Turn("B: What colour is it?\nA: It is blue!" if wants else "I cannot do that")

    async def run(server):
        async with Answers(LLMConfig("m", server.url), tmp_path / "cache") as answers:
            return await synthesize(source, tmp_path / "out", Tones(), RECIPE, answers=answers)

    with Server(turn) as server:
        report = asyncio.run(run(server))
    assert (report.made, dict(report.refused)) == (1, {"rewriting": 1})
    said = json.loads((tmp_path / "out" / "origin" / "my-own-id.json").read_text())["lines"]
    assert [line["text"] for line in said] == ["What colour is it.", "It is blue."]


def test_an_answer_that_is_cut_or_empty_is_not_a_dialogue_and_is_asked_again(tmp_path):
    source = write(tmp_path / "set.jsonl", [ROWS["plain"]])
    cut = Turn("B: What colour is it?\nA: It is", finish="length")

    async def run(server):
        async with Answers(LLMConfig("m", server.url), tmp_path / "cache") as answers:
            return await synthesize(source, tmp_path / "out", Tones(), RECIPE, answers=answers)

    with Server([Turn(""), cut, Turn("never")]) as server:
        reports = [asyncio.run(run(server)) for _ in range(3)]
    assert [report.made for report in reports] == [0, 0, 0]
    assert "empty: no text" in reports[0].problems[0]
    assert "raise max_tokens" in reports[1].problems[0]
    # What was cut is kept, so that it is not paid for twice; what was empty is not.
    assert reports[2].problems == reports[1].problems
    assert len(server.requests) == 2
