"""Run as a program: gradients of one batch on meshes of eight simulated devices, against one device.

A process of its own, because the number of devices is chosen once. Takes names of meshes, and prints for each of them
the largest differences, and what its compiled text gathers and sums of the layers' weights.
"""

import dataclasses
import json
import math
import sys

import jax
import numpy as np

from kame_jax.model import layers, tree
from kame_jax.plan.hlo import collectives
from kame_jax.sharding import make_mesh
from kame_jax.train.program import make_program
from kame_jax.train.state import abstract_model, init_state, init_weights, places_of
from kame_jax.train.step import put_batch
from tests.train.small import MODEL, batch, gradients_as_state, model_run

MESHES = {"replica": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 4), "mixed": (2, 2, 2)}
LAYERS = 5
DEEP = dataclasses.replace(
    MODEL,
    temporal=dataclasses.replace(MODEL.temporal, num_layers=LAYERS),
    depth=dataclasses.replace(MODEL.depth, num_layers=LAYERS),
)
"""The small model with so many layers that no stack of one weight has the size of another thing here."""


PAGE_ROWS = 9
"""Of the tables' 17 and 25 rows: pages of 9 cut neither evenly."""


def weight_traffic(text, tensor):
    """Collectives of the size of a weight: those of all layers or of a table at once, the kinds of those in the loops
    over layers, and whether pages of tables are gathered.

    Args:
        text: of the compiled step.
        tensor: devices along that axis, which keep their own part.
    """
    shapes = tree.shapes(abstract_model(DEEP))
    one = {
        math.prod(shape[1:]) for path, shape in shapes.items() if ".layers." in path and "norm" not in path
    }
    one |= {size // tensor for size in one}
    tables = {math.prod(shape[-2:]) for path, shape in shapes.items() if path.endswith("_emb.weight")}
    stacks, looped, pages = [], set(), False
    for found in collectives(text):
        size = math.prod(int(n) for n in found.shape.partition("[")[2].rstrip("]").split(",") if n)
        gathers = found.kind == "all-gather"
        pages |= gathers and size == PAGE_ROWS * MODEL.temporal.dim
        if size in {LAYERS * n for n in one} or (gathers and size in tables):
            stacks.append(f"{found.kind} {found.shape}")
        elif size in one and found.times % LAYERS == 0:
            looped.add(found.kind)
    return stacks, sorted(looped), pages


def gradients(sizes, micro_batches, params):
    """Of a step on a mesh: gradients by path, metrics, how many arrays of the state are cut, the weights' traffic."""
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
    config = model_run(DEEP, train__batch_size=16, train__micro_batches=micro_batches)
    with gradients_as_state():
        program = make_program(config, mesh)
        places = places_of(program.state)
        state = init_state(config, jax.device_put(params, places.params), places)
        rows = put_batch(batch(rows=16), mesh)
        step = program.step.lower(state, rows).compile()
    spread = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state))
    state, out = step(state, rows)
    grads = {path: np.asarray(leaf) for path, leaf in tree.leaves(state.opt_state).items()}
    return grads, jax.device_get(out), spread, weight_traffic(step.as_text(), sizes[2])


def main(names):
    """Print one JSON object."""
    assert len(jax.devices()) == 8
    layers.PAGE = PAGE_ROWS
    params = jax.device_get(init_weights(DEEP, 3, make_mesh(devices=jax.devices()[:1])))
    expected, out, _, _ = gradients((1, 1, 1), 1, params)
    report = {}
    for name in names:
        found, parts, spread, traffic = gradients(MESHES[name], 2 if name == "mixed" else 1, params)
        off = {
            path: np.abs(found[path] - value).max() / np.abs(value).max() for path, value in expected.items()
        }
        losses = {key: abs(parts.parts[key].loss / part.loss - 1) for key, part in out.parts.items()}
        worst = max(off, key=off.get)
        report[name] = {
            "gradient": float(off[worst]),
            "weight": worst,
            "loss": float(max(losses.values())),
            "norm": float(abs(parts.grad_norm / out.grad_norm - 1)),
            "spread": spread,
            "stacks": traffic[0],
            "looped": traffic[1],
            "pages": traffic[2],
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
