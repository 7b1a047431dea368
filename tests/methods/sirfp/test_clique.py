"""EHGP: the printed greedy step by step, optimal when one channel goes, and a threshold that gives its own cliques."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunekit.core import ChannelGroup, Groups
from prunekit.errors import InputError
from prunekit.methods.sirfp.clique import clique_weight, ehgp, unit_scores
from prunekit.methods.sirfp.solvers import brute_force
from prunekit.plan import Limits, global_plan, uniform_plan


def graph(channels: int, seed: int = 0, low: float = 0.307) -> Tensor:
    """Symmetric edge weights in [low, 1], a diagonal that nobody may look at."""
    a_CC = low + (1 - low) * torch.rand(channels, channels, generator=torch.Generator().manual_seed(seed)).double()
    a_CC = (a_CC + a_CC.T) / 2
    return a_CC.fill_diagonal_(torch.nan)


def plain_greedy(a_CC: Tensor) -> tuple[list[int], list[float]]:
    """Eq. 6 again and again, every sum from scratch."""
    left, order, weights = list(range(len(a_CC))), [], []
    while left:
        sums = {i: sum(float(a_CC[i, j]) for j in left if j != i) for i in left}
        k = min(left, key=lambda i: sums[i])
        left.remove(k)
        order.append(k)
        weights.append(sums[k])
    return order, weights


def test_it_is_the_greedy_of_the_paper() -> None:
    a_CC = graph(30)
    before, removal = a_CC.clone(), ehgp(a_CC)
    order, weights = plain_greedy(a_CC)
    assert list(removal.order[:-2]) == order[:-2]  # the last two always tie
    assert removal.weight.tolist() == pytest.approx(weights, abs=1e-9)
    assert torch.equal(a_CC.nan_to_num(), before.nan_to_num())
    assert removal.keep(4) == tuple(sorted(order[-4:])) and ehgp(graph(1)).order == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_removing_one_is_optimal(seed: int) -> None:
    a_CC = graph(10, seed)
    assert ehgp(a_CC).keep(9) == brute_force(a_CC, 9)


def test_the_last_step_is_the_other_way_round_in_print() -> None:
    """Negative control: removing the LARGEST s, as printed, is worse on every graph tried."""
    for seed in range(5):
        a_CC = graph(12, seed)
        worst = ehgp(-a_CC).keep(6)
        assert clique_weight(a_CC, worst) < clique_weight(a_CC, ehgp(a_CC).keep(6))


def test_of_twins_exactly_one_stays() -> None:
    a_CC = graph(12, low=0.9)
    for i, j in ((3, 8), (0, 5)):
        a_CC[i] = a_CC[j]
        a_CC[:, i] = a_CC[i]
        a_CC[i, j] = a_CC[j, i] = 0.307
        a_CC.fill_diagonal_(torch.nan)
    kept = ehgp(a_CC).keep(10)
    assert len({3, 8} & set(kept)) == 1 and len({0, 5} & set(kept)) == 1


def shared(mixed: Tensor) -> Groups:
    return Groups({"a": ChannelGroup("a", len(mixed), "channel", ())})


@pytest.mark.parametrize("scale", ["sum", "mean"])
def test_every_threshold_keeps_a_clique_of_ehgp(scale: str) -> None:
    for seed in range(3):
        a_CC = graph(20, seed)
        score_C, removal = unit_scores(a_CC, scale), ehgp(a_CC)  # type: ignore[arg-type]
        for threshold in score_C.tolist():
            kept = tuple((score_C >= threshold).nonzero().flatten().tolist())
            assert kept == removal.keep(len(kept))
        limits = Limits(max_ratio=0.95)
        for size in range(1, 20):
            plan = uniform_plan(shared(a_CC), {"a": score_C}, 1 - size / 20, limits=limits)
            assert plan.keep["a"] == removal.keep(size)


def test_thresholding_s_itself_would_take_the_survivors() -> None:
    """Negative control for the reading of the threshold: "low s goes" keeps the very channels EHGP removes first."""
    a_CC = graph(20)
    removal = ehgp(a_CC)
    s_C = torch.empty(20).double()
    s_C[list(removal.order)] = removal.weight
    assert tuple(sorted(s_C.topk(10).indices.tolist())) == tuple(sorted(removal.order[:10]))


def test_one_threshold_over_layers_compares_redundancies() -> None:
    """All edges of a layer alike: by sum each layer keeps the same redundancy a channel, by mean the looser layer."""
    exact = Limits(round_to=1)
    tight, loose = torch.full((20, 20), 0.4).double(), torch.full((40, 40), 0.9).double()
    groups = Groups({n: ChannelGroup(n, len(a), "channel", ()) for n, a in (("tight", tight), ("loose", loose))})
    sums, means = ({"tight": unit_scores(tight, s), "loose": unit_scores(loose, s)} for s in ("sum", "mean"))
    keep = global_plan(groups, sums, 0.5, limits=exact).keep
    assert len(keep["tight"]) + len(keep["loose"]) == 30
    assert 0.6 * (len(keep["tight"]) - 1) == pytest.approx(0.1 * (len(keep["loose"]) - 1), abs=0.6)
    keep = global_plan(groups, means, 0.25, limits=exact).keep
    assert len(keep["loose"]) == 40 and len(keep["tight"]) == 5
    same = [global_plan(groups, sums, 0.5, normalize=how, limits=exact).keep for how in ("none", "mean")]
    assert same[0] == same[1]


def test_channels_that_change_places_take_their_scores_along() -> None:
    a_CC, order = graph(25), torch.randperm(25, generator=torch.Generator().manual_seed(1))
    for scale in ("sum", "mean"):
        moved = unit_scores(a_CC[order][:, order], scale)
        torch.testing.assert_close(moved, unit_scores(a_CC, scale)[order], rtol=0, atol=1e-8)


def test_small_layers_and_wrong_names() -> None:
    assert unit_scores(graph(1), "sum").tolist() == [0.0]
    assert unit_scores(graph(2), "sum").tolist() == pytest.approx([float(graph(2)[0, 1]) - 1] * 2, abs=1e-8)
    with pytest.raises(InputError, match="score_scale is 'sum' or 'mean', got 'max'"):
        unit_scores(graph(3), "max")  # type: ignore[arg-type]


def test_tables_and_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"a square table, \(channels, channels\), got \(4, 5\)"):
        ehgp(torch.rand(4, 5))
    hurt = graph(4)
    hurt[0, 1] = torch.nan
    with pytest.raises(InputError, match="an edge weight is nan or inf"):
        ehgp(hurt)
    for size in (0, 5):
        with pytest.raises(InputError, match=f"a clique of {size} among 4 channels"):
            ehgp(graph(4)).keep(size)
