"""`bench convert` gives its figures with their floor, and cleans up."""

import argparse
import json

from kame_jax.cli import bench_convert


def test_the_figures_come_with_their_floor(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    bench_convert.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", "--config", "tiny", "--scratch", str(tmp_path), "--json"])
    args.func(args)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["bytes"] > 1_000_000
    for name in ("to_jax", "to_torch"):
        assert result[name]["ratio"] == result[name]["seconds"] / result["floor_seconds"]
        assert result[name]["peak_rss"] > 0
    assert list(tmp_path.iterdir()) == []
