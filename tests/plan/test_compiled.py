"""What is read of a compiled step, and what is still known where its text cannot be."""

from types import SimpleNamespace

import jax

from kame_jax.plan.compiled import _compile


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
