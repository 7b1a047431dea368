"""Networks with sizes in their Python code come back as a graph that is exact and an ordinary module."""

from __future__ import annotations

import copy
import io
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import PruningPlan
from prunekit.errors import PlanError
from prunekit.profiling import count_macs
from prunekit.surgery import check_equivalence, find_groups, prune

MODELS = {"skresnet18": 64, "res2net50_26w_4s": 64, "cspresnet50": 64, "rexnet_100": 64, "poolformer_s12": 64}


@pytest.mark.parametrize("name", MODELS)
def test_timm_networks_with_built_in_sizes_are_exact(name: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), torch.randn(1, 3, MODELS[name], MODELS[name])
    groups = find_groups(model, x)
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    assert isinstance(small, torch.fx.GraphModule)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-9
    assert count_macs(small, x) < 0.6 * count_macs(model, x)


class Split(nn.Module):
    """Fixed split sizes, a view of fixed length, batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.drop = nets.conv(3, 12), nn.BatchNorm2d(12), nn.Dropout(0.5)
        self.left, self.right, self.unused = nets.conv(4, 2), nets.conv(8, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(self.drop(self.bn(self.a(x)).relu()), [4, 8], 1)
        second = second.reshape(x.shape[0], 8, -1).reshape(x.shape[0], 8, *x.shape[2:])
        return self.left(first) - self.right(second)


@pytest.fixture
def cut() -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = Split(), torch.randn(1, 3, 8, 8)
    groups = find_groups(model, x)
    plan = PruningPlan({"a": 4, "a#2": 8}, {"a": (0, 2, 3), "a#2": (1, 5)})
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12
    return model, small, x


def test_train_and_eval_keep_their_meaning(cut: tuple[nn.Module, nn.Module, Tensor]) -> None:
    _, small, _ = cut
    assert small.training
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(small(x), small(x))  # dropout is alive
    mean = small.bn.running_mean.clone()
    small.eval()
    assert torch.equal(small(x), small(x))
    small.train()(x)
    assert not torch.equal(small.bn.running_mean, mean)  # and so are the statistics


def test_it_learns_copies_saves_and_takes_any_batch(cut: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, small, _ = cut
    assert set(small.state_dict()) == set(model.state_dict())
    small.eval()
    for count in (1, 3, 7):
        assert small(torch.randn(count, 3, 8, 8)).shape == (count, 2, 8, 8)
    x = torch.randn(4, 3, 8, 8)
    twin = copy.deepcopy(small)
    optimizer = torch.optim.SGD([p for p in small.parameters() if p is not small.unused.weight], 0.05)
    before = float(small(x).square().mean())
    small(x).square().mean().backward()
    optimizer.step()
    assert float(small(x).square().mean()) < before
    assert float(twin(x).square().mean()) == pytest.approx(before)
    stored = io.BytesIO()
    torch.save(small.state_dict(), stored)
    stored.seek(0)
    twin.load_state_dict(torch.load(stored, weights_only=True))
    assert torch.equal(twin(x), small(x))


def test_it_can_be_traced_and_pruned_again(cut: tuple[nn.Module, nn.Module, Tensor]) -> None:
    _, small, x = cut
    groups = find_groups(small, x)
    assert {name: g.size for name, g in groups.items()} == {"a": 3, "a#2": 2}
    plan = PruningPlan({"a": 3}, {"a": (0, 2)})
    again = prune(small, groups, plan)
    assert check_equivalence(small, again, groups, plan, x).max_error < 1e-12
    program = torch.export.export(again.eval(), (x,))
    torch.testing.assert_close(program.module()(x), again(x))


def test_rows_of_different_lengths_are_never_made() -> None:
    """Eight channels viewed as 2 x 4: a channel may go only if the code can still see a grid, so none may."""
    groups = find_groups(nets.BuiltInSize(), torch.randn(2, 3, 8, 8))
    assert list(groups) == []
    assert "do not form a grid in" in groups.frozen["a"]


def test_what_cannot_be_edited_keeps_the_first_error() -> None:
    class Stride(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nets.conv(3, 8), nets.conv(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)[:, ::2])

    model, x = Stride(), torch.randn(2, 3, 8, 8)
    groups = find_groups(model, x)
    assert groups["a"].size == 4  # the four that are read
    with pytest.raises(PlanError, match="has a size built in"):
        prune(model, groups, nets.random_plan(groups, 0.5))


class ThreeAxes(nn.Module):
    """One axis seen as (3, 2, 4): q and k are summed over their last axis, v is read entry by entry."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 24), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], 8))


@pytest.mark.parametrize("seed", range(4))
def test_a_fused_projection_loses_whole_heads_only(seed: int) -> None:
    model, x = ThreeAxes(), torch.randn(2, 5, 6)
    groups = find_groups(model, x)
    assert {n: (g.kind, g.size) for n, g in groups.items()} == {"qkv": ("head", 2)}
    plan = nets.random_plan(groups, 0.5, seed)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12
