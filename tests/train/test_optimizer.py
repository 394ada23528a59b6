"""Rates, groups and decay of the optimizer. Twenty steps against PyTorch's AdamW are in `test_golden_loss`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kame_jax.config import GroupConfig, OptimizerConfig
from kame_jax.train.optimizer import frozen_groups, group_of, learning_rates, make_optimizer

CONFIG = OptimizerConfig(learning_rate=1.0, depth_learning_rate=2.0, clip_norm=None)


def rates(steps, group="temporal", **changes):
    rate = learning_rates(dataclasses.replace(CONFIG, **changes), steps)[group]
    return [float(rate(update)) for update in range(steps)]


def deepspeed(warmup, steps):
    """Rates that DeepSpeed 0.15.4's linear WarmupLR sets: once when made (0), then after each step."""
    last, seen = -1, [0.0]
    for _ in range(steps - 1):
        last += 1
        seen.append(last / max(2, warmup) if last < max(2, warmup) else 1.0)
    return seen


@pytest.mark.parametrize("warmup", [1, 2, 5])
def test_the_warm_up_is_deepspeeds(warmup):
    np.testing.assert_allclose(rates(12, warmup_steps=warmup), deepspeed(warmup, 12), rtol=1e-6)


def test_without_warm_up_the_first_update_has_the_full_rate():
    assert rates(3) == [1, 1, 1]
    assert rates(3, "depth") == [2, 2, 2]


def test_a_cosine_goes_from_the_end_of_the_warm_up_to_the_last_update():
    values = rates(12, warmup_steps=4, schedule="cosine", final_learning_rate=0.1)
    assert values[:6] == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1])
    assert values[-1] == pytest.approx(0.1)
    assert values[5:] == sorted(values[5:], reverse=True)
    assert np.mean(values[5:]) == pytest.approx(0.55, abs=1e-6)


def params():
    return nnx.State(
        {"text_emb": {"weight": jnp.ones(3)}, "depth": {"text_emb": {"weight": jnp.full(2, 4.0)}}}
    )


@pytest.mark.parametrize(
    ("group", "paths"),
    [
        ("temporal", ("temporal.layers.norm1.scale", "text_head.weight", "out_norm.scale")),
        ("depth", ("depth.text_emb.weight", "depth.heads.weight", "depth.layers.attn_in.weight")),
        ("embeddings", ("text_emb.weight", "audio_emb.weight")),
        ("oracle", ("oracle_emb.weight",)),
        ("adapters", ("temporal.layers.mlp_in.lora_a", "depth.heads.lora_b", "text_head.lora_a")),
    ],
)
def test_a_weight_is_in_one_group(group, paths):
    assert {group_of(path.split(".")) for path in paths} == {group}


def test_a_group_has_its_own_rate_and_decay_or_none_at_all():
    config = dataclasses.replace(
        CONFIG,
        weight_decay=0.5,
        embeddings=GroupConfig(learning_rate=3.0, weight_decay=0.0),
        oracle=GroupConfig(freeze=True),
    )
    rates = {group: float(rate(0)) for group, rate in learning_rates(config, 2).items()}
    assert rates == {"temporal": 1, "depth": 2, "embeddings": 3, "adapters": 1}
    assert frozen_groups(config) == {"oracle"}
    optimizer = make_optimizer(config, steps=2)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params()), optimizer.init(params()), params())
    assert not updates["text_emb"]["weight"].any()
    assert updates["depth"]["text_emb"]["weight"].all()


def test_moments_in_bfloat16_are_rounded_between_updates_and_no_more():
    grads = jax.tree.map(lambda x: x * 0.37, params())
    config = dataclasses.replace(CONFIG, moments="bfloat16")
    rounded, exact = make_optimizer(config, steps=3), make_optimizer(CONFIG, steps=3)
    states = rounded.init(params()), exact.init(params())
    first = [o.update(grads, s, params()) for o, s in zip((rounded, exact), states, strict=True)]
    np.testing.assert_array_equal(first[0][0]["text_emb"]["weight"], first[1][0]["text_emb"]["weight"])
    second = [o.update(grads, s[1], params())[0] for o, s in zip((rounded, exact), first, strict=True)]
    # Two moments of 8 bits: one part in 256 each, and the second under a root.
    np.testing.assert_allclose(second[0]["text_emb"]["weight"], second[1]["text_emb"]["weight"], rtol=6e-3)
    kinds = {x.dtype for x in jax.tree.leaves(first[0][1]) if x.ndim}
    assert kinds == {jnp.dtype("bfloat16")}


def test_every_weight_decays_by_its_groups_rate():
    optimizer = make_optimizer(dataclasses.replace(CONFIG, weight_decay=0.1), steps=2)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params()), optimizer.init(params()), params())
    np.testing.assert_allclose(updates["text_emb"]["weight"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["depth"]["text_emb"]["weight"], -2 * 0.1 * 4, rtol=1e-6)


def test_the_gradient_is_clipped_by_the_norm_of_all_groups_together():
    grads = nnx.State(
        {"text_emb": {"weight": jnp.full(3, 100.0)}, "depth": {"text_emb": {"weight": jnp.full(2, 1e-3)}}}
    )
    # With a large eps the first update is proportional to the clipped gradient.
    config = dataclasses.replace(CONFIG, clip_norm=1.0, weight_decay=0.0, eps=1e6)
    optimizer = make_optimizer(config, steps=2)
    updates, _ = optimizer.update(grads, optimizer.init(params()), params())
    norm = float(np.sqrt(3 * 100.0**2 + 2e-6))
    np.testing.assert_allclose(updates["text_emb"]["weight"], -100 / norm / 1e6, rtol=1e-5)
    np.testing.assert_allclose(updates["depth"]["text_emb"]["weight"], -2 * 1e-3 / norm / 1e6, rtol=1e-5)
