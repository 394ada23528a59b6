"""Plans: closed-form ones at once, compiled ones with the real compiler of TPUs (slow)."""

import json
import math
from pathlib import Path

import pytest

from kame_jax.cli.main import main
from kame_jax.config import load_run
from kame_jax.errors import InputError
from kame_jax.plan import make_plan, remedies
from kame_jax.plan.compiled import Compiled
from kame_jax.plan.estimate import abstract_mesh, estimate_memory, step_flops
from kame_jax.plan.hlo import collectives
from kame_jax.plan.report import _sent, row_length
from kame_jax.plan.target import has_compiler, parse_target
from tests.train.small import run_config, with_settings

GIB = 1 << 30


def planned(capsys, *arguments):
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_state_is_counted_to_the_byte():
    config = run_config("run", "data", batch_size=8)
    memory = estimate_memory(config, abstract_mesh(config, 1), 24)
    # float32 weights and two moments of each; counters of four groups, two each, and the step.
    weights = 4 * 3 * 5_000
    assert memory.arguments > weights
    halves = estimate_memory(
        with_settings(config, optimizer__moments="bfloat16"), abstract_mesh(config, 1), 24
    )
    assert (memory.arguments - halves.arguments) * 3 == pytest.approx(memory.arguments, abs=400)


def test_a_plan_for_gpus_says_that_it_is_an_estimate(capsys):
    found = planned(capsys, "kame_7b_8xh100", "--topology", "8xH100")
    assert (found["method"], found["fits"], found["compile_seconds"]) == ("estimated", True, None)
    assert found["peak_bytes"] == found["argument_bytes"] + found["temporary_bytes"] <= found["limit_bytes"]
    # 12 bytes a parameter, an eighth of them; embeddings and norms have no part in what does not divide.
    assert found["argument_bytes"] == pytest.approx(7_818_805_248 * 12 / 8, rel=0.01)
    assert 0.3 < found["predicted_mfu"] < 1


def test_what_does_not_fit_is_made_to_fit(capsys):
    found = planned(
        capsys,
        "kame_7b",
        "--topology",
        "8xH100",
        "--frames",
        "4096",
        "train.batch_size=128",
        "train.dtype=bfloat16",
    )
    assert not found["fits"]
    assert found["remedies"]
    again = planned(
        capsys, "kame_7b", "--topology", "8xH100", "--frames", "4096", "train.batch_size=128",
        "train.dtype=bfloat16", *found["remedies"],
    )  # fmt: skip
    assert again["fits"]


def test_nothing_makes_a_7b_fit_one_gpu_in_full():
    config = with_settings(load_run("kame_7b"), train__batch_size=1)
    assert remedies(config, parse_target("1xA100"), 512, lambda text: None) is None


