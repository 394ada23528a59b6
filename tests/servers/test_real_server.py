"""A conversation with a real OpenAI-compatible server program: `transformers serve` and a tiny model of random weights.

`make servers` installs the server into `.venv-servers` (transformers, torch) and runs this; no other target does. With
a server installed elsewhere: `SERVER_PYTHON=/path/to/python python -m pytest -m server tests/servers`.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kame_jax.cli.main import main
from kame_jax.codec.audio import read_audio, write_audio
from kame_jax.demo.dialogues import ROOT, sample_entries

HERE = Path(__file__).parent
PYTHON = os.environ.get("SERVER_PYTHON", str(HERE.parent.parent / ".venv-servers" / "bin" / "python"))
SECONDS = 600
"""For torch to be imported and a model of 20,000 weights to answer, on a busy machine."""

pytestmark = [pytest.mark.slow, pytest.mark.server]


def answers(url, body):
    """Whether a server is there and has answered; the first answer also loads the model."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return "choices" in json.loads(reply.read())
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address, model and words of a running server."""
    folder = tmp_path_factory.mktemp("server") / "tiny"
    subprocess.run([PYTHON, str(HERE / "tiny_llm.py"), str(folder)], check=True, timeout=SECONDS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [str(Path(PYTHON).parent / "transformers"), "serve", str(folder)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (folder.parent / "log.txt").open("w") as log:
        running = subprocess.Popen(
            [*program, *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
    url = f"http://127.0.0.1:{port}/v1"
    ask = {"model": str(folder), "messages": [{"role": "user", "content": "it is"}], "max_tokens": 2}
    try:
        deadline = time.monotonic() + SECONDS
        while not answers(f"{url}/chat/completions", ask):
            said = (folder.parent / "log.txt").read_text()[-2000:]
            assert running.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        yield url, str(folder), json.loads((folder / "words.json").read_text())
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait(20)


def questions(count):
    """So many bundled questions one after the other: the user's sound, and the words with their times."""
    sounds, words, begin = [], [], 0.0
    for entry in sample_entries("heldout")[:count]:
        sounds.append(read_audio(next((ROOT / "audio").glob(f"{entry.id}.*")), 24_000, "right"))
        for word in json.loads((ROOT / "text" / f"{entry.id}.json").read_text()):
            if word["speaker"] == "B":
                words.append(word | {"start": word["start"] + begin, "end": word["end"] + begin})
        begin += len(sounds[-1]) / 24_000
    return np.concatenate(sounds), words


def test_oracle_tokens_of_a_real_server_arrive_while_the_user_speaks(server, tmp_path, capsys):
    url, model, words = server
    sound, said = questions(4)
    write_audio(tmp_path / "questions.wav", sound, 24_000)
    (tmp_path / "questions.json").write_text(json.dumps(said))
    settings = {
        "llm": {"model": model, "base_url": url, "max_tokens": 16, "first_token_timeout": 60, "retries": 0},
        "trigger": {"interval": 2.0, "new_words": 1},
    }
    (tmp_path / "llm.yaml").write_text(json.dumps(settings))  # JSON is YAML
    arguments = {
        "--user": tmp_path / "questions.wav",
        "--llm": tmp_path / "llm.yaml",
        "--transcript": tmp_path / "questions.json",
        "--log": tmp_path / "log.jsonl",
        "--out": tmp_path / "reply.wav",
    }
    given = [str(part) for pair in arguments.items() for part in pair]
    assert main(["stream", *given, "--greedy", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    print(json.dumps(report, indent=1))
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    told = [event for event in events if event.get("op") in ("replace", "append")]
    # Its tokens enter the oracle before the user has said the last word, and are read.
    assert told
    assert told[0]["frame"] * 0.08 < said[-1]["end"]
    assert report["oracle_read_fraction"] > 0
    assert report["events"]["adopted"] >= 1
    assert report["llm_output_tokens"] > 0
    assert not [kind for kind in report["events"] if kind.startswith("failed")]
    # And they are what this server says.
    from kame_jax.assets import TINY
    from kame_jax.oracle.text import decode_text, load_tokenizer

    answer = decode_text(load_tokenizer(TINY / "tokenizer.model"), told[0]["tokens"])
    assert set(answer.split()) <= {*words, *map(str.lower, words)}
    assert soundfile.info(tmp_path / "reply.wav").frames == len(sound)
