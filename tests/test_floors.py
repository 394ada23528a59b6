"""The house stands: imports go down the floors, files hold one idea, and nothing is hidden at module level."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.processes import environment

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kame_jax"

# Floors of the rooms, low to high; a room may import its own floor and those below.
FLOORS = {
    room: floor
    for floor, rooms in enumerate(
        (
            "errors assets",
            "config files hub storage streams picture",
            "oracle llm model codec sharding",
            "checkpoint",
            "interop",
            "data decode",
            "make train tandem",
            "serve evaluation lab plan bench demo",
            "cli __main__",
        )
    )
    for room in rooms.split()
}
MAX_LINES = 450
ALL = sorted(
    path for folder in ("kame_jax", "convert", "launch", "tests") for path in (ROOT / folder).rglob("*.py")
)
HOUSE = sorted(PACKAGE.rglob("*.py"))


def name(path):
    return str(path.relative_to(ROOT))


def room(path):
    """The room that a file of the package belongs to; None for the package's own `__init__`."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if first == "__init__" else first


def imported_rooms(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        yield from (module.split(".")[1] for module in modules if re.match(r"kame_jax\.", module))


def is_mutable(value):
    """Whether an expression makes an empty container or a counter, which only makes sense when somebody changes it."""
    if isinstance(value, ast.Call):
        made = ast.unparse(value.func).rsplit(".", 1)[-1]
        return made in {
            "list",
            "dict",
            "set",
            "defaultdict",
            "deque",
            "Counter",
            "OrderedDict",
            "count",
            "default_rng",
        }
    return isinstance(value, ast.List | ast.Dict | ast.Set) and not (
        getattr(value, "elts", []) + getattr(value, "keys", [])
    )


@pytest.mark.parametrize("path", HOUSE, ids=name)
def test_imports_go_down_the_floors(path):
    rooms = set(imported_rooms(ast.parse(path.read_text()))) - {"__version__", "__doc__"}
    if room(path) is None:
        assert not rooms, "the package itself imports no room"
        return
    assert room(path) in FLOORS, f"{room(path)} has no floor: give it one here"
    up = {other for other in rooms if FLOORS[other] > FLOORS[room(path)]}
    assert not up, f"{room(path)} imports upwards: {up}"


@pytest.mark.parametrize("path", ALL, ids=name)
def test_a_file_opens_with_its_purpose_and_holds_one_idea(path):
    text = path.read_text()
    tree = ast.parse(text)
    if tree.body:
        assert ast.get_docstring(tree), "a file opens with what it is for"
    assert text.count("\n") <= MAX_LINES, "a file that long holds two ideas"


@pytest.mark.parametrize("path", HOUSE, ids=name)
def test_no_state_is_kept_at_module_level(path):
    tree = ast.parse(path.read_text())
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)], "no `global`"
    cached = re.findall(r"^\s*@(?:functools\.)?(?:lru_cache|cache)\b", path.read_text(), re.MULTILINE)
    assert not cached, "a cache is state: keep the value where it is used"
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            assert not is_mutable(node.value), (
                f"line {node.lineno}: {ast.unparse(node)} can be changed from anywhere"
            )


@pytest.mark.parametrize("path", ALL, ids=name)
def test_nothing_is_left_undone(path):
    if path == Path(__file__):
        return
    found = re.findall(
        r"NotImplementedError|\bTODO\b|\bFIXME\b|pytest\.skip\(|xfail|importorskip", path.read_text()
    )
    assert not found


def test_a_wheel_carries_the_ready_configurations():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"configs": "kame_jax/configs"}
    assert wheel["packages"] == ["kame_jax"]


def test_pytorch_is_not_a_dependency_and_every_other_one_has_both_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    assert not [text for text in wanted if re.match(r"(torch|moshi|tensorflow)\b(?!-)", text)]
    bounded = r"[\w.-]+(\[.+\])?>=[\d.]+,<[\d.]+(; .+)?"
    assert not [text for text in wanted if not re.fullmatch(rf"kame_jax\[.+\]|{bounded}", text)]


def test_make_test_and_ci_agree():
    for target in ("lint", "test", "isa"):
        assert f"make --no-print-directory {target}\n" in (ROOT / ".ci/run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "quick", "slow", "isa", "lint", "golden", "check"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_flags_of_the_compiler_reach_every_process(monkeypatch):
    """Or `make isa` would leave out the tests that start processes of their own."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX")
    flags = environment(devices=8)["XLA_FLAGS"].split()
    assert flags == ["--xla_cpu_max_isa=AVX", "--xla_force_host_platform_device_count=8"]
    setting = [path for path in (ROOT / "tests").rglob("*.py") if "XLA_FLAGS" in path.read_text()]
    assert {name(path) for path in setting} == {"tests/processes.py", "tests/test_floors.py"}
