"""The data of a run: dialogues are tokenised once, again when anything changed, and keep their tokenizers."""

import jax
import numpy as np
import pytest
from flax import nnx

from kame_jax.cli.main import main
from kame_jax.codec.mimi import Mimi
from kame_jax.config import MimiConfig, QuantizerConfig, load_codec, load_run
from kame_jax.data.cutting import make_samples
from kame_jax.data.records import load_records
from kame_jax.demo.dialogues import ROOT, sample_entries
from kame_jax.errors import InputError
from kame_jax.interop import load_mimi
from kame_jax.interop.beside import find_codec, find_tokenizer
from kame_jax.make import encoding
from kame_jax.make.dataset_writer import write_dataset
from kame_jax.model import tree
from kame_jax.train import corpus
from kame_jax.train.corpus import (
    Tokenizers,
    find_tokenizers,
    fingerprint,
    keep_data_tokenizers,
    keep_tokenizers,
    read_records,
    read_samples,
)
from kame_jax.train.state import make_quickly
from tests.bundled import copy_dialogues
from tests.train.small import MODEL, write_records

TINY = load_run("tiny")


NAMES = [entry.id for entry in sample_entries()[:2]]


@pytest.fixture
def dialogues(tmp_path):
    """Two bundled dialogues in a folder of their own."""
    return copy_dialogues(tmp_path / "dialogues", NAMES)


