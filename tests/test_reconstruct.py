"""Least-squares repair against torch.linalg.lstsq, and what it must not do."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from prunekit.core import PruningPlan
from prunekit.errors import InputError, PlanError, ScoreError
from prunekit.observe import grams
from prunekit.reconstruct import error, fit, reconstruct
from prunekit.surgery import find_groups, prune

X = torch.randn(8, 3, 10, 12, generator=torch.Generator().manual_seed(0))
BATCHES = [(X[:4], 0), (X[4:], 0)]


class Net(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 6, 3, **options)  # type: ignore[arg-type]
        self.c = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


def plan_of(groups, **keep: tuple[int, ...]) -> PruningPlan:
    return PruningPlan({name: groups[name].size for name in keep}, keep)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"padding": "same", "padding_mode": "reflect"},
        {"padding": (2, 0), "stride": (1, 3)},
    ],
    ids=str,
)
def test_the_fitted_layer_is_the_least_squares_one(options: dict) -> None:
    net = Net(**options).eval()
    groups = find_groups(net, X[:1])
    plan = plan_of(groups, a=(0, 2, 3, 6), b=(1, 2, 5))
    small = prune(net, groups, plan)
    fitted = reconstruct(net, small, groups, plan, BATCHES, samples=10**6, ridge=0.0)
    seen = net.a(X).relu()[:, [0, 2, 3, 6]].double().detach()
    wanted = net.b(net.a(X).relu())[:, [1, 2, 5]].double().detach()
    layer = copy.deepcopy(small.b).double()
    pad = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    rows = nn.functional.unfold(
        nn.functional.pad(seen, pad, mode=mode), layer.kernel_size, layer.dilation, 0, layer.stride
    ).movedim(1, 2)
    rows = rows.flatten(0, 1)
    if layer.bias is not None:
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(rows, wanted.movedim(1, 3).flatten(0, 2)).solution.T
    torch.testing.assert_close(fitted.b.weight.flatten(1).double(), solution[:, : 4 * 9], rtol=1e-4, atol=1e-5)
    if layer.bias is not None:
        torch.testing.assert_close(fitted.b.bias.double(), solution[:, -1], rtol=1e-4, atol=1e-5)
    plain, better = (m.b(seen.float()).double() - wanted for m in (small, fitted))
    assert better.square().sum() < plain.square().sum()


def test_nothing_cut_nothing_changed_and_nobodys_model_is() -> None:
    net = Net().eval()
    groups = find_groups(net, X[:1])
    plan = plan_of(groups, a=(0, 1, 3, 4, 5, 7))
    small = prune(net, groups, plan)
    before = [copy.deepcopy(m.state_dict()) for m in (net, small)]
    fitted = reconstruct(net, small, groups, plan, BATCHES)
    for model, state in zip((net, small), before, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert torch.equal(fitted.c.weight, small.c.weight) and not torch.equal(fitted.b.weight, small.b.weight)
    whole = PruningPlan({"a": 8}, {"a": tuple(range(8))})
    same = reconstruct(net, net, groups, whole, BATCHES)
    assert all(torch.equal(t, net.state_dict()[n]) for n, t in same.state_dict().items())


def test_a_twin_takes_over() -> None:
    """When a channel repeats another, least squares loses nothing by its removal; plain cutting does."""
    net = Net().eval()
    with torch.no_grad():
        net.a.weight[5], net.a.bias[5] = net.a.weight[1], net.a.bias[1]
    groups = find_groups(net, X[:1])
    plan = plan_of(groups, a=(0, 1, 2, 3, 4, 6, 7))
    small = prune(net, groups, plan)
    fitted = reconstruct(net, small, groups, plan, BATCHES, samples=10**6)
    assert (fitted(X) - net(X)).abs().max() < 1e-4 < 1e-2 < (small(X) - net(X)).abs().max()
    torch.testing.assert_close(fitted.b.weight[:, 1], net.b.weight[:, 1] + net.b.weight[:, 5], rtol=1e-3, atol=1e-4)


def test_linear_layers_and_tokens() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3))
    x = torch.randn(4, 7, 5)
    groups = find_groups(net, x)
    plan = plan_of(groups, **{"0": (0, 1, 4, 6)})
    small = prune(net, groups, plan)
    fitted = reconstruct(net, small, groups, plan, [(x, 0)], samples=100, ridge=0.0)
    with torch.no_grad():
        rows = torch.cat([net[1](net[0](x))[..., [0, 1, 4, 6]], torch.ones(4, 7, 1)], 2).flatten(0, 1).double()
        solution = torch.linalg.lstsq(rows, net(x).flatten(0, 1).double()).solution.T.float()
    torch.testing.assert_close(
        torch.cat([fitted[2].weight, fitted[2].bias[:, None]], 1), solution, rtol=1e-4, atol=1e-5
    )


def test_error_measures_and_ridge_helps_where_data_are_few() -> None:
    net = Net().eval()
    groups = find_groups(net, X[:1])
    gram = grams(net, groups, ["b.weight"], BATCHES, method="test", samples=10**6)["b.weight"]
    weight = torch.cat([net.b.weight.flatten(1), net.b.bias[:, None]], 1).detach()
    assert error(weight, weight, gram) == 0 and error(weight, 0 * weight, gram) == pytest.approx(1)
    few = torch.ones(4, 4, dtype=torch.float64)  # one sample: the inputs cannot be told apart
    with pytest.raises(ScoreError, match="inputs that 'fc' keeps depend .* larger ridge"):
        fit(torch.ones(2, 4), few, torch.tensor([0, 1]), ridge=0.0, name="'fc'")
    assert fit(torch.ones(2, 4), few, torch.tensor([0, 1])) == pytest.approx(torch.full((2, 2), 2.0), rel=1e-4)
    with pytest.raises(InputError, match="ridge"):
        fit(torch.ones(2, 4), few, torch.tensor([0]), ridge=-1.0)


def test_too_few_samples_are_said() -> None:
    net = Net().eval()
    groups = find_groups(net, X[:1])
    plan = plan_of(groups, a=(0, 1, 2, 3), b=(0, 1))
    small = prune(net, groups, plan)
    with pytest.warns(RuntimeWarning, match=r"fewer samples than unknowns in 'b.weight' \(32 samples, 37 unknowns\)"):
        reconstruct(net, small, groups, plan, BATCHES, samples=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reconstruct(net, small, groups, plan, BATCHES, samples=5)
    with pytest.raises(ScoreError, match="inputs that 'b.weight' keeps"):
        reconstruct(net, small, groups, plan, [(0 * X, 0)], ridge=0.0)


def test_bad_input() -> None:
    net = Net().eval()
    groups = find_groups(net, X[:1])
    plan = plan_of(groups, a=(0, 1))
    small = prune(net, groups, plan)
    with pytest.raises(ScoreError, match="reconstruct looks at data"):
        reconstruct(net, small, groups, plan, None)
    with pytest.raises(ScoreError, match="holds nan or inf"):
        reconstruct(net, small, groups, plan, [(X * torch.nan, 0)])
    with pytest.raises(PlanError, match="wants 9 units"):
        reconstruct(net, small, groups, PruningPlan({"a": 9}, {"a": (0,)}), BATCHES)


def test_a_pruned_graph_is_repaired_too() -> None:
    """Code that splits at a fixed number comes back as a graph, with the same parameter names."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.a(x).relu().split(4, 1)
            return self.b(first) + self.c(second)

    net = Split().eval()
    groups = find_groups(net, X[:1])
    plan = PruningPlan(
        {n: g.size for n, g in groups.items()}, {n: tuple(range(g.size // 2)) for n, g in groups.items()}
    )
    small = prune(net, groups, plan)
    fitted = reconstruct(net, small, groups, plan, BATCHES)
    assert type(small) is not Split
    assert (fitted(X) - net(X)).square().mean() < 0.8 * (small(X) - net(X)).square().mean()
