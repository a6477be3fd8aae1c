"""Draws a comparison: the scores of each model, with lines from seed to seed, and the differences to the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ela_yolo.study.statistics import Difference


def draw_comparison(
    title: str, metric: str, scores_of: Mapping[str, Sequence[float]], differences: Sequence[Difference]
) -> Any:
    """Return a figure of matplotlib with both panels."""
    from matplotlib.figure import Figure

    names, scores = [*scores_of], [*scores_of.values()]
    if len(names) > 6:  # side by side they would be too wide for a page
        figure = Figure(figsize=(1 + 0.9 * len(names), 7), layout="constrained")
        left, right = figure.subplots(2, 1)
    else:
        figure = Figure(figsize=(max(8, 3 + 1.4 * len(names)), 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(len(names), max(1.2, len(names) - 1)))
    for by_seed in zip(*scores, strict=True):
        left.plot(range(len(names)), by_seed, color="#9aa5b1", linewidth=0.8, zorder=1)
    for place, values in enumerate(scores):
        left.scatter([place] * len(values), values, color="#3b6fb6", s=28, zorder=2)
        left.hlines(mean(values), place - 0.22, place + 0.22, color="black", linewidth=2, zorder=3)
    left.set(title=f"{metric} of each seed, and the mean", xticks=range(len(names)), xticklabels=names)
    left.set_xlim(-0.6, len(names) - 0.4)
    right.axhline(0, color="black", linewidth=1)
    for place, each in enumerate(differences):
        right.scatter([place - 0.1] * len(each.values), each.values, color="#d1793c", s=28)
        spread = [[each.mean - each.low], [each.high - each.mean]] if each.has_enough_seeds else None
        right.errorbar([place + 0.1], [each.mean], yerr=spread, color="black", fmt="_", ms=14, mew=2, capsize=4)
    right.set(
        title=f"difference to {names[0]},\nand 95% interval over seeds",
        xticks=range(len(differences)),
        xticklabels=[each.model for each in differences],
        xlim=(-0.6, len(differences) - 0.4),
    )
    for axes in (left, right):
        axes.title.set_size(10)
        if len(names) > 2:  # so that long names do not overlap
            for label in axes.get_xticklabels():
                label.set(rotation=20, ha="right", rotation_mode="anchor")
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return figure