@pytest.fixture
def encodings(monkeypatch):
    """Counts the recordings that the codec is asked for; its codes are the numbers of frames."""
    asked = []

    def encoder(mimi, codebooks, rows=16):
        def encode(recordings):
            asked.append(len(recordings))
            frames = [-(-len(audio) // 1920) for audio in recordings]
            return [np.tile(np.arange(n) % TINY.model.card, (codebooks, 1)).astype(np.int32) for n in frames]

        return encode

    monkeypatch.setattr(encoding, "batch_encoder", encoder)
    monkeypatch.setattr(encoding, "fingerprint", lambda mimi: "weights")
    monkeypatch.setattr(Tokenizers, "mimi", lambda self: tree.abstract_mimi(TINY.codec))
    return asked


def read(folder, cache, rules="kame-jax"):
    return read_records(folder, TINY.model, lambda: find_tokenizers(TINY, folder), cache, rules)


@pytest.mark.parametrize("rules", ["kame-jax", "reference"])
def test_a_run_makes_the_very_records_that_data_tokenize_makes(rules, dialogues, encodings, tmp_path, capsys):
    config = load_run("tiny", [f"preset={rules}", f"run_dir={tmp_path / 'run'}"])
    read_samples(dialogues, config)
    command = ["data", "tokenize", str(dialogues), str(tmp_path / "out"), "--preset", rules]
    assert main([*command, "--codec", str(ROOT.parent / "tiny"), "--codebooks", "2"]) == 0
    (folder,) = (tmp_path / "run" / "records").iterdir()
    for name in NAMES:
        assert (folder / f"{name}.npz").read_bytes() == (tmp_path / "out" / f"{name}.npz").read_bytes()


def test_the_rules_of_a_run_decide_about_its_text(dialogues, encodings, tmp_path):
    rows = {
        rules: [record.tokens[s][0].tolist() for record in read(dialogues, None, rules) for s in "AB"]
        for rules in ("kame-jax", "reference")
    }
    assert rows["kame-jax"] != rows["reference"]


def test_dialogues_are_tokenised_once(dialogues, encodings, tmp_path, monkeypatch):
    first = read(dialogues, tmp_path / "records")
    monkeypatch.setattr(Tokenizers, "mimi", lambda self: pytest.fail("the codec is not needed again"))
    second = read(dialogues, tmp_path / "records")
    assert encodings == [4]
    assert [record.id for record in first] == [record.id for record in second] == NAMES
    assert all((a.tokens["A"] == b.tokens["A"]).all() for a, b in zip(first, second, strict=True))
    assert read_records(next((tmp_path / "records").iterdir()), TINY.model, pytest.fail)


def test_of_dialogues_that_changed_only_those_are_tokenised_again(dialogues, encodings, tmp_path):
    read(dialogues, tmp_path / "records")
    file = dialogues / "oracle_raw" / f"{NAMES[0]}.json"
    file.write_text("[]")
    record = read(dialogues, tmp_path / "records")[0]
    assert (len(record.events["A"]), encodings) == (0, [4]), "its codes are those of the same sound"
    (dialogues / "text" / f"{NAMES[1]}.json").unlink()
    (dialogues / "audio" / f"{NAMES[1]}.ogg").unlink()
    assert [record.id for record in read(dialogues, tmp_path / "records")] == NAMES[:1]


def test_a_dialogue_that_cannot_be_tokenised_stops_the_run_and_costs_the_others_nothing(
    dialogues, encodings, tmp_path
):
    file = dialogues / "text" / f"{NAMES[0]}.json"
    text = file.read_text()
    file.write_text("[]")
    for _ in range(2):
        with pytest.raises(InputError, match="1 dialogues cannot be tokenised") as error:
            read(dialogues, tmp_path / "records")
        assert error.value.problems[0].startswith(f"dialogue {NAMES[0]}: no word of speaker A, B")
    file.write_text(text)
    assert len(read(dialogues, tmp_path / "records")) == 2
    assert encodings == [2, 2]


def test_a_codec_that_does_not_fit_the_model_is_refused(dialogues, monkeypatch):
    small = MimiConfig(quantizer=QuantizerConfig(bins=16))
    monkeypatch.setattr(Tokenizers, "mimi", lambda self: tree.abstract_mimi(small))
    with pytest.raises(InputError, match="32 codebooks of 16 entries, the model expects at least 2 of 256"):
        read(dialogues, None)


def test_a_run_of_the_bundled_models_kind_takes_its_codec_and_its_tokenizer_and_says_so(dialogues):
    (dialogues / "tokenizer.model").unlink()
    said = []
    tools = find_tokenizers(TINY, dialogues, said.append)
    assert (tools.text, tools.codec) == (ROOT.parent / "tiny" / "tokenizer.model", str(ROOT.parent / "tiny"))
    assert [line.partition(":")[0] for line in said] == ["data.codec", "data.tokenizer"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("codec.seanet.filters=4", "data.codec: null, expected Mimi's weights to encode the dialogues of"),
        ("model.text_card=500", "no tokenizer.model in it, and data.tokenizer is null"),
        ("data.tokenizer=nowhere", "data.tokenizer: nowhere: expected a SentencePiece model file"),
    ],
)
def test_any_other_run_must_name_them(dialogues, setting, message):
    """Codes of a codec whose weights were never trained say nothing of the sound."""
    (dialogues / "tokenizer.model").unlink()
    with pytest.raises(InputError, match=message):
        find_tokenizers(load_run("tiny", [setting]), dialogues)


def test_a_run_folder_keeps_the_tokenizers_of_its_dialogues(dialogues, tmp_path, monkeypatch):
    tools = Tokenizers(dialogues / "tokenizer.model", "a codec")
    made = make_quickly(lambda: Mimi(nnx.Rngs(3), load_codec("tiny")))
    monkeypatch.setattr(Tokenizers, "mimi", lambda self: made)
    run = tmp_path / "run"
    (run / "checkpoints" / "5").mkdir(parents=True)
    keep_tokenizers(tools, run)
    assert find_tokenizer(run / "checkpoints" / "5").read_bytes() == tools.text.read_bytes()
    mimi = load_mimi(find_codec(run))
    assert mimi.config == load_codec("tiny")
    assert isinstance(mimi, Mimi)
    for a, b in zip(jax.tree.leaves(mimi), jax.tree.leaves(made), strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_the_fingerprint_is_of_the_content(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_records(tmp_path / name, seed=seed)
    a, b, c = (
        fingerprint(make_samples(read_records(tmp_path / name, MODEL, pytest.fail), MODEL)) for name in "abc"
    )
    assert a == b != c


def test_a_run_folder_keeps_the_tokenizers_of_its_data_set(dialogues, tmp_path, monkeypatch):
    write_records(tmp_path / "records")
    said = []
    facts = {"codec": str(tmp_path / "none")}
    write_dataset(
        tmp_path / "set",
        {"train": lambda: load_records(tmp_path / "records")},
        facts,
        dialogues / "tokenizer.model",
    )
    (tmp_path / "run").mkdir()
    keep_data_tokenizers(tmp_path / "set", tmp_path / "run", said.append)
    assert find_tokenizer(tmp_path / "run").read_bytes() == (dialogues / "tokenizer.model").read_bytes()
    assert "is not available" in said[0]
    keep_data_tokenizers(tmp_path / "records", tmp_path / "run", said.append)
    kept = []
    monkeypatch.setattr(corpus, "keep_tokenizers", lambda tools, folder: kept.append(tools))
    keep_data_tokenizers(tmp_path / "set", tmp_path / "run", said.append)
    assert kept[0].codec == facts["codec"]
    assert len(said) == 1
