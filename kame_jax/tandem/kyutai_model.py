"""Kyutai's speech-to-text weights (no depth transformer) run by this project's own model and engine.

Mimi's codes of the user's sound go in, text tokens come out some frames later, and so words with their times; models
with extra heads also predict pauses. Words and times as in kyutai-labs/moshi `rust/moshi-core/src/asr.rs`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import soxr
from sentencepiece import SentencePieceProcessor

from kame_jax.config import ModelConfig, STTConfig
from kame_jax.decode.engine import Engine
from kame_jax.decode.sampling import greedy
from kame_jax.decode.session import Frame
from kame_jax.errors import InputError
from kame_jax.interop import open_checkpoint
from kame_jax.interop.beside import loader_settings
from kame_jax.streams import FRAME_SECONDS
from kame_jax.tandem.kyutai_server import PAUSE_HEAD
from kame_jax.tandem.transcript import Heard, Threaded


class Word(NamedTuple):
    """A word that was understood."""

    text: str
    start: float
    end: float


class WordTokens:
    """Text tokens, one a frame, as words with times.

    Args:
        tokenizer: of the model.
        padding_id: marks the word before it as complete.
        end_padding_id: does so too, and marks the beginning of the next word.
    """

    def __init__(self, tokenizer: SentencePieceProcessor, padding_id: int, end_padding_id: int) -> None:
        self._tokenizer, self._marks = tokenizer, (padding_id, end_padding_id)
        self._ids: list[int] = []
        self._start = 0.0

    def push(self, token: int, time: float) -> Word | None:
        """Takes the token that belongs to `time` (seconds of sound); gives the word that it ends, if any."""
        word = None
        if token not in self._marks:
            self._ids.append(token)
        elif self._ids:
            text = self._tokenizer.decode(self._ids).strip()
            word = Word(text, self._start, time) if text else None
            self._ids = []
        if token == self._marks[1]:
            self._start = time
        return word


class KyutaiModel(Threaded):
    """Kyutai's weights as a source of transcripts.

    Args:
        engine: of a model without own voice, its codec and its tokenizer, with a free session slot.
        config: delays and limits; both delays must be set.
        sample_rate: of the frames, samples a second.
        pause: seconds without a word after which a turn is over, for models that do not predict pauses.
    """

    def __init__(self, engine: Engine, config: STTConfig, sample_rate: int, pause: float = 0.8) -> None:
        assert engine.tokenizer is not None
        assert engine.codec_config is not None
        model, rate = engine.config, engine.codec_config.sample_rate
        self._engine, self._config, self._pause = engine, config, pause
        self._delay = round((config.audio_delay or 0.0) / FRAME_SECONDS)
        self._words = WordTokens(engine.tokenizer, model.text_padding_id, model.text_end_padding_id)
        self._resampler = soxr.ResampleStream(sample_rate, rate, 1, dtype="float32")
        self._sound = np.zeros(0, np.float32)
        self._silence = np.zeros(engine.codec_config.frame_size, np.float32)
        self._turn: list[Word] = []
        self._session = engine.join(settings=greedy(1))
        for _ in range(round((config.silence_prefix or 0.0) / FRAME_SECONDS)):
            self._session.push(self._silence)
        super().__init__(round(config.max_behind / FRAME_SECONDS))

    @classmethod
    def open(cls, config: STTConfig, sample_rate: int, pause: float = 0.8) -> KyutaiModel:
        """From a checkpoint, as `--checkpoint` takes it, with the codec and the tokenizer next to it.

        Raises:
            InputError: something is missing, or the model is not one that only listens.
        """
        checkpoint = str(config.model)
        found, settings = open_checkpoint(checkpoint).config, loader_settings(checkpoint, "stt_config")
        if isinstance(found, ModelConfig) and found.dep_q:
            raise InputError(
                f"{checkpoint}: this model speaks (dep_q {found.dep_q}); speech-to-text needs one with dep_q 0"
            )
        delay = settings.get("audio_delay_seconds") if config.audio_delay is None else config.audio_delay
        if delay is None:
            raise InputError(
                f"{checkpoint}: no stt_config with the delay of its words: set audio_delay (0.5 for the 1B model, "
                "2.5 for the 2.6B one)"
            )
        prefix = config.silence_prefix
        if prefix is None:
            prefix = settings.get("audio_silence_prefix_seconds", 0.0)
        config = dataclasses.replace(config, audio_delay=float(delay), silence_prefix=float(prefix))
        return cls(Engine.open(checkpoint), config, sample_rate, pause)

    def close(self) -> None:
        """Ends the thread and frees the slot."""
        super().close()
        self._session.leave()

    def _hear(self, samples: np.ndarray, time: float) -> list[Heard]:
        self._sound = np.concatenate([self._sound, self._resampler.resample_chunk(samples)])
        size, heard = len(self._silence), []
        while len(self._sound) >= size:
            frame, self._sound = self._sound[:size], self._sound[size:]
            heard += self._step(self._session.push(frame), time)
        return heard

    def _step(self, frame: Frame, time: float) -> list[Heard]:
        """What a frame that ends at `time` gave."""
        heard = self._word(frame, time)
        if self._turn and self._over(frame, time):
            if len(frame.extra_heads) > PAUSE_HEAD:
                # Silence processed at once flushes the words that are still inside the model.
                for later in range(1, self._delay + 1):
                    heard += self._word(self._session.push(self._silence), time + later * FRAME_SECONDS)
            heard.append(self._heard(final=True))
            self._turn = []
        return heard

    def _word(self, frame: Frame, time: float) -> list[Heard]:
        if frame.tokens is None or self._session.frames + 1 < self._delay:
            return []  # nothing that was said can be known yet
        # The token of this frame belongs to the sound of `delay` frames ago.
        word = self._words.push(int(frame.tokens[0]), max(time + FRAME_SECONDS * (1 - self._delay), 0.0))
        if word is None:
            return []
        self._turn.append(word)
        return [self._heard(final=False)]

    def _over(self, frame: Frame, time: float) -> bool:
        if len(frame.extra_heads) > PAUSE_HEAD:
            return bool(frame.extra_heads[PAUSE_HEAD, 0] > self._config.pause_threshold)
        return time + FRAME_SECONDS * (1 - self._delay) - self._turn[-1].end >= self._pause

    def _heard(self, final: bool) -> Heard:
        return Heard(" ".join(word.text for word in self._turn), final, self._turn[-1].end)
