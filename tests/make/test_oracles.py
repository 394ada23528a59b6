"""Folders of dialogues get their oracles: by hints, by other dialogues' replies, or by a language model asked once."""

import asyncio
import json

import pytest

from kame_jax.cli.main import main
from kame_jax.config import LLMConfig
from kame_jax.data.words import Word, words_to_json
from kame_jax.errors import InputError
from kame_jax.llm import LLMError
from kame_jax.make import answers as answers_module
from kame_jax.make.answers import Answers, Stopped
from kame_jax.make.oracles import OracleRecipe, make_oracles
from kame_jax.make.rules import PRESETS
from tests.llm.server import Server, Turn

RULES = PRESETS["kame-jax"]


def talk(question, answer):
    words = [Word("B", w, 0.4 * i, 0.4 * i + 0.4) for i, w in enumerate(question.split())]
    start = words[-1].end + 0.4
    words += [Word("A", w, start + 0.4 * i, start + 0.4 * i + 0.4) for i, w in enumerate(answer.split())]
    return json.dumps(words_to_json(words))


@pytest.fixture
def dialogues(tmp_path):
    (tmp_path / "text").mkdir()
    for name, answer in (("one", "it is in Rome"), ("two", "it is in Oslo"), ("three", "look in Lima")):
        (tmp_path / "text" / f"{name}.json").write_text(talk("where is the big red key now", answer))
    return tmp_path


def make(folder, strategy="hint", answers=None, **options):
    job = OracleRecipe(strategy, options.pop("rules", RULES), **options.pop("job", {}))
    return asyncio.run(make_oracles(folder, job, answers=answers, **options))


def oracle(folder, name):
    return json.loads((folder / "oracle_raw" / f"{name}.json").read_text())


def config(server, **changes):
    return LLMConfig("m", server.url, **({"retries": 0, "backoff": 0.01} | changes))


def asked(folder, server, **changes):
    async def run():
        async with Answers(config(server, **changes), folder / "cache") as answers:
            return await make_oracles(folder, OracleRecipe("llm", RULES), answers=answers), answers.status

    return asyncio.run(run())


def test_hints_grow_into_the_reply_and_what_is_there_is_kept(dialogues):
    report = make(dialogues)
    assert (report.made, report.kept) == (3, 0)
    replies = [r for r in oracle(dialogues, "one") if r["channel"] == 0 and r["turn"] >= 0]
    assert [r["prediction"] for r in replies] == ["it is", "it is in", "it is in Rome", "it is in Rome"]
    assert report.events == sum(len(oracle(dialogues, name)) for name in ("one", "two", "three"))
    assert sum(report.levels) == report.events
    (dialogues / "oracle_raw" / "two.json").unlink()
    again = make(dialogues)
    assert (again.made, again.kept) == (1, 2)


def test_other_settings_need_overwrite(dialogues):
    make(dialogues)
    with pytest.raises(InputError, match="made with other settings") as error:
        make(dialogues, rules=PRESETS["reference"])
    assert any("rules" in problem for problem in error.value.problems)
    assert make(dialogues, rules=PRESETS["reference"], overwrite=True).made == 3
    (dialogues / "oracle_settings.json").unlink()
    with pytest.raises(InputError, match="did not make"):
        make(dialogues)


def test_the_random_strategy_shows_foreign_replies_then_the_true_one(dialogues):
    make(dialogues, "random")
    records = [r for r in oracle(dialogues, "one") if r["channel"] == 0]
    replies = [r for r in records if r["turn"] >= 0]
    assert (replies[-1]["prediction"], replies[-1]["hint"]) == ("", "it is in Rome")
    assert [r["use_hint"] for r in replies] == [False] * (len(replies) - 1) + [True]
    assert {r["prediction"] for r in replies[:-1]} == {"it is in Oslo", "look in Lima"}, "none twice"
    first = (dialogues / "oracle_raw" / "one.json").read_bytes()
    make(dialogues, "random", overwrite=True)
    assert (dialogues / "oracle_raw" / "one.json").read_bytes() == first
    report = make(dialogues, "random", overwrite=True, job={"seed": 1})
    assert report.without_reply > 0, "two foreign replies are too few for all events, and that is counted"
    assert sum(report.levels) == report.events
    (dialogues / "text" / "four.json").write_text(talk("where is the lamp", "it is up there"))
    with pytest.raises(InputError, match="made with other settings") as error:
        make(dialogues, "random", job={"seed": 1})
    assert [problem.split(":")[0] for problem in error.value.problems] == ["pool"]


def test_a_model_is_asked_and_its_answers_made_speakable(dialogues):
    with Server([Turn("<think>hm 5</think>**Look** in 2 places!")]) as server:
        report, status = asked(dialogues, server)
    spoken = [r["prediction"] for r in oracle(dialogues, "one") if 0 < r["current_spoken_ratio"] < 1]
    assert set(spoken) == {"Look in two places."}
    assert report.changes["markup"] == report.changes["number"] > 0
    assert report.changes["thinking"] == 0, "the client takes it out"
    assert status.asked == len(server.requests)
    assert status.tokens == 17 * status.asked
    told = json.dumps(server.requests)
    assert "it is in Rome" in told
    full = [r for r in oracle(dialogues, "one") if r["current_spoken_ratio"] == 1.0 and r["channel"] == 0]
    assert full[0]["prediction"] == "it is in Rome", "level 5 asks nobody"


