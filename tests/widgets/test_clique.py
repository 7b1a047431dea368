"""The clique explorer: what is drawn is what the solver kept, the sums are those of the graph, the corners hold."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.offsetbox import AnnotationBbox
from torch import Tensor

from prunekit.errors import InputError
from prunekit.methods.sirfp.clique import ehgp
from prunekit.methods.sirfp.solvers import brute_force
from prunekit.widgets import CliqueStudy, clique_view, explore_clique, live
from prunekit.widgets.clique import Solver, kept_by, weight_inside

SOLVERS: dict[str, Solver] = {
    "greedy": lambda a, size: ehgp(a).keep(size),
    "best": brute_force,
    "worst": lambda a, size: brute_force(-a, size),
    "random": lambda a, size: torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[:size].tolist(),
}


def study(count: int, solvers: dict[str, Solver] = SOLVERS) -> CliqueStudy:
    dice = torch.Generator().manual_seed(count)
    a_CC = 0.3 + 0.7 * torch.rand(count, count, generator=dice)
    a_CC = ((a_CC + a_CC.T) / 2).fill_diagonal_(torch.nan)  # nobody may look at it
    return CliqueStudy(a_CC, torch.rand(count, 4, 8, generator=dice), solvers)


def by_hand(a_CC: Tensor, kept: tuple[int, ...]) -> float:
    return sum(float(a_CC[i, j]) for i, j in combinations(kept, 2))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("count", [2, 6, 16])
@pytest.mark.parametrize("method", list(SOLVERS))
def test_every_corner_draws_the_edges_of_those_that_stay(count: int, method: str):
    case = study(count)
    for size in sorted({1, count // 2, count}):
        view = clique_view(case, size, method)
        kept, (ax,) = kept_by(case, size, method), view.fig.axes
        assert len(kept) == size and len(ax.lines) == size * (size - 1) // 2
        bold = {int(text.get_text()) for text in ax.texts if text.get_fontweight() == "bold"}
        assert bold == set(kept)
        assert sum(isinstance(artist, AnnotationBbox) for artist in ax.artists) == count
        value = by_hand(case.a_CC, kept)
        assert f"{method} keeps {size} of {count} channels, edges weigh {value:.3f}" in view.alt
        assert f": {', '.join(map(str, kept))}." in view.alt
        plt.close(view.fig)


def test_no_solver_beats_brute_force_and_none_is_below_the_worst():
    case = study(8)
    for size in range(1, 9):
        weights = {name: weight_inside(case.a_CC, kept_by(case, size, name)) for name in SOLVERS}
        assert weights["best"] >= max(weights.values()) - 1e-6 and weights["worst"] <= min(weights.values()) + 1e-6
    everybody = weight_inside(case.a_CC, kept_by(case, 8, "worst"))
    assert everybody == pytest.approx(by_hand(case.a_CC, tuple(range(8))), abs=1e-6)


def test_stronger_edges_are_thicker_on_one_scale_for_all_sizes():
    case = study(5)
    widths = {
        size: [line.get_linewidth() for line in clique_view(case, size, "best").fig.axes[0].lines] for size in (4, 5)
    }
    weights = [float(case.a_CC[i, j]) for i, j in combinations(range(5), 2)]
    assert sorted(range(10), key=lambda k: weights[k]) == sorted(range(10), key=lambda k: widths[5][k])
    assert set(widths[4]) < set(widths[5])


def test_equal_edges_and_equal_maps_are_drawn():
    flat = CliqueStudy(torch.ones(4, 4), torch.zeros(4, 3, 3), SOLVERS)
    assert "edges weigh 3.000" in clique_view(flat, 3, "greedy").alt


def test_what_cannot_work_is_said():
    case = study(6)
    with pytest.raises(InputError, match="no solver 'luck'; there are: greedy, best, worst, random"):
        clique_view(case, 3, "luck")
    for size in (0, 7):
        with pytest.raises(InputError, match=f"size is {size}; there are 1 to 6 channels to keep"):
            clique_view(case, size, "greedy")
    for wrong in ([0, 0], [0], [-1, 2], [0, 6]):
        with pytest.raises(InputError, match="'mine' kept .*; wanted are 2 different channels from 0 to 5"):
            clique_view(study(6, {"mine": lambda a, size, wrong=wrong: wrong}), 2, "mine")  # type: ignore[misc]
    for shape in ((1, 1), (17, 17), (3, 4)):
        with pytest.raises(InputError, match="give a square of 2 to 16 channels"):
            CliqueStudy(torch.ones(shape), torch.ones(shape[0], 2, 2), SOLVERS)
    with pytest.raises(InputError, match=r"the maps are \(3, 2, 2\); give one \(H, W\) for each of 4 channels"):
        CliqueStudy(torch.ones(4, 4), torch.ones(3, 2, 2), SOLVERS)
    with pytest.raises(InputError, match="give at least one solver"):
        CliqueStudy(torch.ones(4, 4), torch.ones(4, 2, 2), {})


def test_the_explorer_starts_at_half_with_the_first_solver_and_shows_one_picture(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(live.STATIC, "1")
    shown: list[tuple[dict, dict]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: shown.append((data, metadata)))
    explore_clique(study(6))
    explore_clique(study(6), size=2, method="worst")
    assert [meta["image/png"]["alt"].split(" channels")[0] for _, meta in shown] == [
        "greedy keeps 3 of 6",
        "worst keeps 2 of 6",
    ]
    assert all(live.VIEW not in data for data, _ in shown)
