"""The samples a run is made on: a data set, records from a folder, or dialogues tokenised on first use and kept.

A folder of dialogues has `audio/` and `text/` (`data.dialogue`), one of records `<id>.npz` files (`data.records`); data
sets and mixtures of them are `data.dataset_samples`'s.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kame_jax.assets import TINY
from kame_jax.checkpoint.native import building
from kame_jax.checkpoint.weights import ArrayWeights
from kame_jax.codec.mimi import Mimi
from kame_jax.config import DataConfig, MimiConfig, ModelConfig, RunConfig, load_run, to_dict
from kame_jax.config.presets import RUN_PRESETS
from kame_jax.data.cutting import Cut, Sample, make_samples
from kame_jax.data.dataset import Dataset, find_dataset
from kame_jax.data.dataset_samples import DatasetSamples, MixedSamples, open_samples
from kame_jax.data.dialogue import find_texts
from kame_jax.data.records import Record, load_records, record_files
from kame_jax.errors import InputError
from kame_jax.files import write_text
from kame_jax.interop import Checkpoint, load_mimi
from kame_jax.interop.export import MIMI_NAME, export
from kame_jax.interop.layouts import Layout
from kame_jax.make import encoding
from kame_jax.make.job import Progress
from kame_jax.make.rules import PRESETS
from kame_jax.make.tokens import Settings, tokenize
from kame_jax.model import tree
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.oracle.text import TOKENIZER_NAME
from kame_jax.streams import oracle_start_id

MADE_FROM = "made_from"
"""File next to kept records: a hash of the dialogues that they were all made from."""


@dataclass(frozen=True)
class Tokenizers:
    """What turns dialogues into tokens."""

    text: Path
    """SentencePiece model."""
    codec: str
    """Checkpoint of Mimi."""

    def mimi(self) -> Mimi:
        """The codec's weights."""
        return load_mimi(self.codec)


def find_tokenizers(
    config: RunConfig, path: str | Path, say: Callable[[str], None] = lambda line: None
) -> Tokenizers:
    """The tokenizers that a run's settings name for the dialogues at `path`.

    A text tokenizer that no setting names is looked for among the dialogues. A run whose codec and text ids are those
    of the bundled model (`tiny`) takes what is missing from there.

    Args:
        config: of the run.
        path: folder of dialogues.
        say: called with what is taken from the bundled model.

    Raises:
        InputError: a tokenizer is neither named nor found.
    """
    bundled = load_run("tiny")
    codec, text = config.data.codec, config.data.tokenizer or Path(path) / TOKENIZER_NAME
    if codec is None and config.codec == bundled.codec:
        codec = str(TINY)
        say("data.codec: null, so the dialogues are encoded with the bundled codec")
    if codec is None:
        raise InputError(
            f"data.codec: null, expected Mimi's weights to encode the dialogues of {path} with "
            "(a file, a folder or hf://org/repo)"
        )
    if (
        not config.data.tokenizer
        and not Path(text).is_file()
        and config.model.text_card == bundled.model.text_card
    ):
        text = TINY / TOKENIZER_NAME
        say("data.tokenizer: null, so text is tokenised with the bundled tokenizer")
    if not Path(text).is_file():
        where = (
            f"data.tokenizer: {text}"
            if config.data.tokenizer
            else f"{path}: no {TOKENIZER_NAME} in it, and data.tokenizer is null"
        )
        raise InputError(f"{where}: expected a SentencePiece model file")
    return Tokenizers(Path(text), codec)


def keep_tokenizers(tools: Tokenizers, folder: Path) -> None:
    """Puts the tokenizers next to a run's checkpoints, where the commands look for them.

    Args:
        tools: what the run's dialogues were tokenised with.
        folder: of the run; must exist.
    """
    with building(folder / "tokenizers") as scratch:
        shutil.copyfile(tools.text, scratch / TOKENIZER_NAME)
        (scratch / TOKENIZER_NAME).replace(folder / TOKENIZER_NAME)
        if (folder / MIMI_NAME).is_file():
            return
        mimi = tools.mimi()
        weights = ArrayWeights({path: np.asarray(leaf) for path, leaf in tree.leaves(mimi).items()})
        files = export(Checkpoint("codec", Layout.OURS, mimi.config, weights), scratch / "codec", "mimi")
        # Its configuration first: from then on the weights can be read.
        for file in sorted(files, key=lambda path: path.name == MIMI_NAME):
            file.replace(folder / file.name)


