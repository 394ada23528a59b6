"""`data oracle` asking a model, killed at any moment and started again: no answer is lost or asked for twice."""

import hashlib
import json
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from kame_jax.cli.main import main
from tests.llm.server import Server, Turn
from tests.make.test_oracles import talk

PLACES = 3
"""Questions under way at once: so many may be in flight when the process dies."""
CITIES = "Rome Oslo Lima Paris Bern Cairo Delhi Quito".split()


class Endpoint(Server):
    """Answers every question in its own way, and says what each run of the job asked."""

    def __init__(self):
        super().__init__(self._turn)
        self.runs: list[Counter[str]] = []

    def _turn(self, request):
        question = json.dumps(request["messages"])
        self.runs[-1][question] += 1
        number = int(hashlib.sha256(question.encode()).hexdigest()[:6], 16)
        return Turn(f"Look at number {number} in {CITIES[number % 8]}.", delay=0.001 * (number % 20))


def written(folder):
    files = sorted((folder / "oracle_raw").iterdir())
    return {file.name: file.read_bytes() for file in files}


def killed_and_started_again(tmp_path, kills, dialogues):
    folders = [tmp_path / name for name in ("killed", "whole")]
    for folder in folders:
        (folder / "text").mkdir(parents=True)
        for i in range(dialogues):
            text = talk(f"where is the big red key number {i} now please", f"it is in {CITIES[i % 8]} {i}")
            (folder / "text" / f"d{i}.json").write_text(text)
    rng = random.Random(kills)
    with Endpoint() as server:
        (tmp_path / "llm.yaml").write_text(f"model: m\nbase_url: {server.url}\nmax_concurrent: {PLACES}\n")
        command = ["--strategy", "llm", "--llm", str(tmp_path / "llm.yaml"), "--interval", "0.2"]
        server.runs.append(Counter())
        assert main(["data", "oracle", str(folders[1]), *command]) == 0
        questions, server.runs = set(server.runs[0]), []
        for kill in range(kills + 1):
            server.runs.append(Counter())
            started = subprocess.Popen(
                [sys.executable, "-m", "kame_jax.cli.main", "data", "oracle", str(folders[0]), *command],
                stderr=subprocess.PIPE,
            )
            share = len(questions) // (kills + 1)
            wanted = rng.randint(share // 2, share) if kill < kills else None
            while started.poll() is None:
                if wanted is not None and server.runs[-1].total() >= wanted:
                    time.sleep(rng.uniform(0, 0.02))
                    started.kill()
                    started.wait()
                time.sleep(0.002)
            _, said = started.communicate()
            assert (started.returncode == 0) == (wanted is None), said.decode()
    return folders, questions, server.runs


def check(folders, questions, runs):
    assert written(folders[0]) == written(folders[1])
    assert set().union(*runs) == questions
    for number, run in enumerate(runs):
        assert max(run.values()) == 1, "a run asks nothing twice"
        again = set(run) & set().union(*runs[:number])
        assert len(again) <= PLACES * number
    for number, run in enumerate(runs[:-1]):
        later = set().union(*runs[number + 1 :])
        assert len(set(run) & later) <= PLACES, "only what was in flight when the process died"
    lines = (folders[0] / "llm_cache" / "answers-0-of-1.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys)) == len(questions), "every answer that was paid for is there once"


def test_a_kill_costs_at_most_the_calls_in_flight(tmp_path):
    check(*killed_and_started_again(tmp_path, kills=1, dialogues=4))


@pytest.mark.slow
def test_many_kills_cost_at_most_the_calls_in_flight_each(tmp_path):
    check(*killed_and_started_again(tmp_path, kills=6, dialogues=16))
