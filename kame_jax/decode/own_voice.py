"""Serving a model that also predicts the user: its depth transformer is cut to the codebooks that are spoken.

Training on the user's codebooks too (`dep_q == n_q`, kame_finetune's user stream, PersonaPlex) gives a model with a
depth transformer that continues from its own codes to the user's. In a conversation those are heard, not predicted, and
no own code depends on them: without them the model says the same, in half the steps.
"""

from __future__ import annotations

import dataclasses

from kame_jax.model import LM, tree


def own_voice(model: LM) -> LM:
    """The model without its predictions of the user; one without them is returned as it is.

    Args:
        model: with stacked weights; the cut weights are copies, the others are shared.
    """
    config = model.config
    if not config.dep_q or config.dep_q < config.n_q:
        return model
    own = config.n_q // 2
    assert config.depth is not None
    schedule = config.depth.schedule and config.depth.schedule[:own]
    config = dataclasses.replace(
        config, dep_q=own, depth=dataclasses.replace(config.depth, schedule=schedule)
    )
    cut = tree.abstract_lm(config, dtype=model.dtype)
    shapes = tree.shapes(cut)
    return tree.fill(
        cut,
        {
            path: weight if weight.shape == shapes[path] else weight[tuple(map(slice, shapes[path]))]
            for path, weight in tree.leaves(model).items()
            if path in shapes
        },
    )
