"""Dialogues packed into one row are learnt as each alone: none sees another, for any positions, delays and window."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kame_jax.data.collate import UNDISTURBED, collate_row, pack_row, stack_rows
from kame_jax.data.cutting import Cut, make_samples
from kame_jax.data.records import load_records
from kame_jax.errors import InputError
from kame_jax.sharding import make_mesh
from kame_jax.train.corpus import schedule_of
from kame_jax.train.loop import run
from kame_jax.train.loss import loss_parts
from kame_jax.train.program import choose_attention, make_program, run_mesh
from kame_jax.train.state import abstract_model, init_weights
from tests.train.small import MODEL, run_config, with_settings, write_records

LENGTH = 72
TEMPORAL = MODEL.temporal
CONFIGS = {
    "rope": dataclasses.replace(MODEL, temporal=dataclasses.replace(TEMPORAL, context=6)),
    "sin, late acoustics": dataclasses.replace(
        MODEL, delays=(1, 0, 2, 0, 3), temporal=dataclasses.replace(TEMPORAL, positions="sin")
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder, count=5)
    return folder


def on_device(row):
    return {name: jnp.asarray(value) for name, value in stack_rows([row]).items() if name != "frames"}


@pytest.mark.parametrize("name", ["rope", pytest.param("sin, late acoustics", marks=pytest.mark.slow)])
def test_a_packed_row_gives_the_logits_and_losses_of_each_dialogue_alone(name, folder):
    config = CONFIGS[name]
    # Pieces of a dialogue too: they begin without an initial column.
    samples = make_samples(load_records(folder)[:3], config, cut=Cut(14, carry_oracle=True))
    assert len(samples) > 3
    schedule = schedule_of(config, "clear")
    mesh = make_mesh(devices=jax.devices()[:1])
    model = nnx.merge(nnx.graphdef(abstract_model(config)), init_weights(config, 3, mesh))

    @jax.jit
    def forward(batch):
        segments = batch["segments"][:, :-1] if "segments" in batch else None
        h = model.temporal_hidden(batch["inputs"][:, :, :-1], batch["oracle"][:, :-1], segments=segments)
        logits = model.text_logits(h), model.depth_forward(batch["inputs"][:, :, 1:], h)
        return *logits, loss_parts(model, batch)

    packed = pack_row(samples, LENGTH, schedule)
    text, audio, parts = forward(on_device(packed))
    total = None
    at = 0
    for sample in samples:
        count = sample.columns.shape[1]
        alone = forward(on_device(collate_row(sample, LENGTH, schedule)))
        # float32 sums in another order.
        np.testing.assert_allclose(text[:, at : at + count], alone[0][:, :count], atol=1e-5)
        # The last column's codes are followed by those of another dialogue.
        last = count - 1
        np.testing.assert_allclose(audio[:, :, at : at + last], alone[1][:, :, :last], atol=1e-5)
        total = alone[2] if total is None else jax.tree.map(jnp.add, total, alone[2])
        at += count
    assert at > LENGTH // 2
    for name in parts:
        assert float(parts[name].count) == float(total[name].count) > 0
        np.testing.assert_allclose(parts[name].loss, total[name].loss, rtol=1e-5)


def test_segments_say_whose_a_column_is(folder):
    samples = make_samples(load_records(folder)[:2], MODEL)
    row = pack_row(samples, 60, schedule_of(MODEL, "clear"), UNDISTURBED)
    counts = [sample.columns.shape[1] for sample in samples]
    assert row["segments"].tolist() == [0] * counts[0] + [1] * counts[1] + [-1] * (60 - sum(counts))
    assert "segments" not in collate_row(samples[0], 60, schedule_of(MODEL, "clear"))


def packed_run(folder, tmp_path):
    return with_settings(run_config(tmp_path, folder, steps=2), data__pack=True, data__max_frames=48)


@pytest.mark.slow
def test_a_run_trains_on_packed_rows(folder, tmp_path):
    result = run(packed_run(folder, tmp_path))
    assert result["step"] == 2
    assert np.isfinite(result["metrics"]["loss/total"])


def test_a_kernel_that_keeps_nothing_apart_is_refused(folder, tmp_path):
    config = packed_run(folder, tmp_path)
    mesh = run_mesh(config)
    assert choose_attention(config, mesh) == "xla"
    with pytest.raises(InputError, match="keeps no packed dialogues apart"):
        make_program(with_settings(config, train__attention="cudnn"), mesh)
