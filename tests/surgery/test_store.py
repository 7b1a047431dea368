"""A stored model comes back exactly, whatever was pruned, and what was found otherwise is noticed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.models import VisionTransformer
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

import prunekit as pk
from prunekit.core import PruningPlan
from prunekit.errors import CheckpointError, PlanError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def cut(model: nn.Module, ratio: float = 0.5, seed: int = 0) -> tuple[nn.Module, PruningPlan]:
    groups = pk.find_groups(model, X)
    plan = nets.random_plan(groups, ratio, seed)
    return pk.prune(model, groups, plan), plan


def same(one: nn.Module, other: nn.Module) -> bool:
    """Equal outputs, and the same tensors of the same types under the same names."""
    a, b = one.state_dict(), other.state_dict()
    tensors = list(a) == list(b) and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)
    kind = next(t.dtype for t in a.values() if t.is_floating_point())
    return tensors and torch.equal(one.eval()(X.to(kind)), other.eval()(X.to(kind)))


@pytest.mark.parametrize("net", [nets.Chain, nets.Concat, nets.DepthwiseFlatten, nets.Grouped, nets.Auxiliary])
def test_it_comes_back_from_a_dense_model_of_other_weights(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    small, plan = cut(net())
    assert pk.save_pruned(tmp_path / "a" / "small", small, plan) == tmp_path / "a" / "small"
    dense = net()
    before = {name: t.clone() for name, t in dense.state_dict().items()}
    again = pk.load_pruned(tmp_path / "a" / "small", dense, X)
    assert same(again, small) and type(again) is net
    assert all(torch.equal(t, before[name]) for name, t in dense.state_dict().items())


def test_the_folder_holds_two_files_that_others_can_read(tmp_path: Path) -> None:
    small, plan = cut(nets.Chain())
    pk.save_pruned(tmp_path, small, plan)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", "plan.json"]
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    assert set(load_file(tmp_path / "model.safetensors")) == set(small.state_dict())


class Built(nn.Module):
    """Sizes built into the code, so that prune returns the traced graph; a tensor that is never read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.unused = nets.conv(3, 12), nn.BatchNorm2d(12), nn.Linear(2, 2)
        self.left, self.right = nets.conv(4, 2), nets.conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(self.bn(self.a(x)).relu(), [4, 8], 1)
        return self.left(first) - self.right(second)


