"""The curves of a run as a PNG: losses and accuracies over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from kame_jax.files import write_whole
from kame_jax.train.metrics import Line

NAMES = {
    "text_non_pad": "text (words)",
    "text_pad": "text (padding)",
    "audio_semantic": "audio, semantic",
    "audio_acoustic": "audio, acoustic",
    "audio_semantic_user": "user audio, semantic",
    "audio_acoustic_user": "user audio, acoustic",
}


def plot_metrics(lines: Sequence[Line], path: Path) -> None:
    """Draws what `metrics.jsonl` holds; evaluation, where there is one, as dots of the same colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    for panel, kind in zip(panels, ("loss", "accuracy"), strict=True):
        for index, (name, label) in enumerate(NAMES.items()):
            for prefix, style in (("", "-"), ("eval/", "o")):
                points = _points(lines, f"{prefix}{kind}/{name}")
                if points:
                    text = f"{label}, evaluation" if prefix else label
                    panel.plot(*zip(*points, strict=True), style, color=f"C{index}", label=text, markersize=5)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.lines:
            panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    panels[0].set_ylabel("cross-entropy (nats per token)")
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylabel("accuracy (share of tokens)")
    panels[1].set_ylim(0, 1)
    panels[1].set_xlabel("optimizer step")
    panels[0].set_title("Training losses and accuracies")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: figure.savefig(file, dpi=120, format="png"))


def _points(lines: Sequence[Line], name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]
