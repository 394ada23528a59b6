"""`bench convert` gives its figures with their floor, and cleans up."""

import json

from kame_jax.cli.main import main


def test_the_figures_come_with_their_floor(tmp_path, capsys):
    assert main(["bench", "convert", "--config", "tiny", "--scratch", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["bytes"] > 1_000_000
    for name in ("to_jax", "to_torch"):
        assert result[name]["ratio"] == result[name]["seconds"] / result["floor_seconds"]
        assert result[name]["peak_rss"] > 0
    assert list(tmp_path.iterdir()) == []
