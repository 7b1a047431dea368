"""The search explorer: what is drawn is the search's, each choice is searched once, the corners hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from prunekit.errors import InputError
from prunekit.widgets import SearchStudy, SearchTrace, explore_search, live, search_view


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def trace(beta: float, lam: float, tau: float) -> SearchTrace:
    masks_TU = torch.tensor([[1, 1, 1], [0, 1, 0], [1, 1, 0], [1, 0, 0]]).bool()
    return SearchTrace([0.9, 0.6, 0.1 * lam + 0.3], masks_TU, f"beta was {beta:g}")


def test_flips_and_returns_are_counted():
    found = trace(1.0, 1.0, 0.5)
    assert found.flips() == 4 and found.returned() == 1
    assert SearchTrace([1.0], torch.ones(2, 3, dtype=torch.bool)).flips() == 0


def test_the_view_draws_the_search_of_its_choice_and_says_it():
    asked: list[tuple[float, float, float]] = []

    def run(*key: float) -> SearchTrace:
        asked.append(key)  # type: ignore[arg-type]
        return trace(*key)

    study = SearchStudy(run, target=0.25)
    view = search_view(study, 5.0, 10.0, 0.9)
    top, below = view.fig.axes
    work, target = (np.asarray(line.get_ydata()) for line in top.lines)
    assert work.tolist() == pytest.approx([0.9, 0.6, 1.3]) and target[0] == 0.25
    drawn = np.asarray(below.images[0].get_array())
    assert drawn.shape == (3, 4) and drawn[0].tolist() == [1, 0, 1, 1], "a row for each unit, a column for each update"
    for words in ("beta 5, lambda 10, threshold 0.9", "130% of the MACs", "4 flips, 1 units came back", "beta was 5"):
        assert words in view.alt
    search_view(study, 5.0, 10.0, 0.9)
    assert asked == [(5.0, 10.0, 0.9)], "searched once"


def test_the_explorer_starts_where_it_is_told_else_in_the_middle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(live.STATIC, "1")
    shown: list[dict] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: shown.append(metadata))
    explore_search(SearchStudy(trace, target=0.25))
    explore_search(SearchStudy(trace, target=0.25), beta=0.5, lam=0.0, tau=0.1)
    starts = [meta["image/png"]["alt"].split(":")[0] for meta in shown]
    assert starts == ["beta 25, lambda 1, threshold 0.5", "beta 0.5, lambda 0, threshold 0.1"]


def test_nothing_to_choose_is_refused():
    with pytest.raises(InputError, match="nothing to choose from"):
        SearchStudy(trace, target=0.5, lams=())
