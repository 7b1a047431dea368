"""The bench's figures: what is drawn is what was given, and labels do not meet."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from prunekit.course import plots
from prunekit.course.verdict import Standing


def row(method: str, miou: float, macs: float, seeds: int = 3) -> Standing:
    spread = 0.01 if seeds > 1 else math.nan
    return Standing(method, seeds, miou, spread, 0.1, 0.2, macs, 0.0, 0.1, "within noise")


def test_places_are_moved_apart_and_no_further_than_needed() -> None:
    assert plots.apart([0.0, 5.0, 1.0], 1.0) == [0.0, 5.0, 1.0]
    assert plots.apart([0.0, 0.0, 0.0], 1.0) == [-1.0, 0.0, 1.0]
    assert plots.apart([0.2, 0.0, 9.0], 1.0) == pytest.approx([0.6, -0.4, 9.0])
    crowd = plots.apart([0.1 * i for i in range(20)], 0.5)
    assert all(b - a > 0.4999 for a, b in pairwise(crowd))
    assert sum(crowd) == pytest.approx(sum(0.1 * i for i in range(20)))


def test_every_method_is_written_beside_its_line_and_labels_do_not_meet() -> None:
    names = [f"method{i}" for i in range(13)]
    tables = [[row(n, 0.6 + i / 1000, macs) for i, n in enumerate(names)] for macs in (150e6, 75e6)]
    figure = plots.pareto(tables, dense=(300e6, 0.7), bold=["method3"])
    figure.draw_without_rendering()
    (ax,) = figure.axes
    labels = {text.get_text().strip(): text for text in ax.texts}
    assert set(labels) == {*names, "dense"}
    boxes = sorted((labels[n].get_window_extent() for n in names), key=lambda box: box.y0)
    assert all(low.y1 < high.y0 + 1 for low, high in pairwise(boxes))
    assert labels["method3"].get_color() != labels["method4"].get_color()
    first = np.asarray(ax.lines[0].get_xydata())
    assert first.tolist() == [[300.0, 0.7], [150.0, 0.6], [75.0, 0.6]]


def test_a_single_seed_has_no_bar_and_no_band_is_drawn_unless_asked() -> None:
    assert isinstance(plots.pareto([[row("l1", 0.5, 1e6, seeds=1)]], dense=(2e6, 0.6)), Figure)
    figure = plots.strips({"l1": [0.5, 0.6], "random": [0.4]}, label="mIoU")
    assert len(figure.axes[0].patches) == 0
    assert len(plots.strips({"l1": [0.5]}, label="mIoU", band=(0.4, 0.6)).axes[0].patches) == 1
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["l1", "random"]
