"""A run small enough to train in seconds: its settings, random records and batches."""

import contextlib
import dataclasses
import os
import unittest.mock

import numpy as np
import optax

from kame_jax.config import (
    DataConfig,
    DepthConfig,
    MimiConfig,
    ModelConfig,
    OptimizerConfig,
    OracleConfig,
    QuantizerConfig,
    RunConfig,
    RunModelConfig,
    TrainConfig,
    TransformerConfig,
    build,
    to_dict,
)
from kame_jax.data.events import pack_events
from kame_jax.data.records import Record, save_record
from kame_jax.train.metrics import Silent

MODEL = ModelConfig(
    n_q=4,
    dep_q=2,
    card=16,
    text_card=24,
    delays=(0, 0, 1, 0, 1),
    oracle="separate",
    temporal=TransformerConfig(dim=16, num_heads=4, num_layers=2, ffn_dim=24, context=50),
    depth=DepthConfig(dim=16, num_heads=4, num_layers=1, ffn_dim=24),
)


def run_config(folder, data, **train) -> RunConfig:
    """A run on the records in `data`; keyword arguments are fields of `train`."""
    settings = {"steps": 6, "batch_size": 4, "checkpoint_every": 3, "log_every": 1} | train
    return RunConfig(
        run_dir=str(folder),
        seed=7,
        model=RunModelConfig(**vars(MODEL)),
        codec=MimiConfig(quantizer=QuantizerConfig(bins=16)),
        data=DataConfig(path=str(data), max_frames=24),
        oracle=OracleConfig(right_shift=(1, 3), left_shift=(1, 3)),
        train=TrainConfig(**settings),
        optimizer=OptimizerConfig(learning_rate=1e-2, depth_learning_rate=2e-2, warmup_steps=2),
    )


def model_run(model: ModelConfig, **changes) -> RunConfig:
    """A run of a model without data; dotted settings as `with_settings` takes them."""
    config = dataclasses.replace(
        run_config("run", "data", batch_size=8),
        model=RunModelConfig(**vars(model)),
        codec=MimiConfig(quantizer=QuantizerConfig(bins=model.card)),
    )
    return with_settings(config, **changes)


def gradients_as_state():
    """While it is entered, a step's optimizer keeps the gradient as its state."""
    keep = optax.trace(decay=0.0)
    patches = (f"kame_jax.train.{room}.make_optimizer" for room in ("state", "step"))
    stack = contextlib.ExitStack()
    for place in patches:
        stack.enter_context(unittest.mock.patch(place, return_value=keep))
    return stack


class SignalAt(Silent):
    """Sends this process a signal when a step is logged."""

    def __init__(self, step, number):
        self.at, self.number, self.said = step, number, []

    def say(self, text):
        self.said.append(text)

    def step(self, line, total):
        if line["step"] == self.at:
            os.kill(os.getpid(), self.number)


def with_settings(config: RunConfig, **changes) -> RunConfig:
    """The same run with dotted settings changed, `train__steps=3`."""
    values = to_dict(config)
    for key, value in changes.items():
        *path, name = key.split("__")
        section = values
        for part in path:
            section = section[part]
        section[name] = value
    return build(RunConfig, values)


def write_records(folder, count=5, seed=0) -> None:
    """Random dialogues in tokens, of unequal lengths."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        frames = int(rng.integers(12, 22))
        tokens = {}
        for speaker in "AB":
            text = np.where(rng.random(frames) < 0.5, 3, rng.integers(4, MODEL.text_card, frames))
            codes = rng.integers(0, MODEL.card, (MODEL.n_q // 2, frames))
            tokens[speaker] = np.concatenate([text[None], codes]).astype(np.int32)
        events = pack_events([2, 7], [0.6, 1.0], [0, 1], [[5, 6], [7, 8, 9]], [[], [10, 11]])
        save_record(folder, Record(f"d{i}", tokens, {"A": events, "B": events}))


def batch(rows=8, length=12, seed=0) -> dict[str, np.ndarray]:
    """A batch whose rows have unequal numbers of labels."""
    rng = np.random.default_rng(seed)
    text = np.where(
        rng.random((rows, 1, length)) < 0.4, 3, rng.integers(4, MODEL.text_card, (rows, 1, length))
    )
    audio = rng.integers(0, MODEL.card, (rows, MODEL.n_q, length))
    inputs = np.concatenate([text, audio], axis=1).astype(np.int32)
    ends = rng.integers(3, length + 1, rows)
    inputs[np.broadcast_to(np.arange(length) >= ends[:, None, None], inputs.shape)] = -1
    oracle = np.where(rng.random((rows, length)) < 0.5, 3, rng.integers(4, MODEL.text_card, (rows, length)))
    return {"inputs": inputs, "labels": inputs.copy(), "oracle": oracle.astype(np.int32)}
