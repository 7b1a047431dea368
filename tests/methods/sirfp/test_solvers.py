"""The comparison solvers agree where they must, and say how far the greedy one falls short."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from prunekit.errors import InputError, MissingDependencyError
from prunekit.methods.sirfp.clique import clique_weight, ehgp
from prunekit.methods.sirfp.solvers import brute_force, milp, tabu


def graph(channels: int, seed: int) -> Tensor:
    a_CC = torch.rand(channels, channels, generator=torch.Generator().manual_seed(seed)).double()
    return (a_CC + a_CC.T).fill_diagonal_(torch.nan)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1, 3, 5, 8])
def test_milp_is_brute_force(seed: int, size: int) -> None:
    a_CC = graph(8, seed) - (1.0 if seed == 3 else 0.0)  # negative weights too
    best = brute_force(a_CC, size)
    assert clique_weight(a_CC, milp(a_CC, size)) == pytest.approx(clique_weight(a_CC, best))
    assert len(best) == size == len(set(milp(a_CC, size)))


def test_between_greedy_and_the_optimum() -> None:
    """Random weights are the hard case: greedy reaches 97 % of the optimum or more, tabu closes most of the gap."""
    greedy_gap, tabu_gap = [], []
    for seed in range(10):
        a_CC = graph(10, seed)
        best = clique_weight(a_CC, brute_force(a_CC, 5))
        greedy, searched = clique_weight(a_CC, ehgp(a_CC).keep(5)), clique_weight(a_CC, tabu(a_CC, 5, steps=50))
        assert greedy <= searched <= best + 1e-9
        greedy_gap.append(1 - greedy / best)
        tabu_gap.append(1 - searched / best)
    assert 0 < max(greedy_gap) < 0.10
    assert sum(tabu_gap) < 0.2 * sum(greedy_gap)


def test_tabu_reports_what_it_reached() -> None:
    a_CC = graph(40, 1)
    kept = tabu(a_CC, 12, steps=200)
    assert len(kept) == 12 and list(kept) == sorted(set(kept))
    assert clique_weight(a_CC, kept) > clique_weight(a_CC, ehgp(a_CC).keep(12))
    assert tabu(a_CC, 40) == tuple(range(40))


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="make .* sets, more than 1e\\+06; use milp or tabu"):
        brute_force(graph(40, 0), 20)
    for solve in (brute_force, milp, tabu):
        with pytest.raises(InputError, match="a clique of 0 among 8"):
            solve(graph(8, 0), 0)
    with pytest.raises(InputError, match="no proof for 15 of 30 channels after 0.001 s"):
        milp(graph(30, 0), 15, seconds=0.001)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingDependencyError, match="pip install 'prunekit\\[solvers\\]'"):
        milp(graph(8, 0), 4)
