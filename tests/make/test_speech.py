"""Text becomes speech with word times: through espeak-ng, speech endpoints and Kyutai's server."""

import contextlib
import http.server
import io
import json
import threading
import time

import msgpack
import numpy as np
import pytest
import soundfile
import websockets.sync.server

from kame_jax.cli.main import main
from kame_jax.config import TTSConfig, validate
from kame_jax.data.dialogue import dialogue_ids
from kame_jax.errors import InputError
from kame_jax.llm import Budget
from kame_jax.make import speech
from kame_jax.make.answers import FAILURES_IN_A_ROW, Stopped
from kame_jax.make.speech import RATE, Espeak, SpeechError, word_times
from kame_jax.make.speech_endpoint import SpeechEndpoint
from kame_jax.make.speech_kyutai import KyutaiSpeech
from tests.make.test_synthesize import ROWS, write


class Voice(http.server.BaseHTTPRequestHandler):
    """A speech server: first busy, then a tone; what else it does is in the name of the voice."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        self.server.times.append(time.monotonic())
        voice = body["voice"]
        if len(self.server.asked) == 1 or voice == "broken":
            self.send_response(503)
            self.send_header("retry-after", "0.2")
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "all voices are busy"}}')
            return
        sound = io.BytesIO()
        tone = 0.3 * np.sin(np.arange(8000) / 10)
        soundfile.write(sound, np.concatenate([np.zeros(1600), tone, np.zeros(1600)]), 16_000, format="WAV")
        data = sound.getvalue()
        if voice == "streamed":  # a wav file whose length is not known yet
            data = data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:]
        data = {"rubbish": b"rubbish", "unknown": b'{"error": {"message": "no such voice"}}'}.get(voice, data)
        cut = voice in ("cut", "short") and len(self.server.asked) % 2 == 0
        self.send_response(200)
        if voice != "short":
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, *args):
        pass


@pytest.fixture
def voice_server():
    server = http.server.HTTPServer(("127.0.0.1", 0), Voice)
    server.asked, server.times = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def voices(voice_server):
    url = f"http://127.0.0.1:{voice_server.server_port}/v1"
    config = TTSConfig(base_url=url, model="m", timeout=20, backoff=1e-3, retries=2)
    with contextlib.closing(SpeechEndpoint(config)) as engine:
        yield engine


def test_a_speech_endpoint_is_asked_again_and_its_words_are_placed(voice_server, voices):
    spoken = voices.speak("It is blue.", "nova")
    assert len(voice_server.asked) == 2
    assert voice_server.times[1] - voice_server.times[0] >= 0.2  # as it was told
    assert voice_server.asked[1] == {
        "model": "m",
        "voice": "nova",
        "input": "It is blue.",
        "response_format": "wav",
    }
    assert abs(len(spoken.audio) / RATE - 0.7) < 0.01
    assert [word for word, _, _ in spoken.words] == ["It", "is", "blue."]
    assert abs(spoken.words[0][1] - 0.1) < 0.01
    assert abs(spoken.words[-1][2] - 0.6) < 0.01
    with pytest.raises(SpeechError, match="not sound: 7 bytes"):
        voices.speak("x", "rubbish")
    with pytest.raises(SpeechError, match="no such voice"):
        voices.speak("x", "unknown")
    with pytest.raises(SpeechError, match="server: status 503: all voices are busy"):
        voices.speak("x", "broken")
    with pytest.raises(SpeechError, match="no sound for"):
        word_times("x", np.zeros(100, np.float32))


def test_sound_that_is_broken_off_is_asked_for_again_and_lengths_left_open_are_taken(voice_server, voices):
    whole = voices.speak("It is blue.", "nova").audio
    for voice, asked in (("streamed", 3), ("nova", 4), ("cut", 5), ("cut", 7), ("short", 9)):
        assert np.array_equal(voices.speak("It is blue.", voice).audio, whole)
        assert len(voice_server.asked) == asked


def test_a_budget_and_a_server_that_is_down_end_the_speaking(voice_server, voices):
    voices.speak("It is blue.", "nova")
    voices._budget = Budget(None, 11, "characters")
    with pytest.raises(Stopped, match="11 characters used of 11"):
        voices.speak("x", "nova")
    voices._budget = Budget(None, None, "characters")
    for _ in range(FAILURES_IN_A_ROW):
        with pytest.raises(SpeechError):
            voices.speak("x", "rubbish")
    with pytest.raises(Stopped, match="given_up: 20 sentences in a row were not spoken, the last: malformed"):
        voices.speak("x", "nova")
    with pytest.raises(InputError, match="base_url"):
        validate(TTSConfig(base_url="ftp://x"))


def kyutai_server(messages):
    """A WebSocket server that answers every text with these messages; what it was asked is in `asked`."""
    asked = []

    def handle(socket):
        asked.append(socket.request.path)
        asked.append(msgpack.unpackb(socket.recv()))
        asked.append(msgpack.unpackb(socket.recv()))
        for message in messages:
            socket.send(message if isinstance(message, bytes) else msgpack.packb(message))

    server = websockets.sync.server.serve(handle, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return server, thread, asked


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            [
                {"type": "Text", "text": w, "start_s": i * 0.2, "stop_s": i * 0.2 + 0.2}
                for i, w in enumerate(["It", "is"])
            ],
            [("It", 0.0, 0.2), ("is", 0.2, 0.4)],
        ),
        ([{"type": "Text", "text": "It is", "start_s": 0.0, "stop_s": 0.4}], None),
        ([{"type": "Error", "message": "no free channels"}], "no free channels"),
        ([b"\xc1"], "malformed"),
    ],
)
def test_kyutais_server_speaks_with_its_own_word_times(messages, words):
    audio = [{"type": "Audio", "pcm": [0.1] * 4800}] * 2
    server, thread, asked = kyutai_server([{"type": "Ready"}, *messages, *audio])
    try:
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        engine = KyutaiSpeech(TTSConfig("kyutai", url, timeout=20, retries=0))
        if isinstance(words, str):
            with pytest.raises(SpeechError, match=words):
                engine.speak("It is", "v.wav")
            engine.close()
            return
        spoken = engine.speak("It is", "v.wav")
        assert len(spoken.audio) == 9600
        assert [word for word, _, _ in spoken.words] == ["It", "is"]
        assert words is None or list(spoken.words) == words
        assert asked[0] == "/api/tts_streaming?voice=v.wav&format=PcmMessagePack"
        assert asked[1:] == [{"type": "Text", "text": "It is"}, {"type": "Eos"}]
    finally:
        server.shutdown()
        thread.join(10)
    with pytest.raises(SpeechError, match="connection"):
        engine.speak("It is", "v.wav")
    engine.close()
    with pytest.raises(InputError, match="expected ws://"):
        KyutaiSpeech(TTSConfig("kyutai", "ftp://x"))


def test_unknown_word_times_share_the_time_between_known_ones():
    assert speech._filled([1, 3, 2, 2], [0.0, None, 1.0, None], 2.0) == [0.0, 0.25, 1.0, 1.5, 2.0]
    assert speech._filled([1, 1], [None, None], 1.0) == [0.0, 0.5, 1.0]


def test_without_espeak_ng_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match="install espeak-ng"):
        Espeak(library="libnowhere.so.9")
    source = write(tmp_path / "set.jsonl", [ROWS["plain"]])
    assert main(["data", "synthesize", source, str(tmp_path / "out"), "--tts", "openai"]) == 2
    assert "--tts-url" in capsys.readouterr().err
    for option in (["--lead", "soon"], ["--hesitates", "2"], ["--voices-a", ","], ["--limit", "0"]):
        assert main(["data", "synthesize", source, str(tmp_path / "out"), *option]) == 2
    assert not (tmp_path / "out").exists()


def test_the_command_speaks_through_an_endpoint(voice_server, tmp_path, capsys):
    source = write(tmp_path / "set.jsonl", [ROWS["plain"]])
    url = f"http://127.0.0.1:{voice_server.server_port}/v1"
    command = [
        "data",
        "synthesize",
        source,
        str(tmp_path / "out"),
        "--tts",
        "openai",
        "--tts-url",
        url,
        "--json",
    ]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["made"] == 1
    assert dialogue_ids(tmp_path / "out") == ["my-own-id"]
