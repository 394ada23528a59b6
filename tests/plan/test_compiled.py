"""What is read of a compiled step, and what is still known where its text cannot be."""

from types import SimpleNamespace

import jax
import pytest

from kame_jax.decode.program import EngineOptions, make_program, prepare
from kame_jax.model import tree
from kame_jax.plan.compiled import _compile
from kame_jax.sharding import make_mesh
from tests.decode import small


def test_a_program_that_cannot_be_printed_still_has_its_memory():
    class Step:
        def compile(self, compiler_options):
            return self

        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

        def memory_analysis(self):
            return SimpleNamespace(
                argument_size_in_bytes=7,
                temp_size_in_bytes=3,
                output_size_in_bytes=6,
                alias_size_in_bytes=5,
                generated_code_size_in_bytes=1,
            )

    found = _compile(Step)
    assert found.fits
    assert found.text is None
    assert found.collectives == found.tensors == ()
    assert (found.memory.arguments, found.memory.temporaries) == (7, 5)


@pytest.mark.parametrize(
    "options", [EngineOptions(), EngineOptions(2, int8_weights=True, int8_cache=True, guided=True)]
)
def test_a_planned_step_is_the_engines_own_from_shapes_alone(options):
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    real = prepare(small.model(), small.mimi(), options, mesh)
    abstract = jax.eval_shape(
        lambda *both: prepare(*both, options, mesh),
        tree.abstract_lm(small.CONFIG),
        tree.abstract_mimi(small.CODEC),
    )
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    planned, run = (make_program(*both, options, mesh) for both in (abstract, real))
    assert planned.lower_step().as_text() == run.lower_step().as_text()
