"""The gate explorer: what is drawn and said is what the gates are, for two images, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from prunekit.errors import InputError
from prunekit.viz import colors
from prunekit.widgets import GateStudy, explore_gates, gates_view, live


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def study(units: int = 70) -> GateStudy:
    dice = torch.Generator().manual_seed(0)
    mask_BU = (torch.rand(3, units, generator=dice) - 0.4) * (torch.rand(3, units, generator=dice) > 0.5)
    return GateStudy(torch.randn(3, 3, 8, 16, generator=dice), {"wide": mask_BU, "narrow": mask_BU[:, :4]})


@pytest.mark.parametrize("layer", ["wide", "narrow"])
def test_each_neuron_has_the_colour_of_those_who_keep_it(layer: str):
    case = study()
    view = gates_view(case, layer, 0, 2)
    on = case.masks[layer] != 0  # a gate below 0 is kept too
    assert (case.masks[layer] < 0).any()
    blue, orange = colors(2)
    wanted = {(True, True): to_rgb("0.25"), (True, False): orange, (False, True): blue, (False, False): to_rgb("0.9")}
    bars = view.fig.axes[2].patches
    assert len(bars) == on.shape[1]
    for bar, a, b in zip(bars, on[0].tolist(), on[2].tolist()):
        assert bar.get_facecolor()[:3] == pytest.approx(wanted[a, b])
    both, first, second = (on[0] & on[2]).sum(), (on[0] & ~on[2]).sum(), (on[2] & ~on[0]).sum()
    assert (
        f"{layer}: {both} of {on.shape[1]} neurons are kept for both, {first} only for image 0, {second} only"
        in view.alt
    )
    below = int((case.masks[layer][2] < 0).sum())
    assert view.fig.axes[1].get_title() == f"image 2: {int(on[2].sum())} kept" + (f", {below} below 0" if below else "")


def test_other_images_give_another_picture():
    case = study()
    assert gates_view(case, "wide", 0, 1).alt != gates_view(case, "wide", 0, 2).alt
    assert "0 only for image 1, 0 only for image 1" in gates_view(case, "wide", 1, 1).alt


def test_it_starts_where_it_is_told(monkeypatch: pytest.MonkeyPatch):
    seen = {}
    monkeypatch.setattr("prunekit.widgets.gates.explore", lambda draw, controls: seen.update(controls))
    explore_gates(study(), layer="narrow", second=2)
    assert [control.start for control in seen.values()] == ["narrow", 0, 2]
    assert list(seen["layer"].options) == ["wide", "narrow"] and live.STATIC == "PRUNEKIT_STATIC"


def test_what_cannot_be_shown_is_refused():
    images, mask = torch.zeros(2, 3, 4, 4), torch.ones(2, 5)
    with pytest.raises(InputError, match="two or more"):
        GateStudy(images[:1], {"a": mask[:1]})
    with pytest.raises(InputError, match="at least one layer"):
        GateStudy(images, {})
    with pytest.raises(InputError, match="'a' has gates"):
        GateStudy(images, {"a": mask[:1]})
    case = GateStudy(images, {"a": mask})
    with pytest.raises(InputError, match="no gates of 'b'; there are: a"):
        gates_view(case, "b", 0, 1)
    with pytest.raises(InputError, match="no image 7"):
        gates_view(case, "a", 0, 7)
