"""Rates, groups and decay of the optimizer. Ten steps against PyTorch's AdamW are in `test_golden_loss`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.config import OptimizerConfig
from kame_jax.train.optimizer import group_of, learning_rates, make_optimizer

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
    return {"text_emb": {"weight": jnp.ones(3)}, "depth": {"text_emb": {"weight": jnp.full(2, 4.0)}}}


def test_the_depth_transformer_and_its_embeddings_are_one_group():
    assert [group_of(path) for path in ("text_emb.weight", "temporal.layers.norm1.scale")] == ["temporal"] * 2
    assert [group_of(path) for path in ("depth.text_emb.weight", "depth.heads.weight")] == ["depth"] * 2


def test_every_weight_decays_by_its_groups_rate():
    optimizer = make_optimizer(dataclasses.replace(CONFIG, weight_decay=0.1), steps=2)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params()), optimizer.init(params()), params())
    np.testing.assert_allclose(updates["text_emb"]["weight"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["depth"]["text_emb"]["weight"], -2 * 0.1 * 4, rtol=1e-6)


def test_the_gradient_is_clipped_by_the_norm_of_all_groups_together():
    grads = {"text_emb": {"weight": jnp.full(3, 100.0)}, "depth": {"text_emb": {"weight": jnp.full(2, 1e-3)}}}
    # With a large eps the first update is proportional to the clipped gradient.
    config = dataclasses.replace(CONFIG, clip_norm=1.0, weight_decay=0.0, eps=1e6)
    optimizer = make_optimizer(config, steps=2)
    updates, _ = optimizer.update(grads, optimizer.init(params()), params())
    norm = float(np.sqrt(3 * 100.0**2 + 2e-6))
    np.testing.assert_allclose(updates["text_emb"]["weight"], -100 / norm / 1e6, rtol=1e-5)
    np.testing.assert_allclose(updates["depth"]["text_emb"]["weight"], -2 * 1e-3 / norm / 1e6, rtol=1e-5)
