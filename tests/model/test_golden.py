"""The training forward against the PyTorch reference, for every option that a model can have (`tests/golden`)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kame_jax.interop.load import load_checkpoint
from kame_jax.model import LM, LMOutput
from kame_jax.model.lora import merge
from tests.golden.read import LM_FILES, QUICK, condition, distance, model, outputs
from tests.rounding import LOGITS


@functools.cache
def compiled():
    # LMModel.forward puts the oracle's initial id in column 0.
    return jax.jit(lambda model, *args: model(*args, oracle_first="initial"), compiler_options=QUICK)


def forward(lm: LM, case: str, oracle: bool = True) -> LMOutput:
    golden = outputs(case, "forward")
    row = golden["oracle"][:, 0] if oracle and "oracle" in golden else None
    return compiled()(lm, golden["codes"], row, condition(case))


def check(ours: LMOutput, case: str, suffix: str = "") -> None:
    golden = outputs(case, "forward")
    for name in ("logits", "text_logits"):
        # The same cells are NaN: those that a delay leaves without a prediction.
        assert distance(getattr(ours, name), golden[name + suffix]) <= LOGITS, name
    for name in ("mask", "text_mask"):
        np.testing.assert_array_equal(getattr(ours, name), golden[name + suffix], err_msg=name)


@pytest.mark.parametrize("case", ["kame", "user_stream", "dev_2b", "plain", "norms", "no_positions"])
def test_logits_and_masks_equal_the_reference(case):
    check(forward(model(case), case), case)


@pytest.mark.parametrize("case", ["kame", "dev_2b", "plain"])
def test_without_an_oracle_term_a_kame_is_the_moshi_below(case):
    check(forward(model(case), case, oracle=False), case, "_no_oracle")


@pytest.mark.parametrize("case", ["dev_2b", "norms", "lora"])
def test_conditions_given_and_not_given_equal_the_reference(case):
    assert distance(condition(case), outputs(case, "forward")["condition"]) <= LOGITS


def test_a_model_without_depth_transformer_gives_text_logits_alone():
    golden = outputs("stt", "forward")
    out = forward(model("stt"), "stt")
    assert out.logits.shape[1] == out.mask.shape[1] == 0
    assert distance(out.text_logits, golden["text_logits"]) <= LOGITS
    np.testing.assert_array_equal(out.text_mask, golden["text_mask"])


def test_adapters_apart_and_merged_equal_the_reference():
    lm, golden = model("lora"), outputs("lora", "forward")
    check(forward(lm, "lora"), "lora")
    merged = forward(merge(lm), "lora")
    assert distance(merged.logits, golden["logits_merged"]) <= LOGITS
    assert distance(merged.text_logits, golden["text_logits_merged"]) <= LOGITS


def test_bfloat16_is_as_near_to_float32_as_the_reference_is():
    half = load_checkpoint(LM_FILES / "kame", dtype=jnp.bfloat16)[1]
    out, golden = forward(half, "kame"), outputs("kame", "forward")
    for name in ("logits", "text_logits"):
        ours, theirs = np.asarray(getattr(out, name)), golden[f"{name}_bf16"]
        exact = golden[name]
        # Two bfloat16 runs round in different places and agree only to their own error, so float32 is the judge:
        # ours may be off by what the reference is off, plus a quarter for luck.
        assert rms(ours - exact) <= 1.25 * rms(theirs - exact), name
        assert distance(ours, exact) <= 1.5 * distance(theirs, exact), name


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(np.square(x))))
