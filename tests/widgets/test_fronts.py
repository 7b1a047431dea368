"""The explorer of fronts: the marked front is the one that nobody beats, and the strip shows start and end."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

from prunekit.errors import InputError
from prunekit.widgets import explore_fronts, front_strip, fronts_view, live
from prunekit.widgets.fronts import unbeaten

START = [(0.9, 0.1), (0.5, 0.6), (0.6, 0.7)]
NEXT = [(0.45, 0.3), (0.95, 0.1)]
POINTS = (START, NEXT)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_front_is_the_unbeaten_ones():
    dice = np.random.default_rng(0)
    many = [tuple(map(float, p)) for p in dice.integers(0, 12, (60, 2))]
    found = unbeaten(many)
    wanted = {p for p in many if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in many)}
    assert set(found) == wanted and found == sorted(found)


@pytest.mark.parametrize(
    ("generation", "best", "words"), [(0, 2, "least error at up to half of the cost 0.600"), (1, 2, "0.300")]
)
def test_a_view_is_of_its_generation(generation: int, best: int, words: str):
    view = fronts_view(POINTS, generation, rival=POINTS)
    (ax,) = view.fig.axes
    line = next(line for line in ax.lines if line.get_label() == "front")
    assert [tuple(p) for p in line.get_xydata()] == unbeaten([p for one in POINTS[: generation + 1] for p in one])
    assert f"{3 + 2 * generation} candidates, {best} on the front" in view.alt and words in view.alt
    new = next(c for c in ax.collections if c.get_label() == "new")
    assert [tuple(p) for p in new.get_offsets()] == list(POINTS[generation])


def test_a_strip_has_its_frames():
    many = [[(n / 10, 1 - n / 10)] for n in range(1, 8)]
    fig = front_strip(many, frames=4)
    assert [ax.get_title() for ax in fig.axes] == ["start", "generation 2", "generation 4", "generation 6"]
    assert [ax.get_visible() for ax in front_strip(many[:1]).axes] == [True, False]


def test_the_axis_says_what_is_counted_and_holds_all_of_it():
    slow = ([(1.3, 0.2), (0.4, 0.5)], [(0.3, 0.6)])
    (ax,) = fronts_view(slow, 1, cost="latency").fig.axes
    assert ax.get_xlabel() == "latency, of the whole network's" and ax.get_xlim()[1] > 1.3
    strip = front_strip(POINTS, rival=slow, cost="params").axes
    assert strip[-1].get_xlabel().startswith("params,") and strip[0].get_xlim()[1] > 1.3
    (ax,) = fronts_view(POINTS, 1).fig.axes
    assert ax.get_xlabel() == "MACs, of the whole network's" and ax.get_xlim() == (0, 1.02)


def test_explore_and_what_it_refuses(monkeypatch: pytest.MonkeyPatch):
    seen = {}
    monkeypatch.setattr("prunekit.widgets.fronts.explore", lambda draw, controls: seen.update(controls))
    explore_fronts(POINTS)
    assert seen["generation"] == live.Control({"0": 0, "1": 1}, 1, slide=True)
    with pytest.raises(InputError, match="there is no generation 2; they go from 0 to 1"):
        fronts_view(POINTS, 2)
    with pytest.raises(InputError, match="no generation -1"):
        explore_fronts(POINTS, generation=-1)
