"""Started by test_mesh.py: on two devices, the greedy frames of the golden conversation, and where the weights are."""

import json
import sys

import jax
import numpy as np

from kame_jax.decode import greedy
from kame_jax.decode.engine import Engine, EngineOptions
from kame_jax.decode.program import make_program, prepare
from kame_jax.interop import load_checkpoint
from kame_jax.model import tree
from kame_jax.oracle import OracleOp
from kame_jax.sharding import make_mesh
from tests.golden.read import LM_FILES, outputs

FRAMES = 60

golden = outputs("kame", "stream_long")
events = [json.loads(line) for line in (LM_FILES / "kame" / "oracle_long.jsonl").read_text().splitlines()]
mesh = make_mesh(fsdp=1, tensor=2)
config, model = load_checkpoint(LM_FILES / "kame", mesh=mesh)
options = EngineOptions(slots=2, late="drop")
engine = Engine(model, options=options, mesh=mesh)
abstract = jax.eval_shape(lambda model: prepare(model, None, options, mesh)[0], tree.abstract_lm(config))
planned, run = (
    make_program(of, None, options, mesh).lower_step().as_text() for of in (abstract, engine.weights[0])
)
with engine.join(settings=greedy(1)) as session:
    said = []
    for frame in range(FRAMES):
        for event in events:
            if (event["row"], event["frame"]) == (0, frame):
                session.change(OracleOp(frame, event["op"], tuple(event["tokens"])))
        out = session.push(golden["user"][frame, 0].astype(np.int32))
        said.append(np.full(9, -2) if out.tokens is None else out.tokens)
arrays = jax.tree.leaves((engine.weights, engine.state))
cut = sum(array.nbytes for array in arrays if not array.sharding.is_fully_replicated)
part = cut / sum(array.nbytes for array in arrays)
np.savez(
    sys.argv[1],
    said=np.stack(said),
    cut=part,
    planned=planned == run,
    constrained="sharding_constraint" in run,
)