def keep_data_tokenizers(path: str | Path, folder: Path, say: Callable[[str], None]) -> None:
    """Puts the tokenizers of a data set next to a run's checkpoints, as far as it says where they are.

    Args:
        path: a data set; anything else is ignored.
        folder: of the run; must exist.
        say: called when the codec is not where the data set says.
    """
    if find_dataset(path) is None:
        return
    dataset = Dataset(path)
    if dataset.tokenizer is None:
        return
    try:
        keep_tokenizers(Tokenizers(dataset.tokenizer, str(dataset.facts["codec"])), folder)
    except (InputError, KeyError, OSError) as error:
        # A run needs neither: only listening to it does, and then they can be named.
        shutil.copyfile(dataset.tokenizer, folder / TOKENIZER_NAME)
        say(f"the codec of {path} is not available, so it is not kept with the run: {error}")


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
    rules: str = "kame-jax",
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Record]:
    """All records of a folder; dialogues are tokenised as `kame-jax data tokenize` does it.

    Args:
        path: dialogues or records.
        model: says how many codebooks a speaker has, and the text ids without a word.
        tokenizers: called for dialogues only.
        cache: folder in which tokenised dialogues are kept, under a name that depends on how they are made; those that
            have changed since are made again. None keeps nothing.
        rules: a name in `make.rules.PRESETS`, for dialogues.
        progress, say: see `make.job`.

    Raises:
        InputError: everything that is wrong with the files, in one list.
    """
    path = Path(path)
    if not is_dialogues(path):
        return load_records(path)
    tools = tokenizers()
    with contextlib.ExitStack() as stack:
        cache = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kame_jax_records_")))
        folder = cache / f"{path.name}-{_fingerprint([str(path.absolute()), *_made_by(tools, model, rules)])}"
        made_from = _fingerprint(_stamps([path / name for name in ("audio", "text", "oracle_raw")]))
        mark = folder / MADE_FROM
        if not mark.is_file() or mark.read_text() != made_from:
            mark.unlink(missing_ok=True)
            _tokenize(path, folder, tools, model, rules, progress, say)
            write_text(mark, made_from)
        return load_records(folder)


def _tokenize(
    path: Path,
    folder: Path,
    tools: Tokenizers,
    model: ModelConfig,
    rules: str,
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    """Updates the records in `folder` to the dialogues at `path`."""
    mimi, codebooks = tools.mimi(), model.n_q // 2
    _check_codec(mimi.config, model, codebooks, tools.codec)
    settings = Settings(
        tools.text,
        tools.codec,
        codebooks=codebooks,
        card=mimi.config.quantizer.bins,
        sample_rate=mimi.config.sample_rate,
        frame_rate=mimi.config.frame_rate,
        pad_id=model.text_padding_id,
        end_pad_id=model.text_end_padding_id,
        rules=PRESETS[rules],
    )
    outcome = tokenize(
        path,
        folder,
        settings,
        encoding.batch_encoder(mimi, codebooks),
        encoding.fingerprint(mimi),
        progress=progress,
    )
    if outcome.problems:
        raise InputError(f"{path}: {len(outcome.problems)} dialogues cannot be tokenised", outcome.problems)
    for note in outcome.notes:
        say(note)
    there = {path.stem for path in find_texts(path)}
    for file in record_files(folder):
        if file.stem not in there:
            file.unlink()


def _check_codec(codec: MimiConfig, model: ModelConfig, codebooks: int, name: str) -> None:
    """Raises InputError when the codec's codes are not those that the model reads."""
    if codec.quantizer.bins != model.card or codec.quantizer.n_q < codebooks:
        raise InputError(
            f"{name}: {codec.quantizer.n_q} codebooks of {codec.quantizer.bins} entries, "
            f"the model expects at least {codebooks} of {model.card}"
        )


def _made_by(tools: Tokenizers, model: ModelConfig, rules: str) -> list[Any]:
    """Everything except the dialogues that their records depend on; files count by name, size and time."""
    codec = [tools.codec, _stamps([Path(tools.codec)])]
    text = hashlib.sha256(tools.text.read_bytes()).hexdigest()
    return [codec, text, model.n_q // 2, model.text_padding_id, model.text_end_padding_id, rules]


def _fingerprint(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _stamps(places: Sequence[Path]) -> list[tuple[str, int, int]]:
    stamps = []
    for place in places:
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        for file in filter(Path.is_file, files):
            info = file.stat()
            stamps.append((f"{place.name}/{file.name}", info.st_size, info.st_mtime_ns))
    return stamps


def read_samples(
    path: str | Path,
    config: RunConfig,
    progress: Progress = lambda done, total, text: None,
    say: Callable[[str], None] = lambda line: None,
) -> Sequence[Sample]:
    """The samples at `path`: of a data set or a mixture, read when they are needed; else all at once.

    Args:
        path: as `config.data.path` takes it.
        config: of the run.
        progress, say: see `make.job`.

    Raises:
        InputError: everything that is wrong with the files, in one list.
    """
    model, data = config.model.architecture, config.data
    cut = cut_of(data)
    stored = open_samples(path, model, data.speakers, cut)
    if stored is not None:
        return stored
    records = read_records(
        path,
        model,
        lambda: find_tokenizers(config, path, say),
        Path(config.run_dir) / "records",
        data.rules,
        progress,
        say,
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
    facts = [part.dataset.facts.get("rules") for part in parts if isinstance(part, DatasetSamples)]
    made = [rules for rules in facts if isinstance(rules, dict) and rules]
    values = to_dict(config)

    def set_as(preset: str) -> bool:
        places = ((key.split("."), value) for key, value in RUN_PRESETS[preset].items())
        return all(values[section][setting] == value for (section, setting), value in places)

    if any(not any(rules.values()) for rules in made) and set_as("kame-jax"):
        return "the data was made with preset reference; preset=reference trains with the same rules"
    if any(all(rules.values()) for rules in made) and set_as("reference"):
        return "the data was made with preset kame-jax, this run trains with preset reference"
    return None


def fingerprint(samples: Sequence[Sample]) -> str:
    """A hash of the content of some samples: equal for equal tokens and events in the same order."""
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
