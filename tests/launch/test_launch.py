"""Launchers: clean shell, dry runs that say everything, manifests that fit their schema, restarts on status 75."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from kame_jax.config import find_config
from kame_jax.errors import PREEMPTED
from kame_jax.plan.target import has_compiler

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
SETTINGS = {
    "NAME": "kame",
    "ZONE": "us-west4-a",
    "TYPE": "v5litepod-64",
    "RUNTIME": "v2-alpha-tpuv5-lite",
    "REPO": "https://example.org/kame_jax.git",
    "IMAGE": "registry.example.org/kame_jax:tpu",
    "SLICES": "2",
    "HOSTS": "16",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "8x8",
    "CLAIM": "kame-data",
}


def launched(script, *arguments, settings=SETTINGS, status=0):
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env=bare | settings,
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_shellcheck_finds_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    files = [f"launch/{name}" for name in SCRIPTS]
    done = subprocess.run(
        [str(shellcheck), "-x", *files], cwd=LAUNCH.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_status_that_asks_for_a_restart_is_the_trainers():
    assert f"RESTART={PREEMPTED}" in (LAUNCH / "lib.sh").read_text()


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("gpu_box.sh", ("tiny", "data.path=d"), ["kame-jax train tiny data.path=d"]),
        (
            "bench_gpu.sh",
            ("out",),
            ["not\\ slow", "bench train kame_7b_1xh200_lora --steps 10", "--sessions 64\\,128 --int8-cache"],
        ),
        ("slurm.sh", ("tiny",), ["srun --kill-on-bad-exit=1 kame-jax train tiny", "scontrol requeue"]),
        ("tpu_vm.sh", ("create",), ["tpu-vm create kame --zone us-west4-a --accelerator-type v5litepod-64"]),
        ("tpu_vm.sh", ("setup",), ["--worker=all", "git\\ clone\\ https://example.org/kame_jax.git"]),
        (
            "tpu_vm.sh",
            ("train", "tiny", "data.path=d"),
            ["--worker=all", "kame-jax", "LIBTPU_INIT_ARGS", "75"],
        ),
        ("tpu_vm.sh", ("delete",), ["tpu-vm delete kame --zone us-west4-a --quiet"]),
        ("tpu_queued.sh", ("tiny",), ["queued-resources create kame", "--worker=all", "SUSPENDED"]),
    ],
)
def test_a_dry_run_says_what_would_happen(script, arguments, said):
    text = launched(script, "--dry-run", *arguments)
    for words in said:
        assert words in text


def manifest(*arguments, **settings):
    return yaml.safe_load(launched("gke_jobset.sh", "--dry-run", *arguments, settings=SETTINGS | settings))


def test_the_jobset_fits_its_schema():
    schema = json.loads((Path(__file__).parent / "schemas" / "jobset.json").read_text())
    found = manifest("kame_7b_v5e_64", "mesh.replica=2", "data.path=it's here")
    jsonschema.Draft202012Validator(schema).validate(found)
    [job] = found["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 16
    [container] = spec["template"]["spec"]["containers"]
    assert container["args"] == ["train", "kame_7b_v5e_64", "mesh.replica=2", "data.path=it's here"]
    assert {entry["name"] for entry in container["env"]} >= {"LIBTPU_INIT_ARGS", "JAX_COMPILATION_CACHE_DIR"}
    # Only what is wrong with the run ends the set; the status of a saved run starts it again.
    codes = spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    assert PREEMPTED not in codes


def test_a_schema_that_is_broken_is_noticed():
    schema = json.loads((Path(__file__).parent / "schemas" / "jobset.json").read_text())
    found = manifest("tiny")
    found["spec"]["replicatedJobs"][0]["template"]["spec"]["completion"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(found)


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "message"),
    [
        ("gpu_box.sh", (), SETTINGS, "usage: gpu_box.sh"),
        ("tpu_vm.sh", ("create",), {}, "set NAME, for example NAME=kame"),
        ("tpu_vm.sh", ("frob",), SETTINGS, "expected create, setup, train, log or delete, got 'frob'"),
        ("gke_jobset.sh", ("tiny",), {"NAME": "kame"}, "set IMAGE"),
        ("gpu_box.sh", ("--dry-run", "tinny"), SETTINGS, "no configuration 'tinny': expected a name"),
        ("gpu_box.sh", ("--dry-run", "/no/run.yaml"), SETTINGS, "/no/run.yaml: no such file"),
        ("slurm.sh", ("--dry-run", "pods/tiny.yaml"), SETTINGS, "no configuration 'pods/tiny.yaml'"),
        ("tpu_vm.sh", ("--dry-run", "train", "tinny"), SETTINGS, "no configuration 'tinny'"),
        ("tpu_queued.sh", ("--dry-run", "--once", "tinny"), SETTINGS, "no configuration 'tinny'"),
        # Pods see the claim, not this checkout.
        (
            "gke_jobset.sh",
            ("--dry-run", "configs/tiny.yaml"),
            SETTINGS,
            "no configuration 'configs/tiny.yaml'",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(script, arguments, settings, message):
    text = launched(script, *arguments, settings=settings, status=2)
    assert message in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("gpu_box.sh", ["configs/pods/kame_7b_8xh100.yaml"]),
        ("tpu_vm.sh", ["train", "configs/tiny.yaml"]),
        ("tpu_vm.sh", ["train", "/mnt/data/run.yaml"]),
        ("gke_jobset.sh", ["/data/run.yaml"]),
    ],
)
def test_a_configuration_may_be_a_file_where_the_job_looks_for_it(script, arguments):
    assert arguments[-1] in launched(script, "--dry-run", *arguments)


@pytest.mark.parametrize(("ends", "status", "runs"), [("75 75 0", 0, 3), ("75 1", 1, 2), ("2", 2, 1)])
def test_a_box_starts_a_saved_run_again_and_no_other(tmp_path, ends, status, runs):
    """A stand-in for kame-jax that ends with one status after the other."""
    fake = tmp_path / "kame-jax"
    fake.write_text(
        "#!/usr/bin/env bash\n"
        f'cd "{tmp_path}"; echo "$@ $JAX_OPTIMIZATION_LEVEL" >>calls; n=$(wc -l <calls); statuses=({ends})\n'
        'exit "${statuses[$((n - 1))]}"\n'
    )
    fake.chmod(0o755)
    launched("gpu_box.sh", "tiny", "a=b", settings={"KAME_JAX": str(fake)}, status=status)
    assert (tmp_path / "calls").read_text().splitlines() == ["train tiny a=b O1"] * runs


@pytest.mark.parametrize("name", ["tpu.env", "gpu.env"])
def test_every_flag_is_explained(name):
    lines = (LAUNCH / "env" / name).read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert above.startswith("#"), f"{line}: no comment above"


@pytest.mark.parametrize(("name", "extra"), [("tpu", "tpu"), ("gpu", "cuda13")])
def test_images_install_the_package_and_run_its_command(name, extra):
    text = (LAUNCH / "docker" / f"Dockerfile.{name}").read_text()
    assert f"pip install '.[{extra}]'" in text
    assert 'ENTRYPOINT ["kame-jax"]' in text
    copied = [
        source for line in text.splitlines() if line.startswith("COPY ") for source in line.split()[1:-1]
    ]
    assert all((LAUNCH.parent / source).exists() for source in copied)
    ignored = (LAUNCH.parent / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    assert "*" in ignored


@pytest.mark.parametrize("name", ["tpu", "gpu"])
def test_images_run_as_a_user_of_their_own(name):
    lines = (LAUNCH / "docker" / f"Dockerfile.{name}").read_text().splitlines()
    assert lines.index("USER kame") > max(i for i, line in enumerate(lines) if line.startswith("RUN "))
    pod = manifest("tiny")["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsUser": 1000, "fsGroup": 1000}
    assert "useradd --create-home --uid 1000 kame" in "".join(lines)


def test_what_others_publish_is_taken_by_digest():
    """A tag can be moved to other code; a digest cannot."""
    workflows = [path.read_text() for path in (LAUNCH.parent / ".github").rglob("*.yml")]
    actions = [use for text in workflows for use in re.findall(r"uses: (\S+)", text)]
    images = [path.read_text() for path in (LAUNCH / "docker").iterdir()]
    bases = [base for text in images for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE)]
    assert actions
    assert len(bases) == len(images)
    assert all(re.search(r"@[0-9a-f]{40}$", use) for use in actions), actions
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base) for base in bases), bases


def test_the_page_names_configurations_that_are_there():
    for word in re.findall(r"\bkame_7b_\w+", (LAUNCH.parent / "docs" / "pages" / "launch.md").read_text()):
        find_config(word)


@pytest.mark.skipif(not has_compiler(), reason="pip install 'kame_jax[plan]' brings the TPU compiler")
@pytest.mark.slow
def test_the_tpu_compiler_knows_every_flag():
    line = next(
        text for text in (LAUNCH / "env" / "tpu.env").read_text().splitlines() if text.startswith("LIBTPU")
    )
    code = (
        "from kame_jax.plan.target import parse_target, tpu_devices\n"
        "print(len(tpu_devices(parse_target('v5e:2x4'))))\n"
    )
    name, _, flags = line.partition("=")
    for text, fine in ((flags, True), ("--xla_tpu_no_such_flag=true", False)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {name: text},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout.strip() == "8") == fine, done.stderr
