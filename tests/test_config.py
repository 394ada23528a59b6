"""Configuration: every problem is found, named and placed; text and dataclass are two forms of the same thing."""

import dataclasses
import math

import jax
import pytest
import yaml
from flax import nnx

from kame_jax.codec.mimi import Mimi
from kame_jax.config import (
    DepthConfig,
    LLMConfig,
    MimiConfig,
    ModelConfig,
    RunConfig,
    TransformerConfig,
    build,
    config_names,
    find_config,
    load_codec,
    load_model,
    load_run,
    load_settings,
    to_dict,
    to_yaml,
    validate,
)
from kame_jax.config.presets import RUN_PRESETS
from kame_jax.errors import InputError
from kame_jax.model import LM

RUNS = sorted(set(config_names()) - {"mimi"})

# Parameters by group of the 7B (kyutai-labs/moshi `moshi_7b_202409`), in the order of its PyTorch modules.
MOSHI_GROUPS = {
    "temporal": 6_576_930_816,
    "audio_emb": 134_283_264,
    "text_emb": 131_076_096,
    "text_head": 131_072_000,
    "out_norm": 4_096,
    "depth.input": 33_554_432,
    "depth.audio_emb": 14_687_232,
    "depth.text_emb": 32_769_024,
    "depth.layers": 616_574_976,
    "depth.heads": 16_777_216,
}
USER_STREAM_GROUPS = MOSHI_GROUPS | {
    "depth.input": 67_108_864,
    "depth.audio_emb": 31_472_640,
    "depth.layers": 1_233_137_664,
    "depth.heads": 33_554_432,
}


# Numbers stored by the released Mimi (96,151,393), the codebooks' running sums and flags included.
MIMI_GROUPS = {
    "encoder": 12_628_256,
    "decoder": 14_724_641,
    "encoder_transformer": 25_190_400,
    "decoder_transformer": 25_190_400,
    "quantizer": 17_367_072,
    "downsample": 1_048_576,
    "upsample": 2_048,
}


def count(config):
    """Parameters of the language model by group, from shapes alone."""
    return sizes(lambda: LM(config, rngs=nnx.Rngs(0)))


def sizes(make):
    groups = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(nnx.eval_shape(make))):
        names = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        group = ".".join(names[:2]) if names[0] == "depth" else names[0]
        groups[group] = groups.get(group, 0) + math.prod(leaf.shape)
    return groups


def problems(*overrides, source="tiny"):
    with pytest.raises(InputError) as caught:
        load_run(source, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "groups", "total"),
    [
        ("moshi_7b", MOSHI_GROUPS, 7_687_729_152),
        ("kame_7b", MOSHI_GROUPS | {"oracle_emb": 131_076_096}, 7_818_805_248),
        ("personaplex_7b", USER_STREAM_GROUPS, 8_371_408_896),
    ],
)
def test_7b_models_have_the_parameters_of_the_released_ones_group_by_group(name, groups, total):
    assert count(load_model(name)) == groups
    assert sum(groups.values()) == total


def test_user_stream_model_with_an_oracle_has_one_more_table():
    config = dataclasses.replace(load_model("personaplex_7b"), oracle="separate")
    assert sum(count(config).values()) == 8_502_484_992


def test_2b_model_has_the_released_parameters_and_its_conditioner():
    groups = count(load_model("moshi_dev_2b"))
    assert groups.pop("conditioners") == 32 * 16 + 2560 * 16 + 2560
    assert sum(groups.values()) == 3_729_761_280


def test_hibiki_keeps_nine_weight_sets_and_low_rank_depth_embeddings():
    groups = count(load_model("hibiki_2b"))
    full = count(load_model("moshi_dev_2b"))
    norms = 6 * 2 * 1024
    assert groups["depth.layers"] - norms == (full["depth.layers"] - norms) * 9 // 16
    assert groups["depth.input"] == 9 * 1024 * 2560
    assert groups["depth.audio_emb"] == 15 * (2049 * 128 + 1024 * 128)
    assert groups["depth.text_emb"] == 48_001 * 128 + 1024 * 128
    assert groups["depth.heads"] == full["depth.heads"]  # one per codebook, whatever the schedule
    assert sum(groups.values()) == 3_103_512_576


