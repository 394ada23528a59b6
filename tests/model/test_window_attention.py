"""Attention kernels against the plain one, with windows shorter than the sequence. cuDNN's needs a GPU to run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.model.window_attention import attend_window

HEADS, WIDTH = 2, 128


def inputs(steps, batch=2):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (batch, steps, HEADS, WIDTH)) for key in keys]


def with_gradients(kind, context, q, k, v, **options):
    def total(q, k, v):
        out = attend_window(q, k, v, context, kind, **options)
        return jnp.sum(jnp.sin(out)), out

    grads, out = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    return [out, *grads]


def numbered(steps, cuts):
    """Segments that begin at the cuts; None without a cut."""
    return jnp.asarray(np.searchsorted(cuts, np.arange(steps), side="right")[None]) if cuts else None


@pytest.mark.parametrize(
    ("steps", "context", "cuts"),
    [
        (200, 50, ()),
        pytest.param(130, None, (), marks=pytest.mark.slow),
        pytest.param(200, 50, (30, 140), marks=pytest.mark.slow),
    ],
)
def test_splash_equals_the_plain_kernel_and_so_do_its_gradients(steps, context, cuts):
    arrays, segments = inputs(steps, batch=1), numbered(steps, cuts)
    expected = with_gradients("xla", context, *arrays, segments=segments)
    found = with_gradients("splash", context, *arrays, segments=segments, interpret=True)
    for a, b in zip(found, expected, strict=True):
        # float32 sums in blocks; the interpreter multiplies in float32 as well.
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_the_window_counts_the_step_itself_and_nothing_after_it():
    q, k, v = inputs(12, batch=1)
    out = attend_window(q, k, v, 3, "xla")
    changed = v.at[:, 6].add(1.0)
    moved = np.abs(attend_window(q, k, changed, 3, "xla") - out).max(axis=(0, 2, 3)) > 0
    assert np.flatnonzero(moved).tolist() == [6, 7, 8]


@pytest.mark.parametrize("kind", ["xla", pytest.param("splash", marks=pytest.mark.slow)])
def test_a_segment_sees_itself_alone_with_every_kernel(kind):
    arrays, cuts = inputs(60, batch=1), (7, 40)
    alone = [
        attend_window(*(x[:, low:high] for x in arrays), 20, "xla")
        for low, high in zip((0, *cuts), (*cuts, 60), strict=True)
    ]
    found = attend_window(*arrays, 20, kind, segments=numbered(60, cuts), interpret=True)
    alone = np.concatenate(alone, axis=1)
    # A score of 128 products is off by sqrt(128) U, 7e-7; so is its exponential of itself, and a mean of values by it.
    np.testing.assert_allclose(found, alone, atol=2e-6 * np.abs(alone).max())
    with pytest.raises(ValueError, match="cudnn kernel cannot keep segments apart"):
        attend_window(*arrays, 20, "cudnn", segments=numbered(60, cuts))


def test_cudnn_is_asked_for_a_causal_window(monkeypatch):
    asked = {}

    def kernel(q, k, v, **options):
        asked.update(options)
        return q

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    attend_window(*inputs(12), 5, "cudnn")
    assert asked == {"mask": None, "is_causal": True, "local_window_size": (4, 0), "implementation": "cudnn"}
    attend_window(*inputs(12), 3000, "cudnn")
    assert asked["local_window_size"] is None


@pytest.mark.gpu
@pytest.mark.parametrize("context", [50, None])
def test_cudnn_equals_the_plain_kernel_and_so_do_its_gradients(context):
    arrays = [x.astype(jnp.bfloat16) for x in inputs(256)]
    expected = with_gradients("xla", context, *(x.astype(jnp.float32) for x in arrays))
    found = with_gradients("cudnn", context, *arrays)
    for a, b in zip(found, expected, strict=True):
        # bfloat16 keeps 8 bits: 4e-3 of a value, a few of them in a sum.
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=2e-2 * np.abs(b).max())
