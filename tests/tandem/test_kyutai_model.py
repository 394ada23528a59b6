"""Kyutai's speech-to-text weights: streamed tokens are the model's own, words have times, pauses end turns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.codec import mimi as codec
from kame_jax.config import STTConfig
from kame_jax.decode.session import Frame
from kame_jax.errors import InputError
from kame_jax.tandem import Heard
from kame_jax.tandem.kyutai_model import KyutaiModel, Word, WordTokens
from tests.decode import small
from tests.golden.read import QUICK

CONFIG = dataclasses.replace(
    small.CONFIG,
    n_q=2,
    dep_q=0,
    delays=(0, 0, 0),
    depth=None,
    oracle="none",
    extra_heads=4,
    unused_depth_input_dim=8,
)
SETTINGS = STTConfig("kyutai", model="x", audio_delay=0.5, silence_prefix=0.0)
FRAMES = 30
PAD, EPAD = CONFIG.text_padding_id, CONFIG.text_end_padding_id
WHERE, IS, IT = (small.tokenizer().encode(text) for text in ("where", "is", "it"))


def listened(source, sound):
    """All that a source heard in `sound [frames, samples]`."""
    heard = []
    for index, frame in enumerate(sound):
        heard += source.push(frame, 0.08 * (index + 1))
    for future in source._waiting:
        heard += future.result()
    return heard


def test_streamed_tokens_are_those_of_the_forward_pass_over_the_whole_recording():
    engine, sound = small.engine(lm=small.model(CONFIG)), small.voice(FRAMES)
    frames = []
    source = KyutaiModel(engine, SETTINGS, 24_000)
    push = source._session.push
    source._session.push = lambda frame: frames.append(push(frame)) or frames[-1]
    listened(source, sound)
    source.close()
    assert engine.free == 1
    # Forced with its own tokens: column t + 1 hears frame t and the text before it.
    encode = jax.jit(lambda m, x: codec.encode(m, x, codebooks=2), compiler_options=QUICK)
    codes = np.asarray(encode(small.mimi(), sound.reshape(1, -1)))
    said = np.array([frame.tokens[0] for frame in frames])
    assert len(set(said)) > 5
    lm = small.model(CONFIG)
    forward = jax.jit(lambda grid: lm(grid).text_logits[0, 0].argmax(-1), compiler_options=QUICK)

    def chosen(first):
        text = np.concatenate([[first], said]).astype(np.int32)[None, None]
        heard = np.pad(codes, ((0, 0), (0, 0), (0, 1)))
        return np.asarray(forward(jnp.concatenate([text, heard], axis=1)))

    # What column 0 says, before any sound, is told to nobody, but column 1 reads it.
    before = chosen(0)[0]
    np.testing.assert_array_equal(chosen(before), [before, *said])


def test_words_end_at_padding_and_begin_where_padding_ends():
    words = WordTokens(small.tokenizer(), PAD, EPAD)
    line = [PAD, EPAD, *WHERE, PAD, PAD, EPAD, *IS, EPAD, *IT]
    found = [words.push(token, 0.08 * index) for index, token in enumerate(line)]
    first, second = (word for word in found if word is not None)
    assert (first.text, second.text) == ("where", "is")
    begin = 0.08 * (2 + len(WHERE))
    assert first == Word("where", pytest.approx(0.08), pytest.approx(begin))
    assert second.start == pytest.approx(begin + 0.16)
    assert second.end == pytest.approx(begin + 0.08 * (3 + len(IS)))


class Scripted:
    """An engine and its session whose model says what is written down, frame by frame, then padding."""

    def __init__(self, tokens, pauses=(), heads=4):
        self.tokens, self.pauses, self.heads, self.frames = tokens, pauses, heads, 0
        self.config, self.codec_config, self.tokenizer = CONFIG, small.CODEC, small.tokenizer()
        self.silent = []

    def join(self, settings):
        return self

    def leave(self):
        """Nothing to free."""

    def push(self, samples):
        index, self.frames = self.frames, self.frames + 1
        if not samples.any():
            self.silent.append(index)
        token = self.tokens[index] if index < len(self.tokens) else PAD
        heads = np.full((self.heads, 6), 0.1, np.float32)
        heads[2:3, 0] = 0.9 if index in self.pauses else 0.0
        return Frame(index, None, np.array([token]), "", PAD, heads, 0.01)


LINE = [PAD] * 9 + [EPAD, *WHERE, PAD, EPAD, *IS, PAD]
LATE = [EPAD, *IT, PAD]


def test_a_predicted_pause_ends_the_turn_with_the_words_that_are_still_inside():
    pause = len(LINE)
    engine = Scripted([*LINE, PAD, *LATE], pauses=range(pause, 99))
    heard = listened(KyutaiModel(engine, SETTINGS, 24_000), np.ones((40, small.FRAME), np.float32))
    assert [(told.text, told.final) for told in heard] == [
        ("where", False),
        ("where is", False),
        ("where is it", False),
        ("where is it", True),
    ]
    # As many frames of silence as words come late, all at once.
    assert engine.silent == list(range(pause + 1, pause + 7))
    # A token belongs to the sound of six frames before.
    assert heard[0].time == pytest.approx(0.08 * (9 + 1 + len(WHERE) + 2 - 6))


def test_without_predicted_pauses_a_turn_ends_after_silence():
    engine = Scripted(LINE, heads=0)
    heard = listened(KyutaiModel(engine, SETTINGS, 24_000, 0.8), np.ones((40, small.FRAME), np.float32))
    assert [told.final for told in heard] == [False, False, True]
    assert heard[-1] == Heard("where is", True, heard[-2].time)
    assert engine.silent == []


def test_the_silence_before_the_user_is_heard_first_and_tells_nothing():
    engine = Scripted([*WHERE, PAD, *LINE])
    prefix = dataclasses.replace(SETTINGS, silence_prefix=1.0)
    heard = listened(KyutaiModel(engine, prefix, 24_000), np.ones((20, small.FRAME), np.float32))
    assert engine.silent == list(range(12))
    assert "where" in heard[-1].text


def test_a_model_that_speaks_is_refused():
    from kame_jax.assets import TINY

    with pytest.raises(InputError, match="dep_q 2"):
        KyutaiModel.open(STTConfig("kyutai", model=str(TINY)), 24_000)


def test_delays_come_from_the_configuration_that_came_with_the_weights(tmp_path, monkeypatch):
    import json
    import shutil

    from kame_jax.interop.beside import loader_settings
    from tests.golden.read import LM_FILES

    source = LM_FILES / "stt"
    assert loader_settings(source, "stt_config") == {}
    shutil.copy(source / "model.safetensors", tmp_path)
    raw = json.loads((source / "config.json").read_text())
    told = {"audio_delay_seconds": 2.5, "audio_silence_prefix_seconds": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(raw | {"model_type": "stt", "stt_config": told}))
    assert loader_settings(tmp_path, "stt_config") == told