@pytest.mark.parametrize(("name", "millions"), [("stt_1b_enfr", 991), ("stt_2.6b_en", 2_619)])
def test_speech_to_text_models_have_the_published_size(name, millions):
    config = load_model(name)
    assert (config.dep_q, config.depth, config.num_user_rows) == (0, None, 32)
    assert round(sum(count(config).values()) / 1e6) == millions


def test_mimi_has_the_numbers_of_the_released_file_group_by_group():
    assert sizes(lambda: Mimi(nnx.Rngs(0), load_codec("mimi"))) == MIMI_GROUPS
    assert sum(MIMI_GROUPS.values()) == 96_151_393


def test_named_mimi_is_the_released_codec():
    assert load_codec("mimi") == MimiConfig()
    assert load_run("kame_7b").codec == MimiConfig()
    assert load_codec("mimi").frame_size == 1920


@pytest.mark.parametrize("name", RUNS)
def test_yaml_and_dataclass_are_two_forms_of_one_run(name, tmp_path):
    run = load_run(name)
    (tmp_path / "config.yaml").write_text(to_yaml(run))
    assert load_run(tmp_path / "config.yaml") == run
    assert validate(run) == run
    assert validate(run.model.architecture) == load_model(name)


@pytest.mark.parametrize(
    "text", ["1e-4", "yes", "null", "007", "2020-01-01", "a: b", "- x", "[", "", " ", "ü", "~"]
)
def test_any_text_survives_yaml(text, tmp_path):
    run = dataclasses.replace(load_run("tiny"), run_dir=text)
    (tmp_path / "config.yaml").write_text(to_yaml(run), encoding="utf-8")
    assert load_run(tmp_path / "config.yaml").run_dir == text


@pytest.mark.quick
def test_fields_that_scripts_rely_on_can_be_set_from_the_command_line():
    run = load_run(
        "tiny",
        [
            "run_dir=out/a",
            "seed=7",
            "train.steps=1_000",
            "train.batch_size=4",
            "train.checkpoint_every=0",
            "mesh.replica=2",
            "mesh.fsdp=4",
            "mesh.tensor=1",
            "data.path=records",
            "model.init_from=hf://org/repo@main",
            "optimizer.learning_rate=1e-4",
            "optimizer.clip_norm=null",
            "data.speakers=[A, B]",
        ],
    )
    assert (run.run_dir, run.seed) == ("out/a", 7)
    assert (run.train.steps, run.train.batch_size, run.train.checkpoint_every) == (1000, 4, 0)
    assert (run.mesh.replica, run.mesh.fsdp, run.mesh.tensor) == (2, 4, 1)
    assert (run.data.path, run.model.init_from) == ("records", "hf://org/repo@main")
    assert run.optimizer.learning_rate == 1e-4
    assert run.optimizer.clip_norm is None
    assert run.data.speakers == ("A", "B")


def test_the_last_of_two_overrides_wins_and_a_section_is_merged():
    run = load_run("tiny", ["seed=1", "seed=2", "model.temporal={num_layers: 2}", "model.lora.rank=4"])
    assert run.seed == 2
    assert (run.model.temporal.num_layers, run.model.temporal.dim) == (2, 96)
    assert (run.model.lora.rank, run.model.lora.scaling) == (4, 2.0)


def test_a_preset_is_the_named_section_under_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {preset: kame_7b, oracle: tie, temporal: {context: 100}}\n")
    mine, kame = load_run(tmp_path / "mine.yaml").model, load_model("kame_7b")
    temporal = dataclasses.replace(kame.temporal, context=100)
    assert mine.architecture == dataclasses.replace(kame, oracle="tie", temporal=temporal)
    assert load_run("tiny", ["model.preset=moshi_7b"]).model.card == load_run("tiny").model.card


