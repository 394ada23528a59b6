"""The reference's configuration files, both ways, and clear words about what is not supported."""

import dataclasses
import json

import pytest

from kame_jax.config import config_names, load_model
from kame_jax.errors import InputError
from kame_jax.interop import kwargs
from tests.interop.files import GOLDEN, LM_CASES

MODELS = [name for name in config_names() if name != "mimi"]
BASE = kwargs.to_kwargs(load_model("moshi_test_asset"))


@pytest.mark.parametrize("name", MODELS)
def test_ready_models_survive_the_way_to_the_reference_and_back(name):
    config = load_model(name)
    assert kwargs.from_kwargs(kwargs.to_kwargs(config), name, config.oracle) == config


@pytest.mark.parametrize("case", LM_CASES)
def test_what_the_reference_wrote_survives_the_way_to_us_and_back(case):
    raw = json.loads((GOLDEN / "lm" / case / "config.json").read_text())
    config = kwargs.from_kwargs(raw, case)
    assert kwargs.from_kwargs(kwargs.to_kwargs(config), case) == config


@pytest.mark.parametrize("dim", [16, 24, 1024, 2048, 2560, 4096, 5120])
@pytest.mark.parametrize("gating", ["silu", "none"])
def test_hidden_scale_gives_the_reference_the_same_hidden_width(dim, gating):
    base = load_model("moshi_test_asset")
    unreachable = 0
    for hidden in {1, 2, 7, dim, dim + 1, 8 * dim // 3, 21 * dim // 8, 11 * dim // 4, 3 * dim - 1}:
        temporal = dataclasses.replace(base.temporal, dim=dim, ffn_dim=hidden, gating=gating, num_heads=1)
        try:
            raw = kwargs.to_kwargs(dataclasses.replace(base, temporal=temporal))
        except InputError:
            unreachable += 1
            continue
        feedforward = int(raw["hidden_scale"] * dim)
        assert kwargs.hidden_dim(dim, feedforward, gating) == hidden
    # `4 * dim` is taken by another formula: its own width is the one that no factor reaches.
    assert unreachable <= (gating == "silu")


def test_the_published_7b_reads_as_the_ready_one():
    published = {
        "dim": 4096, "text_card": 32000, "existing_text_padding_id": 3, "n_q": 16, "dep_q": 8, "card": 2048,
        "num_heads": 32, "num_layers": 32, "hidden_scale": 4.125, "causal": True, "layer_scale": None,
        "context": 3000, "max_period": 10000, "gating": "silu", "norm": "rms_norm_f32",
        "positional_embedding": "rope", "depformer_dim": 1024, "depformer_dim_feedforward": 4224,
        "depformer_num_heads": 16, "depformer_num_layers": 6, "depformer_causal": True,
        "depformer_layer_scale": None, "depformer_multi_linear": True, "depformer_context": 8,
        "depformer_max_period": 10000, "depformer_gating": "silu", "depformer_pos_emb": "none",
        "depformer_weights_per_step": True, "delays": [0, 0] + [1] * 7 + [0] + [1] * 7,
        "model_type": "moshi", "moshi_name": "model.safetensors", "lm_gen_config": {"temp": 0.8},
    }  # fmt: skip
    assert kwargs.from_kwargs(published, "config.json") == load_model("moshi_7b")


LUT = {"type": "lut", "lut": {"n_bins": 3, "dim": 2, "tokenizer": "noop"}}
BAD = {
    "unknown key": ({"contex": 3}, "unknown key 'contex'; did you mean context?"),
    "bias": ({"bias_proj": True}, "bias_proj True is not supported, only False"),
    "cross attention": ({"cross_attention": True}, "cross_attention True is not supported, only False"),
    "grouped heads": ({"kv_repeat": 2}, "kv_repeat 2 is not supported, only 1"),
    "grouped depth heads": ({"depformer_kv_repeat": 2}, "depformer_kv_repeat 2 is not supported, only 1"),
    "not causal": ({"causal": False}, "causal False is not supported, only True"),
    "scaled positions": ({"positional_scale": 0.5}, "positional_scale 0.5 is not supported, only 1.0"),
    "half-split rope": (
        {"positional_embedding": "rope_concat"},
        "positional_embedding 'rope_concat' is not supported, only rope, sin, sin_rope, none",
    ),
    "widths per set": (
        {"depformer_dim_feedforward": [3, 4]},
        "depformer_dim_feedforward as a list (one width per weight set) is not supported, only one number",
    ),
    "no layers": ({"num_layers": None}, "num_layers is missing"),
    "no depth heads": ({"depformer_num_heads": None}, "depformer_num_heads is missing"),
    "crossing conditions": (
        {"conditioners": {"x": LUT}, "fuser": {"cross": ["x"]}},
        "fuser.cross ['x'] is not supported, only sum",
    ),
    "a condition without a way in": ({"conditioners": {"x": LUT}}, "conditioners.x: not named by fuser.sum"),
    "another condition": (
        {"conditioners": {"x": {"type": "t5", "t5": {}}}, "fuser": {"sum": ["x"]}},
        "conditioners.x: type 't5' is not supported, only lut or tensor with their options",
    ),
    "another tokenizer": (
        {
            "conditioners": {"x": {"type": "lut", "lut": LUT["lut"] | {"tokenizer": "bpe"}}},
            "fuser": {"sum": ["x"]},
        },
        "conditioners.x.lut.tokenizer 'bpe' is not supported, only 'noop'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_option_that_is_not_supported_is_named(name):
    change, message = BAD[name]
    with pytest.raises(InputError, match=r"config\.json: the model cannot be built \(1 problems\)") as caught:
        kwargs.from_kwargs(BASE | change, "config.json")
    assert caught.value.problems == (message,)


@pytest.mark.parametrize(
    "change", [{"dim": "16"}, {"delays": 3}, {"n_q": 2.5}, {"conditioners": [1]}, {"card": None}]
)
def test_values_of_a_wrong_type_are_one_clear_error(change):
    with pytest.raises(InputError, match=r"^config\.json: "):
        kwargs.from_kwargs(BASE | change, "config.json")


def test_many_problems_come_as_one_list():
    with pytest.raises(InputError) as caught:
        kwargs.from_kwargs(BASE | {"bias_proj": True, "kv_repeat": 4, "nq": 8}, "config.json")
    assert len(caught.value.problems) == 3
