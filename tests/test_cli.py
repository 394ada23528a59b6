"""The command line: quick to answer, one clear line for each ending, and the exit statuses that scripts rely on."""

import json
import logging
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

import kame_jax
from kame_jax.cli import common
from kame_jax.cli import main as cli
from kame_jax.errors import InputError


@pytest.fixture
def command(monkeypatch):
    """Installs a command called `probe` whose `run` is the given function; returns the runner of command lines."""

    def install(run):
        def add_parser(subparsers):
            parser = subparsers.add_parser("probe", help="a command of the tests")
            common.add_config(parser)
            common.add_common(parser)
            parser.set_defaults(func=run)

        module = types.ModuleType("kame_jax.cli.probe")
        module.add_parser = add_parser
        monkeypatch.setitem(sys.modules, "kame_jax.cli.probe", module)
        monkeypatch.setattr(cli, "COMMANDS", ("probe",))
        return lambda *argv: cli.main(["probe", "tiny", *argv])

    return install


def raising(error):
    def run(args):
        raise error

    return run


@pytest.mark.quick
def test_help_and_version_answer_at_once_without_loading_jax():
    code = (
        "import sys\n"
        "from kame_jax.cli.main import main\n"
        "status = main(['--help'])\n"
        "heavy = {'jax', 'flax', 'matplotlib', 'orbax', 'grain', 'soundfile'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else status)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    for name in cli.COMMANDS:
        assert name in done.stdout
    # Without jax it takes 0.15 s; importing jax alone takes over a second. The bound leaves room for a busy machine.
    assert seconds < 5


def test_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"kame-jax {kame_jax.__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    assert cli.main([name, "--help"]) == 0
    assert f"kame-jax {name}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["dmeo"], ["--nonsense"]])
def test_bad_usage_is_one_line_and_status_2(argv, capsys):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "see kame-jax --help" in err


def test_without_arguments_the_help_is_printed(capsys):
    assert cli.main([]) == 0
    without = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert without == capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "output", "status", "said"),
    [
        ("--help", "| true", 1, ""),
        ("--help", "> /dev/full", 1, "kame-jax: <stdout>: No space left on device\n"),
        ("nonsense", "2> /dev/full", 2, ""),
    ],
)
def test_an_output_that_takes_nothing_ends_with_at_most_one_line(arguments, output, status, said):
    """Run as a user may, by `python -m`: what is left over when the interpreter ends is part of it."""
    line = f"set -o pipefail; {sys.executable} -m kame_jax {arguments} {output}"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=buffered)
    assert (done.returncode, done.stderr) == (status, said)


def test_a_shell_completes_commands_and_options(capsys):
    assert cli.main(["completion", "bash"]) == 0
    line = "kame-jax stream --orac"
    script = (
        f'{capsys.readouterr().out}\nkame-jax() {{ {sys.executable} -m kame_jax "$@"; }}\n'
        f"COMP_WORDS=({line}) COMP_CWORD=2 COMP_LINE='{line}' COMP_POINT={len(line)}\n"
        '_python_argcomplete kame-jax --orac stream\necho "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--oracle"]


def test_overrides_may_stand_around_options(command):
    seen = {}
    run = command(lambda args: seen.update(config=common.read_config(args), json=args.json))
    assert run("seed=1", "--json", "train.steps=3") == 0
    assert (seen["config"].seed, seen["config"].train.steps, seen["json"]) == (1, 3, True)


def test_an_argument_that_is_neither_option_nor_override_is_bad_usage(command, capsys):
    assert command(lambda args: None)("--json", "--steps=3") == 2
    assert "unrecognized arguments: --steps=3" in capsys.readouterr().err


def test_a_result_is_one_json_object_the_last_line_of_stdout(command, capsys):
    def run(args):
        common.log("working")
        result = {"loss": np.float32(0.5), "steps": np.arange(2), "bad": float("nan"), "out": Path("a/b")}
        common.emit(args, result | {"parts": [{"x": np.int64(1)}]})

    assert command(run)("--json") == 0
    out, err = capsys.readouterr()
    expected = {"loss": 0.5, "steps": [0, 1], "bad": None, "out": "a/b", "parts": [{"x": 1}]}
    assert json.loads(out.splitlines()[-1]) == expected
    assert err == "working\n"
    assert command(run)() == 0
    assert capsys.readouterr().out.startswith("loss: 0.5\n")


def test_a_printed_configuration_is_the_resolved_one(command, capsys, tmp_path):
    run = command(lambda args: pytest.fail("should have stopped") if common.read_config(args) else None)
    assert run("--print-config", "seed=5") == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert common.load_run(tmp_path / "config.yaml").seed == 5
    assert run("--print-config", "--json") == 0
    assert json.loads(capsys.readouterr().out)["model"]["n_q"] == 4


def test_bad_input_is_status_2_with_all_problems(command, capsys):
    assert command(common.read_config)("train.steps=x", "seeed=1") == 2
    assert capsys.readouterr().err.splitlines() == [
        "kame-jax: tiny: 2 problems",
        "  override 'seeed=1': seeed: unknown key; did you mean seed?",
        "  override 'train.steps=x': train.steps: expected a whole number of at least 1, got \"x\"",
    ]
    assert command(raising(InputError("a.wav: no such file")))() == 2
    assert capsys.readouterr().err == "kame-jax: a.wav: no such file\n"


def test_failure_at_work_is_status_1_and_one_line_unless_debugging(command, capsys, monkeypatch):
    monkeypatch.delenv("KAME_JAX_DEBUG", raising=False)
    run = command(raising(RuntimeError("out of\nmemory")))
    assert run() == 1
    assert capsys.readouterr().err == "kame-jax: RuntimeError: out of memory (--debug shows where)\n"
    assert run("--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_without_a_traceback(command, capsys):
    assert command(raising(KeyboardInterrupt()))() == 130
    assert capsys.readouterr().err == "kame-jax: interrupted\n"


def test_a_warning_is_one_plain_line_whatever_the_root_logger_does(command, capsys):
    loud = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(loud)
    try:
        assert command(lambda args: logging.getLogger("kame_jax.codec").warning("cut"))() == 0
    finally:
        logging.getLogger().removeHandler(loud)
    assert capsys.readouterr().err == "cut\n"
