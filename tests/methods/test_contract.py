"""What every criterion must do, on a convolutional network and on a transformer."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from prunekit.errors import ScoreError
from prunekit.methods import l1, random
from prunekit.surgery import find_groups

CRITERIA = {"l1": l1.score, "random": random.score}
MODELS = {"cnn": ("resnet18", 64), "transformer": ("vit_tiny_patch16_224", 224)}


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest):
    name, size = MODELS[request.param]
    torch.manual_seed(0)
    model = timm.create_model(name)
    return model, find_groups(model, torch.randn(1, 3, size, size))


@pytest.mark.parametrize("name", CRITERIA)
def test_one_finite_number_a_unit_the_same_every_time_and_the_model_unchanged(case, name: str) -> None:
    model, groups = case
    before = copy.deepcopy(model.state_dict())
    first, second = CRITERIA[name](model, groups), CRITERIA[name](model, groups)
    assert list(first) == list(groups)
    for group, score in first.items():
        assert tuple(score.shape) == (groups[group].size,)
        assert torch.isfinite(score).all()
        assert score.unique().numel() > 1
        assert torch.equal(score, second[group])
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_random_depends_on_the_seed_and_on_nothing_else(case) -> None:
    model, groups = case
    name = next(iter(groups))
    assert not torch.equal(random.score(model, groups, seed=0)[name], random.score(model, groups, seed=1)[name])
    torch.manual_seed(123)
    assert torch.equal(random.score(model, groups, seed=1)[name], random.score(model, groups, seed=1)[name])


def test_l1_by_hand_with_coupled_makers() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.a(x) + self.b(x))

    model = Sum()
    score = l1.score(model, find_groups(model, torch.randn(1, 3, 8, 8)))["a"]
    by_hand = [
        sum(abs(w) for layer in (model.a, model.b) for w in layer.weight[u].flatten().tolist()) for u in range(4)
    ]
    assert score.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_l1_ranks_a_planted_dead_channel_last_and_a_loud_one_first() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    with torch.no_grad():
        model[0].weight[5] = 0
        model[0].weight[2] *= 100
    score = l1.score(model, find_groups(model, torch.randn(1, 3, 8, 8)))["0"]
    assert (int(score.argmin()), int(score.argmax())) == (5, 2)


def test_l1_refuses_groups_of_another_model() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    groups = find_groups(model, torch.randn(1, 3, 8, 8))
    with pytest.raises(ScoreError, match="'0.weight' is not as the groups know it"):
        l1.score(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), groups)
    with pytest.raises(ScoreError, match="call find_groups on this model"):
        l1.score(nn.ModuleDict({"a": nn.Conv2d(3, 8, 3)}), groups)
