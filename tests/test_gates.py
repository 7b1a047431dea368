"""A gate of 1 changes nothing, a gate of 0 removes the unit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from prunekit.core import PruningPlan
from prunekit.gates import Gated
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.models.segformer import segformer_mini
from prunekit.surgery import find_groups, mask

X = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MODELS = {
    "cnn": (deeplabv3_mini, "number"),
    "heads": (segformer_mini, "number"),
    "positions in heads": (segformer_mini, "dimension"),
}


@pytest.mark.parametrize("name", MODELS)
def test_gates_at_zero_equal_the_mask_and_at_one_the_model(name: str) -> None:
    torch.manual_seed(0)
    make, heads = MODELS[name]
    model = make().double().eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.bias)
    groups = find_groups(model, X, heads=heads)
    gated = Gated(model, groups)
    before = model(X)
    assert torch.equal(gated(X), before)
    plan = PruningPlan(
        {n: g.size for n, g in groups.items()}, {n: tuple(range(1, g.size, 2)) for n, g in groups.items()}
    )
    with torch.no_grad():
        for gate in gated.gates:
            gate[::2] = 0.0
    expected = mask(model, groups, plan)(X)
    torch.testing.assert_close(gated(X), expected)
    assert not torch.allclose(expected, before) and torch.equal(model(X), before)


def test_gates_learn_are_shaped_and_can_be_copied() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    gated = Gated(model, find_groups(model, X), shape=torch.square)
    with torch.no_grad():
        gated.gates[0][:] = torch.tensor([0.0, 1.0, 2.0, -1.0])
    twin = copy.deepcopy(gated)
    gated(X).sum().backward()
    assert gated.gates[0].grad is not None and gated.gates[0].grad[0] == 0  # the slope of a square at 0
    assert gated.gates[0].grad[1:].all() and model[0].weight.grad is not None
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[2].weight *= torch.tensor([0.0, 1.0, 4.0, 1.0])[:, None, None]
    torch.testing.assert_close(twin(X), scaled(X))
    assert [n for n, _ in gated.named_parameters()][-1] == "gates.0"
