"""A source of transcripts by its settings, and its settings by the short names that a command takes."""

from __future__ import annotations

from kame_jax.config import STTConfig, load_settings, validate
from kame_jax.config.stt import SOURCES
from kame_jax.tandem.transcript import PocketSphinx, Transcript


def read_source(name: str) -> STTConfig:
    """Settings of the source that `--stt` names.

    Args:
        name: a YAML file of `STTConfig` settings; or a source, with the address of its server or the checkpoint to run
            after a colon: "pocketsphinx", "whisper", "whisper:http://localhost:8000/v1", "kyutai:ws://localhost:8080",
            "kyutai:hf://kyutai/stt-1b-en_fr".

    Raises:
        InputError: no such file, or everything that is wrong with it.
    """
    source, _, where = name.partition(":")
    if source not in SOURCES:
        return load_settings(STTConfig, name)
    if not where:
        return validate(STTConfig(source))
    server = "://" in where and not where.startswith("hf://")
    return validate(STTConfig(source, base_url=where) if server else STTConfig(source, model=where))


def open_source(config: STTConfig, sample_rate: int, pause: float = 0.8) -> Transcript:
    """The source that `config` describes.

    Args:
        config: which one, and its settings.
        sample_rate: of the frames, samples a second.
        pause: seconds of silence after which a turn is over.

    Raises:
        InputError: a package, a key, a file or an address is missing or wrong.
    """
    if config.source == "whisper":
        from kame_jax.tandem.whisper import Whisper

        return Whisper(config, sample_rate, pause)
    if config.source == "realtime":
        from kame_jax.tandem.realtime import Realtime

        return Realtime(config, sample_rate, pause)
    if config.source == "kyutai" and config.base_url is not None:
        from kame_jax.tandem.kyutai_server import KyutaiServer

        return KyutaiServer(config, sample_rate, pause)
    if config.source == "kyutai":
        from kame_jax.tandem.kyutai_model import KyutaiModel

        return KyutaiModel.open(config, sample_rate, pause)
    return PocketSphinx(sample_rate, pause)