def test_a_preset_of_the_run_sets_every_training_rule_under_ones_own_settings(tmp_path):
    def chosen(run):
        values = to_dict(run)
        return {key: values[key.split(".")[0]][key.split(".")[1]] for key in RUN_PRESETS["reference"]}

    for name, settings in RUN_PRESETS.items():
        assert chosen(load_run("kame_7b", [f"preset={name}"])) == settings
    assert chosen(load_run("kame_7b")) == RUN_PRESETS["kame-jax"], "the corrections are the defaults"
    (tmp_path / "mine.yaml").write_text(
        "preset: reference\nmodel: {preset: kame_7b}\noracle: {causal: true}\n"
    )
    mine = load_run(tmp_path / "mine.yaml", ["data.mask_fill=true", "oracle.jitter=4"])
    assert (mine.oracle.tail, mine.oracle.causal, mine.oracle.jitter) == ("keep", True, 4)
    assert (mine.data.carry_oracle, mine.data.mask_fill) == (False, True)
    assert build(RunConfig, yaml.safe_load(to_yaml(mine))) == mine, "the settings say it all"
    (tmp_path / "mine.yaml").write_text("model: {preset: kame_7b}\npreset: moshi\n")
    with pytest.raises(InputError, match='line 2: preset: expected one of kame-jax, reference, got "moshi"'):
        load_run(tmp_path / "mine.yaml")


def test_a_preset_that_leads_back_to_itself_is_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text(f"model: {{preset: '{path}'}}\n")
    with pytest.raises(InputError, match="leads back to itself"):
        load_run(path)


@pytest.mark.quick
def test_all_problems_come_in_one_list():
    text = problems("train.steps=many", "trian.steps=3", "seed=-1", "model.delays=[0]", "abc")
    assert "override 'abc': expected dotted.key=value" in text
    text = problems("train.steps=many", "trian.steps=3", "seed=-1", "model.delays=[0]")
    assert text.startswith("tiny: 4 problems")
    assert 'train.steps: expected a whole number of at least 1, got "many"' in text
    assert "trian: unknown key; did you mean train?" in text
    assert "seed: expected a whole number of at least 0, got -1" in text
    assert "model.delays: needs 1 + n_q = 5 numbers, got 1" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.step=3", "train.step: unknown key; did you mean train.steps?"),
        ("steps=3", "did you mean train.steps?"),
        (
            "model.temporal.heads=3",
            "model.temporal.heads: unknown key; did you mean model.temporal.num_heads?",
        ),
        ("mesh.zzz=3", "mesh.zzz: unknown key; known here: replica, fsdp, tensor"),
        ("train.batch_size=true", "train.batch_size: expected a whole number of at least 1, got true"),
        ("train.batch_size=8.0", "expected a whole number of at least 1, got 8.0"),
        ("train.batch_size=null", "expected a whole number of at least 1, got null"),
        ("model.demux_text=1", "model.demux_text: expected true or false, got 1"),
        ("model.demux_text=yes", 'expected true or false, got "yes"'),
        ("data.path=3", "data.path: expected text, or null, got 3"),
        ("optimizer.eps=0", "optimizer.eps: expected a number above 0, got 0"),
        ("optimizer.beta1=1.5", "optimizer.beta1: expected a number from 0 to 1, got 1.5"),
        ("optimizer.eps=1e999", "expected a number above 0, got Infinity"),
        ("model.oracle=maybe", 'expected one of none, separate, tie, got "maybe"'),
        ("model.delays=3", "expected a list, each a whole number of at least 0, got 3"),
        ("model.delays=[0,1,x]", 'model.delays[2]: expected a whole number of at least 0, got "x"'),
        ("model=3", "model: expected a section of settings, got 3"),
        ("train.steps=[1", "override 'train.steps=[1': not valid YAML"),
        ("=3", "override '=3': expected dotted.key=value"),
        ("model.temporal.num_heads=5", "model.temporal.num_heads: must divide dim (96), got 5"),
        ("model.dep_q=9", "model.dep_q: must be at most n_q (4), got 9"),
        ("model.depth=null", "model.depth: needed because dep_q is 2, got null"),
        ("model.depth.schedule=[0,1,2]", "model.depth.schedule: needs dep_q = 2 numbers, got 3"),
        ("model.card=100", "model.card: must equal codec.quantizer.bins (256), got 100"),
        ("codec.quantizer.n_q=1", "codec.quantizer.n_q: the model uses 2 codebooks of a speaker, got 1"),
        ("codec.frame_rate=13", "codec.frame_rate: must divide the convolutions' 25 steps a second, got 13"),
        ("mesh.replica=0", "mesh.replica: expected a number of devices, or -1 for all that are left, got 0"),
        ("mesh.tensor=-1", "mesh.tensor: only one axis may be -1, and fsdp is"),
        ("train.micro_batches=3", "train.micro_batches: must divide batch_size (8), got 3"),
        ("data.speakers=[A,A]", "data.speakers: expected A, B or both, each once, got A, A"),
        (
            "model.preset=kame_7",
            "model.preset: no configuration file or name 'kame_7'; did you mean kame_7b?",
        ),
    ],
)
def test_an_error_says_what_where_and_what_was_expected(override, expected):
    assert expected in problems(override)


