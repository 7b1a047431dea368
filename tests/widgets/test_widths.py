"""The width explorer: the marked points are those of the table, the better bargain is the widest of no more time."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

from prunekit.errors import InputError
from prunekit.latency import Staircase
from prunekit.widgets import explore_widths, live, widths_view

BLOCKS = Staircase(tuple(range(1, 33)), tuple(float(-(-w // 8)) for w in range(1, 33)), "nowhere")  # steps of 8
COMB = Staircase(tuple(range(1, 33)), tuple(w * (1.0 if w % 4 == 0 else 2.0) for w in range(1, 33)), "", "depthwise")
STAIRS = {"block": BLOCKS, "comb": COMB}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("layer", "width", "ms", "wide"),
    [("block", 1, 1, 8), ("block", 9, 2, 16), ("comb", 9, 18, 16), ("comb", 15, 30, 28), ("comb", 1, 2, 1)],
)
def test_the_marked_width_and_the_better_bargain(layer: str, width: int, ms: float, wide: int):
    view = widths_view(STAIRS, layer, width)
    (ax,) = view.fig.axes
    lines = [np.array(line.get_xydata()) for line in ax.lines]
    marks = {tuple(map(float, points[0])) for points in lines if len(points) == 1}
    steps = STAIRS[layer]
    assert marks == {(width, ms), (wide, steps.times_ms[wide - 1])}
    assert all(steps.times_ms[w - 1] > ms for w in range(wide + 1, 33))  # nothing wider is as fast
    assert f"{layer}: {width} channels take {ms:.3f} ms" in view.alt
    assert (f"{wide} take no more" if wide > width else "no wider layer is as fast") in view.alt


def test_the_axis_says_what_has_the_width():
    assert widths_view(STAIRS, "block", 8).fig.axes[0].get_xlabel() == "output channels"
    assert widths_view(STAIRS, "comb", 8).fig.axes[0].get_xlabel() == "channels, one filter each"


def test_what_cannot_work_is_said():
    with pytest.raises(InputError, match="no layer 'stairs'; there are: block, comb"):
        widths_view(STAIRS, "stairs", 8)
    with pytest.raises(InputError, match="width 33 was not measured; there are 1 to 32"):
        widths_view(STAIRS, "block", 33)
    with pytest.raises(InputError, match="2 staircases with 2 sets of widths"):
        explore_widths({"a": BLOCKS, "b": Staircase((8,), (1.0,), "")})
    with pytest.raises(InputError, match="0 staircases"):
        explore_widths({})


def test_the_explorer_starts_where_it_is_told_and_shows_one_picture(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(live.STATIC, "1")
    shown: list[tuple[dict, dict]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: shown.append((data, metadata)))
    explore_widths(STAIRS)
    explore_widths(STAIRS, layer="comb", width=9)
    assert [meta["image/png"]["alt"].split(" take")[0] for _, meta in shown] == [
        "block: 17 channels",
        "comb: 9 channels",
    ]
    assert all(live.VIEW not in data for data, _ in shown)
