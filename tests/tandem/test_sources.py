"""Sources of transcripts by name and by file, and what they report to a conversation."""

import threading

import numpy as np
import pytest

from kame_jax.config import STTConfig, TandemConfig, load_settings
from kame_jax.errors import InputError
from kame_jax.tandem import Heard
from kame_jax.tandem.kyutai_server import KyutaiServer
from kame_jax.tandem.realtime import Realtime
from kame_jax.tandem.sources import open_source, read_source
from kame_jax.tandem.transcript import Threaded
from kame_jax.tandem.whisper import Whisper
from tests.tandem.test_conversation import talk

SILENCE = np.zeros(1920, np.float32)


def test_short_names_are_settings():
    assert read_source("pocketsphinx") == STTConfig("pocketsphinx")
    assert read_source("whisper") == STTConfig("whisper")
    assert read_source("whisper:http://localhost:8000/v1").base_url == "http://localhost:8000/v1"
    assert read_source("kyutai:ws://localhost:8080") == STTConfig("kyutai", base_url="ws://localhost:8080")
    assert read_source("kyutai:hf://kyutai/stt-1b-en_fr").model == "hf://kyutai/stt-1b-en_fr"
    assert read_source("kyutai:ckpt/stt").key_env == "KYUTAI_API_KEY"


def test_settings_come_from_a_file_and_everything_wrong_with_them_at_once(tmp_path):
    file = tmp_path / "stt.yaml"
    file.write_text("source: whisper\nbase_url: http://localhost:8000/v1\nlanguage: en\nmax_minutes: 5\n")
    assert read_source(str(file)).language == "en"
    tandem = tmp_path / "llm.yaml"
    tandem.write_text("stt: {source: kyutai, model: ckpt/stt}\n")
    assert load_settings(TandemConfig, tandem).stt == STTConfig("kyutai", model="ckpt/stt")
    file.write_text("source: kyutai\nmax_cost: 1\nbase_url: http://me:pw@x\nmodel: y\n")
    with pytest.raises(InputError) as error:
        read_source(str(file))
    for said in ("not both", "minute_price", "keys belong in the environment"):
        assert said in str(error.value)


def test_a_source_is_opened_by_its_settings():
    kinds = {
        "whisper:http://127.0.0.1:9/v1": Whisper,
        "realtime:http://127.0.0.1:9/v1": Realtime,
        "kyutai:ws://127.0.0.1:9": KyutaiServer,
    }
    for name, kind in kinds.items():
        source = open_source(read_source(name), 24_000)
        assert isinstance(source, kind)
        source.close()


class Slow(Threaded):
    """Hears when it is let; fails at what is loud."""

    def __init__(self, most_waiting):
        self.free = threading.Event()
        super().__init__(most_waiting)

    def _hear(self, samples, time):
        assert self.free.wait(60)
        if samples.any():
            raise ValueError("loud")
        return [Heard("so", False, time)]


def test_a_slow_recogniser_is_never_waited_for_and_what_it_cannot_take_is_left_out():
    source = Slow(most_waiting=3)
    assert source.push(SILENCE, 0.0) == []
    while not source._waiting[0].running():
        pass
    for index in range(1, 10):
        assert source.push(SILENCE, 0.08 * index) == []
    source.free.set()
    while not all(future.done() for future in source._waiting):
        pass
    heard = source.push(SILENCE + 1, 1.0)
    # The first was under way; of the others the newest stayed.
    assert [round(told.time / 0.08) for told in heard] == [0, 8, 9]
    assert source.report()["frames_left_out"] == 7
    source.close()


def test_a_recogniser_that_fails_is_counted_and_the_conversation_goes_on(monkeypatch):
    source = Slow(most_waiting=1000)
    source.free.set()
    monkeypatch.setattr("tests.tandem.test_conversation.TimedTranscript", lambda words: source)
    monkeypatch.setattr("tests.tandem.test_conversation.SILENCE", SILENCE + 1)
    row, conversation = talk(None, seconds=1.6)
    source.close()
    for future in source._waiting:
        if future.done() and not future.cancelled():
            source._result(future)
    assert len(row) == 20
    assert conversation.report()["stt_failed_ValueError"] >= 1
