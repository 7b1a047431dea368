"""Activations where they are made: signed, after the norm, before the activation, once for each place."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from prunekit.errors import ScoreError
from prunekit.models.segformer import segformer_mini
from prunekit.observe import watch_made
from prunekit.surgery import find_groups

X = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))


def made(model: nn.Module, x: Tensor = X) -> dict[str, list[Tensor]]:
    groups, seen = find_groups(model, x), {}
    with watch_made(model, groups, lambda name, maps: seen.setdefault(name, []).append(maps)):
        model(x)
    return seen


class Net(nn.Module):
    """A timm norm with its ReLU inside, a norm with a ReLU in place behind it, a residual sum, a layer without norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act_norm = nn.Conv2d(3, 4, 3), BatchNormAct2d(4)
        self.b, self.norm_b = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.c, self.norm_c = nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)
        self.d, self.e = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1)
        for norm in (self.act_norm, self.norm_b, self.norm_c):
            nn.init.uniform_(norm.weight, 0.5, 1)
            nn.init.uniform_(norm.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act_norm(self.a(x))
        x = nn.functional.relu(self.norm_b(self.b(x)) + self.norm_c(self.c(x)))
        return self.e(self.d(x).relu_())


def test_the_signed_output_of_each_norm_or_of_the_layer_where_there_is_none() -> None:
    model = Net().eval()
    seen = made(model)
    with torch.no_grad():
        norm = model.act_norm
        plain = nn.functional.batch_norm(model.a(X), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        x = plain.relu()
        b, c = model.norm_b(model.b(x)), model.norm_c(model.c(x))
        d = model.d((b + c).relu())
    assert {name: len(places) for name, places in seen.items()} == {"a": 1, "b": 2, "d": 1}
    for found, expected in zip([*seen["a"], *seen["b"], *seen["d"]], (plain, b, c, d), strict=True):
        torch.testing.assert_close(found[:, :, 0], expected)
        assert found.shape[2] == 1 and (found < 0).any()
    # an in-place activation behind it comes too late to be seen
    assert (seen["d"][0] < 0).any()


def test_heads_and_transposed_grouped_convolutions() -> None:
    torch.manual_seed(0)
    former = segformer_mini().eval()
    x = torch.randn(2, 3, 64, 64)
    heads, outputs = made(former, x)["encoder.stages.1.blocks.0.attention.query"], []
    query = former.encoder.stages[1].blocks[0].attention.query
    query.register_forward_hook(lambda m, a, out: outputs.append(out))
    former(x)
    assert torch.equal(heads[0], outputs[0].unflatten(2, (2, -1)).permute(0, 2, 3, 1))  # (B, U, K, tokens)

    grouped = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.Conv2d(6, 2, 1))
    seen = made(grouped)
    index = {m.tensor: m for m in find_groups(grouped, X)["1"].members}["2.weight"].index
    torch.testing.assert_close(seen["1"][0], grouped[1](grouped[0](X))[:, index])


def test_copies_are_not_watched_and_watching_ends() -> None:
    model, seen = Net(), []
    with watch_made(model, find_groups(model, X), lambda name, maps: seen.append(name)):
        copy.deepcopy(model)(X)
        assert seen == []
        model(X)
    assert sorted(seen) == ["a", "b", "b", "d"]
    model(X)
    assert len(seen) == 4 and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_seen_is_named() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(x @ self.w)

    x = torch.randn(2, 3)
    with pytest.raises(ScoreError, match="what makes 'w' is no convolution or linear layer.*groups.only"):
        made(Raw(), x)
    groups = find_groups(Net(), X)
    with pytest.raises(ScoreError, match="not as the groups know it"), watch_made(Raw(), groups, print):
        pass