def test_an_answer_that_cannot_be_spoken_whole_makes_no_event(dialogues):
    with Server([Turn("It is 5 ⊕ 3.")]) as server:
        report, _ = asked(dialogues, server)
    assert [r for r in oracle(dialogues, "one") if 0 < r["current_spoken_ratio"] < 1] == []
    assert report.empty == report.changes["refused"] > 0


def test_killed_and_started_again_nothing_is_asked_twice(dialogues):
    with Server() as server:
        _, first = asked(dialogues, server)
        calls = len(server.requests)
        assert calls == first.asked > 0
        for file in (dialogues / "oracle_raw").glob("*.json"):
            file.unlink()
        cache = dialogues / "cache" / "answers-0.jsonl"
        lines = cache.read_text().splitlines(keepends=True)
        cache.write_text("".join(lines[:-1]) + lines[-1][:9])
        report, second = asked(dialogues, server)
        assert report.made == 3
        assert second.asked == 1, "only the answer that was cut off"
        assert len(server.requests) == calls + 1
        assert second.tokens == first.tokens
    (dialogues / "cache" / "answers-9.jsonl").write_text("{}\n")
    with Server() as server, pytest.raises(InputError, match="line 1 is not an answer"):
        asked(dialogues, server)


def test_a_dialogue_whose_question_fails_is_one_line_and_the_others_go_on(dialogues):
    def turn(request):
        broken = "Oslo" in request["messages"][1]["content"]
        return Turn(status=429 if broken else 200)

    with Server(turn) as server:
        report, _ = asked(dialogues, server)
    assert report.made == 2
    assert len(report.problems) == 1
    assert report.problems[0].startswith("dialogue two: rate_limit: status 429")
    with Server() as server:
        again, status = asked(dialogues, server)
        assert (again.made, again.kept) == (1, 2)
        assert status.asked == len(server.requests)


@pytest.mark.parametrize(
    ("turn", "kind", "changes"),
    [(Turn(delay=3.0), "timeout", {"timeout": 0.2}), (Turn(end="malformed"), "malformed", {})],
)
def test_an_endpoint_that_hangs_or_answers_rubbish_is_a_line_for_each_dialogue(
    dialogues, turn, kind, changes
):
    with Server([turn]) as server:
        report, _ = asked(dialogues, server, **changes)
    assert report.made == 0
    assert sorted(line.split(": ")[1] for line in report.problems) == [kind] * 3
    assert not list((dialogues / "oracle_raw").iterdir())


def test_a_budget_stops_the_job_and_counts_what_was_spent_before(dialogues):
    with Server() as server:
        report, status = asked(dialogues, server, max_total_tokens=40, max_concurrent=1)
        assert "budget" in report.stopped
        assert status.asked == 3
        report, status = asked(dialogues, server, max_total_tokens=40, max_concurrent=1)
        assert report.stopped
        assert status.asked == 0
        report, _ = asked(dialogues, server, max_total_tokens=10_000)
        assert report.stopped is None
        assert len(list((dialogues / "oracle_raw").glob("*.json"))) == 3


def test_a_dead_endpoint_is_given_up(dialogues, monkeypatch):
    monkeypatch.setattr(answers_module, "FAILURES_IN_A_ROW", 2)

    async def run(server):
        async with Answers(config(server), None) as answers:
            for _ in range(2):
                with pytest.raises(LLMError):
                    await answers.ask([{"role": "user", "content": "x"}])
            with pytest.raises(Stopped, match="given_up: 2 answers in a row"):
                await answers.ask([{"role": "user", "content": "x"}])
            return answers.status.text(1, 3)

    with Server([Turn(status=500)]) as server:
        assert "2 failed" in asyncio.run(run(server))


def test_the_same_question_at_the_same_time_is_asked_once(dialogues):
    async def run(server):
        async with Answers(config(server), None) as answers:
            question = [{"role": "user", "content": "x"}]
            await asyncio.gather(*(answers.ask(question) for _ in range(5)))

    with Server([Turn(delay=0.1)]) as server:
        asyncio.run(run(server))
        assert len(server.requests) == 1


def test_bad_texts_are_one_line_each(dialogues):
    (dialogues / "text" / "broken.json").write_text("[")
    (dialogues / "text" / "stranger.json").write_text(json.dumps(words_to_json([Word("C", "x", 0, 1)] * 3)))
    (dialogues / "text" / "wordless.json").write_text('[{"speaker": "A"}]')
    for strategy in ("hint", "random"):
        report = make(dialogues, strategy, overwrite=True)
        assert report.made == 3
        assert sorted(line.split(": ")[0] for line in report.problems) == [
            "dialogue broken",
            "dialogue stranger",
            "dialogue wordless",
        ]


def test_the_command_makes_oracles_and_says_what_it_counted(dialogues, capsys):
    with Server() as server:
        (dialogues / "llm.yaml").write_text(f"model: m\nbase_url: {server.url}\n")
        command = [
            "data",
            "oracle",
            str(dialogues),
            "--strategy",
            "llm",
            "--llm",
            str(dialogues / "llm.yaml"),
        ]
        assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["made"] == 3
    assert result["events"] == sum(result["events_by_level"])
    assert main(["data", "oracle", str(dialogues), "--strategy", "llm"]) == 2
    assert "--llm FILE" in capsys.readouterr().err
    assert main(["data", "oracle", str(dialogues), "--bounds", "released"]) == 2
    assert "made with other settings" in capsys.readouterr().err
    assert main(["data", "oracle", str(dialogues), "--interval", "0"]) == 2