@pytest.mark.parametrize("net", [nets.Residual, Built])
def test_a_model_that_was_pruned_twice_is_stored_with_both_plans(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    once, first = cut(net(), 0.3)
    twice, second = cut(once, 0.5, seed=1)
    assert isinstance(twice, torch.fx.GraphModule) == (net is Built)
    pk.save_pruned(tmp_path, twice, [first, second])
    assert [plan["sizes"] for plan in json.loads((tmp_path / "plan.json").read_text())] == [first.sizes, second.sizes]
    assert same(pk.load_pruned(tmp_path, net(), X), twice)
    pk.save_pruned(tmp_path, twice, second)  # the first is forgotten
    with pytest.raises(PlanError, match=r"plan wants \d+ units in '\w+', the model has \d+"):
        pk.load_pruned(tmp_path, net(), X)


class Tied(nn.Module):
    """One convolution under two names, and one weight in two layers."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.a, self.loop, self.b, self.c = nets.conv(3, 8), nets.conv(8, 8), nets.conv(8, 2), nets.conv(8, 2)
        self.alias = self.loop
        if tied:
            self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.alias(self.loop(self.a(x)).relu()).relu()
        return self.b(x) + self.c(x)


def test_what_is_tied_is_stored_once_and_stays_tied(tmp_path: Path) -> None:
    small, plan = cut(Tied())
    pk.save_pruned(tmp_path, small, plan)
    stored = load_file(tmp_path / "model.safetensors")
    assert "loop.weight" in stored and "alias.weight" not in stored and "c.weight" not in stored
    again = pk.load_pruned(tmp_path, Tied(), X)
    assert again.alias is again.loop and again.c.weight is again.b.weight
    assert same(again, small)
    with pytest.raises(CheckpointError, match=r"'c.weight' is missing in .*model.safetensors, \(2, 4, 3, 3\) in the"):
        pk.load_pruned(tmp_path, Tied(tied=False), X)


class Table(nn.Module):
    """A table that is made in the constructor and not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nets.conv(3, 8), nets.conv(8, 2)
        self.register_buffer("grid", torch.linspace(0, 1, 8).view(8, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x) + self.grid)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_stored_type_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    small, plan = cut(Table())
    pk.save_pruned(tmp_path, small.to(dtype), plan)
    again = pk.load_pruned(tmp_path, Table(), X)
    assert again.grid.dtype == dtype and torch.equal(again.grid, small.grid)  # cut, though not among the stored
    assert same(again, small)


def test_each_tensor_has_its_own_type_and_layout(tmp_path: Path) -> None:
    small, plan = cut(nets.Chain())
    small.a.to(torch.bfloat16)
    pk.save_pruned(tmp_path, small.to(memory_format=torch.channels_last), plan)
    again = pk.load_pruned(tmp_path, nets.Chain().to(memory_format=torch.channels_last), X)
    assert (again.a.weight.dtype, again.b.weight.dtype) == (torch.bfloat16, torch.float32)
    assert again.b.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(again.b.weight, small.b.weight)


def test_mode_gradients_and_compiled_models(tmp_path: Path) -> None:
    small, plan = cut(nets.Chain())
    pk.save_pruned(tmp_path, torch.compile(small, backend="eager"), plan)  # type: ignore[arg-type]
    dense = nets.Chain().eval()
    dense.a.weight.requires_grad_(False)
    again = pk.load_pruned(tmp_path, dense, X)
    assert not again.training and not again.a.weight.requires_grad and again.b.weight.requires_grad
    assert same(again, small)


class TwoPairs(nn.Module):
    """One layer whose halves are added to two others: groups 'a' and 'a#2', of equal size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.x, self.y = nets.conv(3, 12), nets.conv(3, 6), nets.conv(3, 6)
        self.left, self.right = nets.conv(6, 2), nets.conv(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, 1)
        return self.left(first + self.x(x)) - self.right(second + self.y(x))


def test_groups_that_are_found_otherwise_are_noticed(tmp_path: Path) -> None:
    """With the first half frozen, the second is called 'a'; a plan for it would fit the first just as well."""
    model = TwoPairs()
    groups = pk.find_groups(model, X, freeze=["x"])
    plan = PruningPlan({"a": 6}, {"a": (0, 1, 3, 4)})
    small = pk.prune(model, groups, plan)
    pk.save_pruned(tmp_path, small, plan)
    assert same(pk.load_pruned(tmp_path, TwoPairs(), X, freeze=["x"]), small)
    with pytest.raises(CheckpointError, match="'x.weight' is .6, 3, 3, 3. in .* give find_groups' "):
        pk.load_pruned(tmp_path, TwoPairs(), X)


class BuiltInHeads(nn.Module):
    """Four heads of four, written into the code: the graph comes back, however they are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 48), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], 16))


HEADS = {
    "graph or class": (
        lambda: VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=4, num_classes=3),
        torch.randn(1, 3, 8, 8),
    ),
    "graph": (BuiltInHeads, torch.randn(2, 5, 6)),
}


@pytest.mark.parametrize("name", HEADS)
def test_head_dimensions_are_not_taken_for_heads(name: str, tmp_path: Path) -> None:
    """Two heads of four and four heads of two have the same tensors."""
    build, x = HEADS[name]
    model = build().eval()
    groups = pk.find_groups(model, x, heads="dimension")
    (qkv,) = (name for name, group in groups.items() if group.kind == "head_dim")
    plan = PruningPlan({qkv: 4}, {qkv: (0, 2)})
    small = pk.prune(model, groups, plan)
    pk.save_pruned(tmp_path, small, plan)
    assert torch.equal(pk.load_pruned(tmp_path, build().eval(), x)(x), small(x))
    with pytest.raises(PlanError, match="#dim', which this model does not have"):
        pk.load_pruned(tmp_path, build(), x, heads="number")
