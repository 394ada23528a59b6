"""The samples a run is made on: a data set, records from a folder, or dialogues tokenised on first use and kept.

A folder of dialogues has `audio/` and `text/` (`data.dialogue`), one of records `<id>.npz` files (`data.records`); data
sets and mixtures of them are `data.dataset_samples`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from kame_jax.checkpoint.native import building
from kame_jax.checkpoint.weights import ArrayWeights
from kame_jax.codec.mimi import Mimi
from kame_jax.config import DataConfig, MimiConfig, ModelConfig, OracleConfig, RunConfig, to_dict
from kame_jax.config.presets import RUN_PRESETS
from kame_jax.data.collate import OracleAugment
from kame_jax.data.cutting import Cut, Sample, make_samples
from kame_jax.data.dataset import Dataset, find_dataset
from kame_jax.data.dataset_samples import DatasetSamples, MixedSamples, open_samples
from kame_jax.data.dialogue import read_dialogues
from kame_jax.data.records import Record, load_records, save_record
from kame_jax.errors import InputError
from kame_jax.interop import Checkpoint, load_mimi
from kame_jax.interop.export import MIMI_NAME, export
from kame_jax.interop.layouts import Layout
from kame_jax.make.whole import build_records, mimi_encoder
from kame_jax.model import tree
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.oracle.text import load_tokenizer
from kame_jax.streams import oracle_start_id
from kame_jax.train.state import make_quickly

TOKENIZER = "tokenizer.model"
"""Name of the SentencePiece model in a folder of dialogues and in a run's folder."""


@dataclass(frozen=True)
class Tokenizers:
    """What turns dialogues into tokens."""

    text: Path
    """SentencePiece model."""
    codec: str | None
    """Checkpoint of Mimi; None draws random weights."""
    random_codec: tuple[MimiConfig, int] = (MimiConfig(), 0)
    """Configuration and seed of the random weights."""

    def mimi(self) -> Mimi:
        """The codec's weights."""
        if self.codec is not None:
            return load_mimi(self.codec)
        config, seed = self.random_codec
        return make_quickly(lambda: Mimi(nnx.Rngs(seed), config))


def find_tokenizers(config: RunConfig, path: str | Path) -> Tokenizers:
    """The tokenizers that a run's settings name for the dialogues at `path`.

    Raises:
        InputError: no tokenizer of text is named or there.
    """
    named = config.data.tokenizer
    text = Path(named) if named else Path(path) / TOKENIZER
    if not text.is_file():
        where = (
            f"data.tokenizer: {named}"
            if named
            else f"{path}: no {TOKENIZER} in it, and data.tokenizer is null"
        )
        raise InputError(f"{where}: expected a SentencePiece model file")
    return Tokenizers(text, config.data.codec, (config.codec, config.seed))


def keep_tokenizers(tools: Tokenizers, folder: Path) -> None:
    """Puts the tokenizers beside a run's checkpoints, where the commands that take one look for them.

    Args:
        tools: what the run's dialogues were tokenised with.
        folder: of the run; must exist.
    """
    with building(folder / "tokenizers") as scratch:
        shutil.copyfile(tools.text, scratch / TOKENIZER)
        (scratch / TOKENIZER).replace(folder / TOKENIZER)
        if (folder / MIMI_NAME).is_file():
            return
        mimi = tools.mimi()
        weights = ArrayWeights({path: np.asarray(leaf) for path, leaf in tree.leaves(mimi).items()})
        files = export(Checkpoint("codec", Layout.OURS, mimi.config, weights), scratch / "codec", "mimi")
        # Its configuration first: from then on the weights can be read.
        for file in sorted(files, key=lambda path: path.name == MIMI_NAME):
            file.replace(folder / file.name)


def keep_data_tokenizers(path: str | Path, folder: Path, say: Callable[[str], None]) -> None:
    """Puts the tokenizers of a data set beside a run's checkpoints, as far as it says where they are.

    Args:
        path: a data set; anything else is passed over.
        folder: of the run; must exist.
        say: told when the codec is not where the data set says.
    """
    if find_dataset(path) is None:
        return
    dataset = Dataset(path)
    if dataset.tokenizer is None:
        return
    try:
        keep_tokenizers(Tokenizers(dataset.tokenizer, dataset.facts["codec"]), folder)
    except (InputError, KeyError, OSError) as error:
        # A run needs neither: only who wants to hear it does, and can name them then.
        shutil.copyfile(dataset.tokenizer, folder / TOKENIZER)
        say(f"the codec of {path} is not at hand, so it is not kept with the run: {error}")


