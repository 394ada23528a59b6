"""Losses and accuracies over a whole data set, with its oracle, with an idle one, or with none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from kame_jax.config import LossConfig, ModelConfig
from kame_jax.data.cutting import Sample
from kame_jax.data.pipeline import eval_batches, longest
from kame_jax.model import LM
from kame_jax.oracle.schedule import OracleSchedule
from kame_jax.train.loss import Part, Parts, report
from kame_jax.train.step import batch_multiple, make_eval_step, put_batch, run_conditions

Evaluate = Callable[[LM], dict[str, float]]


def make_evaluation(
    config: ModelConfig,
    samples: Sequence[Sample],
    schedule: OracleSchedule,
    weights: LossConfig,
    mesh: Mesh,
    *,
    batch_size: int,
    use_oracle: bool = True,
    conditions: Sequence[str] = (),
    chunks: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluate:
    """A function from a model to metrics of the data set.

    Sums go over all tokens of the data set before anything is divided, so the batch size does not matter. Names are
    those of `loss.report`. With an oracle there are three sets: as recorded (`loss/total`, ...), with an oracle that
    stays idle as in a session whose back end never answers (`idle/loss/total`, ...), and what the oracle is worth,
    idle minus recorded loss and recorded minus idle accuracy (`gap/loss/total`, ...).

    Args:
        config: of the model.
        samples: of the data set.
        schedule: where oracle tokens land.
        weights: of the loss parts.
        mesh: where weights and batches are.
        batch_size: rows at a time, rounded up to what the mesh divides.
        use_oracle: False leaves the oracle embedding out, as kame_finetune without `--use_oracle` does.
        conditions: as `data.conditions` has them.
        chunks: of the logits; see `loss_parts`.
        progress: called with the batches done and their total.

    Raises:
        InputError: a condition of the model is missing or unknown.
    """
    use_oracle = use_oracle and config.oracle != "none"
    forward = make_eval_step(
        mesh, use_oracle=use_oracle, conditions=run_conditions(config, conditions), chunks=chunks
    )
    multiple = batch_multiple(mesh)
    rows = -(-min(batch_size, len(samples)) // multiple) * multiple
    length = longest(samples)
    batches = -(-len(samples) // rows) * (2 if use_oracle else 1)

    def totals(model: LM, idle: bool) -> dict[str, float]:
        total: Parts | None = None
        done = batches // 2 if idle else 0
        for batch in eval_batches(samples, schedule, batch_size=rows, length=length):
            if idle:
                batch["oracle"] = np.full_like(batch["oracle"], schedule.pad_id)
            parts = jax.device_get(forward(model, put_batch(batch, mesh)))
            wide = {name: Part(*map(np.float64, part)) for name, part in parts.items()}
            total = wide if total is None else _added(total, wide)
            done += 1
            progress(done, batches)
        assert total is not None
        return {name: float(value) for name, value in report(total, weights).items()}

    def evaluate(model: LM) -> dict[str, float]:
        recorded = totals(model, idle=False)
        if not use_oracle:
            return recorded
        idle = totals(model, idle=True)
        sign = {name: 1 if name.startswith("loss") else -1 for name in recorded}
        gap = {f"gap/{name}": sign[name] * (idle[name] - value) for name, value in recorded.items()}
        return recorded | {f"idle/{name}": value for name, value in idle.items()} | gap

    return evaluate


def _added(a: Parts, b: Parts) -> Parts:
    """Sums on the host, in float64."""
    return {name: Part(*(x + y for x, y in zip(part, b[name], strict=True))) for name, part in a.items()}
