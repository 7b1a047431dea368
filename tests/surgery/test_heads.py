"""Attention: heads are units, their counts are set where the code keeps them, and costs stay exact."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import PruningPlan
from prunekit.plan import plan_macs, plan_params
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune


class SeparateHeads(nn.Module):
    """q, k, v by three layers, products by matmul: the sum over a head's positions makes it one unit."""

    def __init__(self, stored: int = 4) -> None:
        super().__init__()
        self.num_heads = stored
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 3)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head(self.out(mixed.transpose(1, 2).flatten(2)))


class WeightProduct(nn.Module):
    """A bare parameter in a matrix product is a linear layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.w = nn.Parameter(torch.randn(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).relu() @ self.w


def test_separate_projections_share_heads() -> None:
    model, x = SeparateHeads(), torch.randn(2, 5, 16)
    groups = find_groups(model, x)
    heads = groups["q"]
    assert (heads.kind, heads.size) == ("head", 4)
    assert [m.tensor for m in heads.producers()] == ["q.weight", "k.weight", "v.weight"]
    assert heads.consumers()[0].index.tolist() == [[4 * h + d for d in range(4)] for h in range(4)]
    plan = PruningPlan({"q": 4}, {"q": (1, 3)})
    small = prune(model, groups, plan)
    assert (small.num_heads, model.num_heads) == (2, 4)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12
    assert count_macs(small, x) == plan_macs(groups, plan) < count_macs(model, x)


def test_a_bare_weight_in_a_product_is_cut() -> None:
    model, x = WeightProduct(), torch.randn(2, 6)
    groups = find_groups(model, x)
    plan = PruningPlan({"a": 8}, {"a": (0, 5)})
    small = prune(model, groups, plan)
    assert tuple(small.w.shape) == (2, 3)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12
    assert count_macs(small, x) == plan_macs(groups, plan)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_timm_transformers_lose_heads_and_neurons(name: str) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name, img_size=64).eval(), torch.randn(1, 3, 64, 64)
    groups = find_groups(model, x)
    assert {g.kind for g in groups.values()} == {"head", "neuron", "channel"}
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    certificate = check_equivalence(model, small, groups, plan, x)
    assert certificate.max_error < 1e-9 < certificate.control
    assert certificate.inexact == ("patch_embed.proj",)  # the stream through every LayerNorm
    assert count_macs(small, x) == plan_macs(groups, plan)
    assert count_params(small) == plan_params(groups, plan)
    small.train()(torch.randn(2, 3, 64, 64)).sum().backward()


def test_a_count_that_contradicts_the_graph_is_not_trusted() -> None:
    """The attribute says 8, the code halves it: setting it would be a guess, so the graph's own numbers are set."""

    class Halved(SeparateHeads):
        def split(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], x.shape[1], self.num_heads // 2, -1).transpose(1, 2)

    model, x = Halved(stored=8), torch.randn(2, 5, 16)
    groups = find_groups(model, x)
    plan = PruningPlan({"q": 4}, {"q": (0, 3)})
    small = prune(model, groups, plan)
    assert isinstance(small, torch.fx.GraphModule)
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12


def test_a_count_that_no_attribute_holds_is_found_in_the_graph() -> None:
    """`reshape(B, N, 4, -1)` runs with any width, so nothing crashes: the number must be set all the same."""

    class Literal(SeparateHeads):
        def split(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], x.shape[1], 4, -1).transpose(1, 2)

    model, x = Literal(), torch.randn(2, 5, 16)
    del model.num_heads
    groups = find_groups(model, x)
    plan = PruningPlan({"q": 4}, {"q": (0, 3)})
    assert check_equivalence(model, prune(model, groups, plan), groups, plan, x).max_error < 1e-12


def test_the_owner_may_be_further_out() -> None:
    class Wrapped(SeparateHeads):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Sequential(nn.Linear(16, 16))  # type: ignore[assignment]

    model, x = Wrapped(), torch.randn(2, 5, 16)
    groups = find_groups(model, x)
    (name,) = [n for n, g in groups.items() if g.kind == "head"]
    plan = PruningPlan({name: 4}, {name: (1, 2, 3)})
    small = prune(model, groups, plan)
    assert small.num_heads == 3
    assert check_equivalence(model, small, groups, plan, x).max_error < 1e-12
