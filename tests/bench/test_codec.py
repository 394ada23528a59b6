"""`bench codec` gives a streamed frame's time next to its floor and to the reference's."""

import json
import sys

import pytest

from kame_jax.bench import measure
from kame_jax.cli.main import main
from kame_jax.errors import InputError


@pytest.mark.slow  # compiles the released codec's sizes
def test_both_directions_are_measured_with_their_floor(capsys):
    assert main(["bench", "codec", "--frames", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for row in (result["encode"], result["decode"]):
        assert 0 < row["floor_ms"] < row["ms_p50"] <= row["ms_p95"] <= row["ms_p99"]
        assert row["bytes"] > 50_000_000


def test_senseless_numbers_are_refused(capsys):
    assert main(["bench", "codec", "--frames", "0"]) == 2
    assert "--frames 0: expected at least 1" in capsys.readouterr().err


def test_the_reference_answers_in_its_last_line_or_says_why_not(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('chatter')\nprint([float(sys.argv[1])])\n")
    assert measure.run_reference(sys.executable, ["0.5"], script) == [0.5]
    script.write_text("raise SystemExit('no torch here')\n")
    with pytest.raises(InputError, match="no torch here"):
        measure.run_reference(sys.executable, [], script)