BOMB = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
"""Ten lines of aliases that stand for ten thousand million values."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "seed: 1\ntrain:\n  steps: no\n",
            'line 3: train.steps: expected a whole number of at least 1, got "no"',
        ),
        ("seed: 1\nseed: 2\n", "line 2: seed: written twice"),
        ("seed: [1\n", "not valid YAML"),
        ("seed: 1\n\ttrain: 3\n", "line 2: not valid YAML"),
        ("a: &a [*a]\n", "not valid YAML"),
        ("seed: 1\n", "model: missing, expected a section of settings"),
        ("model: {n_q: 2}\n", "model.temporal: missing"),
        ("", "expected `key: value` lines, got null"),
        ("- 1\n", "expected `key: value` lines, got [1]"),
        ("1: 2\n", "1: unknown key"),
        ("x: !!python/object:os.system 1\n", "not valid YAML"),
        (BOMB, "more than 100,000 values, those that aliases (*name) repeat included"),
        ("#" * 2**20 + "\n", "holds more than 1,048,576 bytes"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(text, expected, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_run(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "bad.yaml", tmp_path):
        with pytest.raises(InputError, match="is not UTF-8 text|no configuration file"):
            load_run(path)


def test_a_mistyped_name_suggests_the_nearest():
    with pytest.raises(InputError, match="no configuration file or name 'kame_7'; did you mean kame_7b"):
        find_config("kame_7")
    with pytest.raises(InputError, match="ready ones: hibiki_2b, kame_7b"):
        find_config("qqqqqq")
    with pytest.raises(InputError, match="no `model` section, found: codec"):
        load_model("mimi")


def test_a_configuration_made_in_python_is_validated_by_the_same_rules():
    config = ModelConfig(
        n_q=2,
        dep_q=1,
        card=8,
        text_card=3,
        delays=(0, 0),
        temporal=TransformerConfig(dim=8, num_heads=3, num_layers=1, ffn_dim=0),
        depth=DepthConfig(dim=6, num_heads=2, num_layers=1, ffn_dim=4, gating="swish"),
    )
    with pytest.raises(InputError) as caught:
        validate(config)
    text = str(caught.value)
    assert "temporal.ffn_dim: expected a whole number of at least 1, got 0" in text
    assert 'depth.gating: expected one of none, silu, gelu, sigmoid, relu, tanh, got "swish"' in text
    fixed = dataclasses.replace(
        config,
        temporal=TransformerConfig(dim=8, num_heads=3, num_layers=1, ffn_dim=4),
        depth=DepthConfig(dim=6, num_heads=2, num_layers=1, ffn_dim=4),
    )
    with pytest.raises(InputError, match="num_heads: must divide dim") as caught:
        validate(fixed)


def test_a_list_of_fixed_length_keeps_its_length():
    @dataclasses.dataclass(frozen=True)
    class Shift:
        frames: tuple[int, int] = (1, 10)

    assert build(Shift, {"frames": [2, 3]}) == Shift((2, 3))
    for frames in ([1], [1, 2, 3], 4):
        with pytest.raises(InputError, match="frames: expected a list of 2, each a whole number, got"):
            build(Shift, {"frames": frames})


def test_plain_values_are_only_what_yaml_and_json_know():
    def kinds(value):
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        return set().union({list}, *map(kinds, value)) if isinstance(value, list) else {type(value)}

    assert kinds(to_dict(load_run("hibiki_2b"))) <= {list, int, float, str, bool, type(None)}


def test_a_use_may_have_defaults_of_its_own_and_the_file_wins(tmp_path):
    file = tmp_path / "llm.yaml"
    file.write_text("model: m\n")
    assert load_settings(LLMConfig, file, defaults={"max_tokens": 500}).max_tokens == 500
    file.write_text("model: m\nmax_tokens: 60\n")
    assert load_settings(LLMConfig, file, defaults={"max_tokens": 500}).max_tokens == 60