def test_a_row_is_as_long_as_train_makes_it():
    config = with_settings(load_run("kame_7b"), data__max_frames=1021)
    assert row_length(config) == 1024
    assert row_length(config, 100) == 104
    with pytest.raises(InputError, match="data.max_frames: null"):
        row_length(load_run("kame_7b"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology", "8xH100"], "data.max_frames: null"),
        (["--topology", "8xH100", "--frames", "0"], "--frames 0: expected at least 1"),
        (["--topology", "8xH100", "--frames", "64", "train.batch_size=9"], "train.batch_size: 9 rows"),
        (["--topology", "8xH100", "--frames", "64", "mesh.fsdp=3"], "mesh: "),
        (["--topology", "8xH100", "--frames", "64", "--slices", "2", "mesh.replica=1"], "only whole copies"),
        (["--topology", "8xH100", "--decode"], "there is no GPU compiler here"),
        (["--topology", "v5x:8x8", "--frames", "64"], "expected a TPU topology"),
    ],
)
def test_a_plan_that_cannot_be_says_why(arguments, message, capsys):
    assert main(["plan", "kame_7b", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_what_slices_hand_each_other_goes_over_the_network():
    """As the TPU's compiler prints it: a sum inside a slice, then a transfer between hosts."""
    text = """\
ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %sum = f32[8,4]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %part = (f32[2,4]{1,0}, u32[], token[]) send(%y, %after), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}
  %other = (f32[9,4]{1,0}, u32[], token[]) send(%z, %after), channel_id=3, is_host_transfer=true
}
"""
    assert _sent(Compiled(True, None, None, 0.0, tuple(collectives(text)))) == (2 * 128 * 3 / 4, 32)


def test_people_get_a_page(capsys):
    assert main(["plan", "kame_7b_8xh100", "--topology", "8xH100"]) == 0
    page = capsys.readouterr().out
    assert "8xH100: 8 H100, mesh replica 1 x fsdp 8 x tensor 1, estimated" in page
    assert "fits: yes" in page


tpu = pytest.mark.skipif(not has_compiler(), reason="pip install 'kame_jax[plan]' brings the TPU compiler")


def check_gathers(shapes):
    """Of all-gathers: a layer's weights at a time, a codebook's table or a page of one, and the heads."""
    for shape in shapes:
        dtype, _, rest = shape.partition("[")
        sizes = [int(size) for size in rest.rstrip("]").split(",") if size]
        if dtype not in ("bf16", "f32"):
            continue
        # The largest outside the layers is the text head.
        assert math.prod(sizes) <= 32_000 * 4096, shape
        assert sizes[0] != 32, f"all temporal layers at once: {shape}"
        assert sizes[:2] != [6, 8], f"all depth layers at once: {shape}"
        assert 32_001 not in sizes, f"a whole table of texts: {shape}"
        assert not {7, 16} & set(sizes) or 2049 not in sizes, f"the tables of all codebooks: {shape}"


TPU_PRESETS = [
    (f"kame_7b_{name}{kind}", topology)
    for name, topology in (
        ("v5e_64", "v5e-64"),
        ("v5e_256", "v5e-256"),
        ("v5p_32", "v5p-32"),
        ("v6e_64", "v6e-64"),
    )
    for kind in ("", "_lora")
]


@pytest.mark.parametrize(("preset", "topology"), TPU_PRESETS)
def test_the_table_holds_a_compiled_plan_of_every_preset_as_it_is(preset, topology):
    kept = json.loads((Path(__file__).parents[2] / "launch" / "plans.json").read_text())[preset][topology]
    config = load_run(preset)
    length = row_length(config)
    assert kept["method"] == "compiled"
    assert kept["fits"]
    assert 0 < kept["peak_bytes"] < kept["limit_bytes"]
    assert kept["frames"] == config.train.batch_size * length
    assert kept["flops"] == step_flops(config, length)[0]
    assert kept["mesh"] == dict(abstract_mesh(config, kept["devices"]).shape)
    assert kept["gathers"]
    check_gathers(one["shape"] for one in kept["gathers"])


@tpu
@pytest.mark.slow
@pytest.mark.parametrize(("preset", "topology"), TPU_PRESETS)
def test_a_preset_fits_its_pod_and_gathers_no_stack_of_weights(preset, topology):
    config = load_run(preset)
    plan = make_plan(config, parse_target(topology), row_length(config))
    assert plan.fits
    assert plan.memory.peak < plan.limit
    check_gathers(one.shape for one in plan.compiled.collectives if one.kind == "all-gather")


@tpu
@pytest.mark.slow
def test_the_estimate_is_near_what_the_compiler_says():
    config = load_run("kame_7b_v5e_64")
    plan = make_plan(config, parse_target("v5e:8x8"), row_length(config))
    guess = estimate_memory(config, abstract_mesh(config, 64), row_length(config))
    assert guess.arguments == pytest.approx(plan.memory.arguments, rel=0.02)
    assert 0.5 < guess.temporaries / plan.memory.temporaries < 2


@tpu
@pytest.mark.slow
def test_a_small_step_gathers_a_layer_at_a_time_and_gives_each_device_its_part_of_the_gradient():
    layers = 5
    config = with_settings(
        run_config("run", "data", batch_size=8, dtype="bfloat16"),
        model__temporal__dim=512,
        model__temporal__ffn_dim=1024,
        model__temporal__num_layers=layers,
    )
    plan = make_plan(config, parse_target("v5e:2x4"), 24)
    assert plan.fits
    weights = {3 * 512 * 512, 512 * 512, 2 * 1024 * 512, 1024 * 512}
    kinds = set()
    for one in plan.compiled.collectives:
        size = math.prod(int(n) for n in one.shape.partition("[")[2].rstrip("]").split(",") if n)
        assert size not in {layers * n for n in weights}, f"all layers at once: {one}"
        if size in weights:
            assert one.times == layers, f"outside the loop over layers: {one}"
            kinds.add(one.kind)
    assert kinds == {"all-gather", "reduce-scatter"}


@tpu
@pytest.mark.slow
def test_a_step_that_is_too_large_is_refused():
    large = with_settings(load_run("kame_7b"), train__batch_size=8, train__dtype="bfloat16")
    refused = make_plan(large, parse_target("v5e:2x4"), 64)
    assert not refused.fits
    assert refused.memory.peak > refused.limit
