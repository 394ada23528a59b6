"""Losses and accuracies over a whole data set, with its oracle, with an idle one, or with none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from kame_jax.config import LossConfig
from kame_jax.data.cutting import Sample
from kame_jax.data.pipeline import eval_batches, longest
from kame_jax.model import LM
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.train.loss import Part, Parts, report
from kame_jax.train.state import Params
from kame_jax.train.step import batch_multiple, make_eval_step, put_batch

Evaluate = Callable[[Params], dict[str, float]]


def make_evaluation(
    model: LM,
    samples: Sequence[Sample],
    schedule: OracleSchedule,
    weights: LossConfig,
    mesh: Mesh,
    *,
    batch_size: int,
    use_oracle: bool = True,
    chunks: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluate:
    """A function from weights to metrics of the data set.

    Sums go over all tokens of the data set before anything is divided, so the batch size does not matter. Names are
    those of `loss.report`. With an oracle there are three sets: as recorded (`loss/total`, ...), with an oracle that
    stays idle as in a session whose back end never answers (`idle/loss/total`, ...), and what the oracle is worth,
    idle minus recorded loss and recorded minus idle accuracy (`gap/loss/total`, ...).

    Args:
        model: abstract (see `state.abstract_model`).
        samples: of the data set.
        schedule: where oracle tokens land.
        weights: of the loss parts.
        mesh: where weights and batches are.
        batch_size: rows at a time, rounded up to what the mesh divides.
        use_oracle: False leaves the oracle embedding out, as kame_finetune without `--use_oracle` does.
        chunks: of the logits; see `loss_parts`.
        progress: called with the batches done and their total.
    """
    use_oracle = use_oracle and model.config.oracle != "none"
    forward = make_eval_step(model, mesh, use_oracle=use_oracle, chunks=chunks)
    multiple = batch_multiple(mesh)
    rows = -(-min(batch_size, len(samples)) // multiple) * multiple
    length = longest(samples)
    batches = -(-len(samples) // rows) * (2 if use_oracle else 1)

    def totals(params: Params, idle: bool) -> dict[str, float]:
        total: Parts | None = None
        done = batches // 2 if idle else 0
        for batch in eval_batches(samples, schedule, batch_size=rows, length=length):
            if idle:
                batch["oracle"] = np.full_like(batch["oracle"], schedule.pad_id)
            parts = jax.device_get(forward(params, put_batch(batch, mesh)))
            wide = {name: Part(*map(np.float64, part)) for name, part in parts.items()}
            total = wide if total is None else _added(total, wide)
            done += 1
            progress(done, batches)
        assert total is not None
        return {name: float(value) for name, value in report(total, weights).items()}

    def evaluate(params: Params) -> dict[str, float]:
        recorded = totals(params, idle=False)
        if not use_oracle:
            return recorded
        idle = totals(params, idle=True)
        sign = {name: 1 if name.startswith("loss") else -1 for name in recorded}
        gap = {f"gap/{name}": sign[name] * (idle[name] - value) for name, value in recorded.items()}
        return recorded | {f"idle/{name}": value for name, value in idle.items()} | gap

    return evaluate


def _added(a: Parts, b: Parts) -> Parts:
    """Sums on the host, in float64."""
    return {name: Part(*(x + y for x, y in zip(part, b[name], strict=True))) for name, part in a.items()}
