"""The whole method: planted twins against FPGM, a MACs target, invariances, and what a pass over data measures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunekit.errors import BudgetError
from prunekit.methods import fpgm, sirfp
from prunekit.methods.sirfp.clique import ehgp
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.plan import budget_plan, plan_macs, uniform_plan
from prunekit.surgery import find_groups

X = torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(0))
BATCHES = [(X[:2], 0), (X[2:], 0)]


class Twins(nn.Module):
    """Eight channels; 2 and 6 are alike and unlike all others, with small filters in the middle of the others'."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            for tensor in (self.a.weight, self.a.bias):
                tensor[2] *= 0.1
                tensor[6] = tensor[2]
        self.eval()
        with torch.no_grad():  # the statistics of these very maps: small filters may have loud maps
            maps = self.a(X)
            self.norm.running_mean.copy_(maps.mean((0, 2, 3)))  # type: ignore[union-attr]
            self.norm.running_var.copy_(maps.var((0, 2, 3)))  # type: ignore[union-attr]
            self.norm.weight[[2, 6]] = 1.2

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())


def test_of_two_identical_channels_one_stays_and_fpgm_drops_both() -> None:
    model = Twins()
    groups = find_groups(model, X)
    for ratio in (0.25, 0.375):
        kept = uniform_plan(groups, sirfp.score(model, groups, BATCHES), ratio).keep["a"]
        assert len({2, 6} & set(kept)) == 1
        assert {2, 6} & set(uniform_plan(groups, fpgm.score(model, groups), ratio).keep["a"]) == set()


def test_a_target_is_met_with_ehgps_own_cliques() -> None:
    torch.manual_seed(0)
    model = deeplabv3_mini().eval()
    x = torch.randn(2, 3, 64, 128)
    groups = find_groups(model, x[:1])
    observer = sirfp.Observer(groups)
    with observer.watching(model), torch.no_grad():
        model.train()(x)
    for scale in ("sum", "mean"):
        plan = budget_plan(groups, observer.scores(groups, score_scale=scale), macs_ratio=0.6)
        macs = plan_macs(groups, plan) / plan_macs(groups, type(plan)({}, {}))
        assert 0.38 < macs <= 0.4
        for name, kept in plan.keep.items():
            assert kept == ehgp(observer.edges[name]).keep(len(kept)), name
            assert len(kept) >= 0.1 * groups[name].size
    with pytest.raises(BudgetError, match="within the limits 9[0-9].[0-9]% is the most"):
        budget_plan(groups, observer.scores(groups), macs_ratio=0.9999)


@pytest.mark.parametrize("metric", ["js", "kl", "dice", "dot"])
@pytest.mark.parametrize("resolution", ["vector", "half", "full", "twice"])
def test_every_setting_scores_every_group(metric: str, resolution: str) -> None:
    model = Twins()
    groups = find_groups(model, X)
    for normalize_map in ("softmax", "sum"):
        settings = {"metric": metric, "resolution": resolution, "normalize_map": normalize_map}
        score_U = sirfp.score(model, groups, BATCHES, **settings)["a"]  # type: ignore[arg-type]
        assert score_U.shape == (8,) and torch.isfinite(score_U).all() and score_U.unique().numel() >= 6


def edges_of(model: nn.Module) -> Tensor:
    """The [8, 8] similarities of group ``a``: scores come from them in an order that two equal channels may swap."""
    observer = sirfp.Observer(find_groups(model, X))
    with observer.watching(model), torch.no_grad():
        for x, _ in BATCHES:
            model(x)
    return observer.edges["a"]


def test_scale_and_shift_of_softmax_maps() -> None:
    """A constant added to a map says nothing about where; a factor does."""
    model, before = Twins(), edges_of(Twins())
    with torch.no_grad():
        model.norm.bias += torch.randn(8)
    torch.testing.assert_close(edges_of(model), before, rtol=0, atol=1e-4)
    with torch.no_grad():
        model.norm.weight *= torch.linspace(0.2, 2, 8)
    assert not torch.allclose(edges_of(model), before, atol=1e-2)


def test_all_batches_count_alike() -> None:
    model = Twins()
    groups = find_groups(model, X)
    forward, backward = (sirfp.score(model, groups, b)["a"] for b in (BATCHES, BATCHES[::-1]))
    torch.testing.assert_close(forward, backward, rtol=0, atol=1e-5)
    one_by_one = [(x[None], 0) for x in X]
    torch.testing.assert_close(sirfp.score(model, groups, one_by_one)["a"], forward, rtol=0, atol=1e-5)
