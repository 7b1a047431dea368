"""Torch-Pruning with our criteria cuts what it cuts with its own, where these are the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torch_pruning as tp
from torch import Tensor, nn

from prunekit.errors import MissingDependencyError
from prunekit.methods import chip, l1
from prunekit.torch_pruning import Importance

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def chain() -> nn.Sequential:
    torch.manual_seed(0)
    widths = [(3, 16), (16, 24), (24, 12)]
    blocks = [layer for i, o in widths for layer in (nn.Conv2d(i, o, 3), nn.BatchNorm2d(o), nn.ReLU())]
    return nn.Sequential(*blocks, nn.Conv2d(12, 4, 1)).eval()


def cut(model: nn.Module, importance: Callable[[nn.Module], object], *, everywhere: bool = True) -> nn.Module:
    small = copy.deepcopy(model)
    last = [m for m in small.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
    pruner = tp.pruner.BasePruner(
        small,
        X,
        importance=importance(small),
        pruning_ratio=0.5,
        ignored_layers=[last],
        global_pruning=everywhere,
    )
    pruner.step()
    return small


@pytest.mark.parametrize("everywhere", [True, False], ids=["global", "each layer"])
def test_our_l1_cuts_as_theirs(chain: nn.Sequential, everywhere: bool) -> None:
    own = tp.importance.GroupMagnitudeImportance(p=1, group_reduction="first", normalizer="mean")
    ours = cut(chain, lambda m: Importance(m, X, l1.score), everywhere=everywhere)
    other = cut(chain, lambda m: own, everywhere=everywhere)
    assert len(ours[0].weight) < 16
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), other.state_dict().values(), strict=True))
    turned = cut(chain, lambda m: Importance(m, X, lambda *a: {n: 1 / s for n, s in l1.score(*a).items()}))
    assert not torch.equal(turned[0].weight[:4], ours[0].weight[:4])  # another criterion cuts something else


def test_coupled_layers_and_criteria_that_need_data() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10).eval()
    asked: list[Tensor | None] = []

    class Noted(Importance):
        def __call__(self, group: object) -> Tensor | None:
            asked.append(super().__call__(group))
            return asked[-1]

    score = partial(chip.score, batches=[(X, 0)])
    small = cut(model, lambda m: Noted(m, X, score))
    assert small(X).shape == (1, 10)
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    assert asked and all(a is not None and a.mean().item() == pytest.approx(1, rel=1e-4) for a in asked)


def test_what_we_keep_whole_they_keep_too(chain: nn.Sequential) -> None:
    small = cut(chain, lambda m: Importance(m, X, lambda model, groups: l1.score(model, groups.only(["3"]))))
    widths = [len(m.weight) for m in small if isinstance(m, nn.Conv2d)]
    assert widths[0] == 16 and widths[1] < 24 and widths[2] == 12


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, chain: nn.Sequential) -> None:
    monkeypatch.setattr("prunekit.torch_pruning.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install torch-pruning"):
        Importance(chain, X, l1.score)
