"""Run as a program: gradients of one batch on meshes of eight simulated devices, against one device.

A process of its own, because the number of devices is chosen once. Takes names of meshes, and prints for each of them
the largest differences.
"""

import json
import sys

import jax
import numpy as np
import optax

from kame_jax.config import LossConfig
from kame_jax.sharding import make_mesh
from kame_jax.train.state import abstract_model, dotted, init_params, init_state, state_shardings
from kame_jax.train.step import make_train_step, put_batch
from tests.train.small import MODEL, batch

MESHES = {"replica": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 4), "mixed": (2, 2, 2)}


def gradients(sizes, micro_batches, params):
    """Gradients by path, and the metrics, of a step on a mesh."""
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
    model = abstract_model(MODEL)
    keep = optax.trace(decay=0.0)  # its state is the gradient
    places = state_shardings(model, keep, mesh)
    state = init_state(jax.device_put(params, places.params), keep, places)
    step = make_train_step(model, keep, LossConfig(), mesh, micro_batches=micro_batches)
    spread = sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state))
    state, out = step(state, put_batch(batch(rows=16), mesh))
    grads = {
        dotted(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]
    }
    return grads, jax.device_get(out), spread


def main(names):
    """Print one JSON object."""
    assert len(jax.devices()) == 8
    params = jax.device_get(init_params(MODEL, 3, make_mesh(devices=jax.devices()[:1])))
    expected, out, _ = gradients((1, 1, 1), 1, params)
    report = {}
    for name in names:
        found, parts, spread = gradients(MESHES[name], 2 if name == "mixed" else 1, params)
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
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