def is_dialogues(path: str | Path) -> bool:
    """Whether a folder holds dialogues (else it should hold records).

    Raises:
        InputError: there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder, expected dialogues (audio/ and text/) or records (<id>.npz)"
        )
    return (path / "audio").is_dir() or (path / "text").is_dir()


def read_records(
    path: str | Path,
    model: ModelConfig,
    tokenizers: Callable[[], Tokenizers],
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """All records of a folder, dialogues tokenised where there is no cache of them yet.

    Args:
        path: dialogues or records.
        model: says how many codebooks a speaker has.
        tokenizers: called for dialogues only.
        cache: folder in which tokenised dialogues are kept, under a name that depends on all they were made from;
            None keeps nothing.
        progress: called with the recordings encoded and their total.

    Raises:
        InputError: everything that is wrong with the files, in one list.
    """
    path = Path(path)
    if not is_dialogues(path):
        return load_records(path)
    tools, codebooks = tokenizers(), model.n_q // 2
    kept = cache / f"{path.name}-{_fingerprint(path, tools, codebooks, model)}" if cache else None
    if kept is not None and kept.is_dir():
        return load_records(kept)
    mimi = tools.mimi()
    _check_codec(mimi.config, model, codebooks, tools.codec)
    records = build_records(
        read_dialogues(path),
        load_tokenizer(tools.text),
        mimi_encoder(mimi, codebooks),
        pad_id=model.text_padding_id,
        end_pad_id=model.text_end_padding_id,
        sample_rate=mimi.config.sample_rate,
        frame_rate=mimi.config.frame_rate,
        progress=progress,
    )
    if kept is not None:
        _keep(records, kept)
    return records


def _check_codec(codec: MimiConfig, model: ModelConfig, codebooks: int, name: str | None) -> None:
    """Raises InputError when the codec's codes are not those that the model reads."""
    what = name or "the codec of random weights"
    if codec.quantizer.bins != model.card or codec.quantizer.n_q < codebooks:
        raise InputError(
            f"{what}: {codec.quantizer.n_q} codebooks of {codec.quantizer.bins} entries, "
            f"the model expects at least {codebooks} of {model.card}"
        )


def _keep(records: Sequence[Record], folder: Path) -> None:
    """Writes records into a folder that appears when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with building(folder) as scratch:
        for record in records:
            save_record(scratch / folder.name, record)
        (scratch / folder.name).rename(folder)


def _fingerprint(path: Path, tools: Tokenizers, codebooks: int, model: ModelConfig) -> str:
    """A name for everything that the records of some dialogues follow from; files count by name, size and time."""
    folders = [path / name for name in ("audio", "text", "oracle_raw")]
    codec: Any = [to_dict(tools.random_codec[0]), tools.random_codec[1]]
    if tools.codec is not None:
        codec = [tools.codec, _stamps([Path(tools.codec)])]
    facts = [
        codec,
        codebooks,
        model.text_padding_id,
        model.text_end_padding_id,
        hashlib.sha256(tools.text.read_bytes()).hexdigest(),
        _stamps(folders),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _stamps(places: Sequence[Path]) -> list[tuple[str, int, int]]:
    stamps = []
    for place in places:
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for file in files:
            info = os.stat(file)
            if file.is_file():
                stamps.append((f"{place.name}/{file.name}", info.st_size, info.st_mtime_ns))
    return stamps


def read_samples(
    path: str | Path,
    config: RunConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sequence[Sample]:
    """The samples of whatever lies at `path`: a data set or a mixture, read when they are needed; else all at once.

    Args:
        path: as `config.data.path` takes it.
        config: of the run.
        progress: called with the recordings encoded and their total.

    Raises:
        InputError: everything that is wrong with the files, in one list.
    """
    model, data = config.model.architecture, config.data
    cut = cut_of(data)
    stored = open_samples(path, model, data.speakers, cut)
    if stored is not None:
        return stored
    records = read_records(
        path, model, lambda: find_tokenizers(config, path), Path(config.run_dir) / "records", progress
    )
    samples = make_samples(records, model, speakers=data.speakers, cut=cut)
    if not samples:
        raise InputError(f"{path}: has no piece of data.min_frames ({data.min_frames}) frames")
    return samples


def cut_of(data: DataConfig) -> Cut:
    """How a run cuts dialogues."""
    return Cut(data.max_frames, data.min_frames, data.context, data.carry_oracle, data.mask_fill)


def preset_note(samples: Sequence[Sample], config: RunConfig) -> str | None:
    """A line for a run whose rules are another preset's than those its data was made with; None where they agree."""
    parts = samples.parts if isinstance(samples, MixedSamples) else (samples,)
    made = [part.dataset.facts.get("rules") for part in parts if isinstance(part, DatasetSamples)]
    values = to_dict(config)

    def set_as(preset: str) -> bool:
        places = ((key.split("."), value) for key, value in RUN_PRESETS[preset].items())
        return all(values[section][setting] == value for (section, setting), value in places)

    if any(rules and not any(rules.values()) for rules in made) and set_as("kame-jax"):
        return "the data was made with preset reference; preset=reference trains with the same rules"
    if any(rules and all(rules.values()) for rules in made) and set_as("reference"):
        return "the data was made with preset kame-jax, this run trains with preset reference"
    return None


def fingerprint(samples: Sequence[Sample]) -> str:
    """A short name for the content of some samples: equal for equal tokens and events in the same order."""
    if isinstance(samples, DatasetSamples | MixedSamples):
        return samples.fingerprint
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.id.encode())
        for array in (sample.columns, *vars(sample.events).values()):
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def schedule_of(model: ModelConfig, tail: str) -> OracleSchedule:
    """Where a data set's oracle tokens land."""
    return OracleSchedule(oracle_start_id(model), model.text_padding_id, tail=tail)


def oracle_augment(config: OracleConfig) -> OracleAugment:
    """How a run's oracle is disturbed."""
    return OracleAugment(
        shift_prob=config.shift_prob,
        right_shift=config.right_shift,
        left_shift=config.left_shift,
        skip_min=config.skip[0],
        skip_max=config.skip[1],
        jitter=config.jitter,
        hint_only=config.hint_only,
        hint_warmup=config.hint_warmup,
        causal=config.causal,
        start_first=config.start_first,
    )
