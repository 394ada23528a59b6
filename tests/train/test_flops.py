"""The closed form of a step's arithmetic, against what its program multiplies, and against what is known of the 7B."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from kame_jax.config import LoRAConfig, load_model
from kame_jax.model import tree
from kame_jax.train.flops import active_parameters, attention_flops, frame_flops
from kame_jax.train.hardware import find_chip
from kame_jax.train.loss import loss_parts
from tests.train.small import MODEL


def multiplied(jaxpr) -> float:
    """FLOPs of every matrix product of a program, those in a scan as often as it runs."""
    total = 0.0
    for equation in jaxpr.eqns:
        factor = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            if inner := getattr(value, "jaxpr", value if hasattr(value, "eqns") else None):
                total += factor * multiplied(inner)
        if equation.primitive.name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            a, b = (var.aval.shape for var in equation.invars)
            shared = math.prod(a[i] for i in (*contracted, *batched))
            once = math.prod(a[i] for i in contracted)
            batch = math.prod(a[i] for i in batched)
            total += 2.0 * (math.prod(a) // shared) * (math.prod(b) // shared) * once * batch
    return total


def counted(config, rows=2, length=9):
    """FLOPs of a loss forward, a frame."""
    model = tree.abstract_lm(config)
    grid = jax.ShapeDtypeStruct((rows, config.num_rows, length), jnp.int32)
    batch = {
        "inputs": grid,
        "labels": grid,
        "oracle": jax.ShapeDtypeStruct((rows, length), jnp.int32),
    }
    return multiplied(jax.make_jaxpr(loss_parts)(model, batch).jaxpr) / rows / (length - 1)


def unmasked(config, length=9):
    """The closed form, with attention as the plain kernel does it: masked pairs too."""
    steps = length - 1
    full = 4 * config.temporal.num_layers * config.temporal.dim * steps
    if config.depth:
        full += 4 * config.depth.num_layers * config.depth.dim * config.dep_q**2
    return frame_flops(config, steps).forward - attention_flops(config, steps) + full


@pytest.mark.parametrize(
    "config",
    [MODEL, dataclasses.replace(MODEL, lora=LoRAConfig(4))]
    + [load_model(name) for name in ("tiny", "hibiki_2b", "stt_1b_enfr", "moshi_dev_2b")],
    ids=["small", "lora", "tiny", "hibiki_2b", "stt_1b_enfr", "moshi_dev_2b"],
)
def test_the_closed_form_counts_what_the_program_multiplies(config):
    assert unmasked(config) == counted(config)


def test_the_7b_is_what_is_known_of_it():
    config = load_model("kame_7b")
    assert active_parameters(config) == pytest.approx(7.375e9, rel=1e-3)
    flops = frame_flops(config, 1250)
    assert flops.train == pytest.approx(44.2e9 + 1e9, rel=0.01)
    assert flops.hardware == flops.train


def test_frozen_weights_save_their_gradient_and_remat_costs_a_forward():
    config = load_model("kame_7b")
    full, frozen = (frame_flops(config, 1000, frozen=f) for f in ((), ("temporal", "depth")))
    assert frozen.train == pytest.approx(full.train * 2 / 3, rel=0.02)
    again = frame_flops(config, 1000, remat="full")
    assert again.train == full.train
    assert again.hardware - again.train == pytest.approx(again.forward, rel=0.03)


def test_attention_stops_growing_at_the_window():
    short, long, longer = (attention_flops(load_model("kame_7b"), n) for n in (100, 30_000, 60_000))
    assert short < long < longer < 1.06 * long


def test_chips_are_known_by_what_jax_calls_them():
    names = {
        "TPU v5 lite": "v5e",
        "TPU v5": "v5p",
        "TPU v6 lite": "v6e",
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H200": "H200",
    }
    assert {kind: find_chip(kind).name for kind in names} == names
    assert find_chip("cpu") is None
