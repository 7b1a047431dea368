"""Activations: the right channels of the right layer, in every layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunekit.errors import ScoreError
from prunekit.models.segformer import segformer_mini
from prunekit.observe import see_maps, still, watch
from prunekit.surgery import find_groups

X = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))


def seen(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    see_maps(model, find_groups(model, x), [(x, 0)], found.__setitem__, method="test")
    return found


class Layouts(nn.Module):
    """A concatenation, a grouped convolution, and a map flattened for a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(12, 6, 1, groups=2)
        self.pool, self.head = nn.AdaptiveAvgPool2d((2, 3)), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x), self.b(x)], 1).relu()
        return self.head(self.pool(self.grouped(x)).flatten(1))


def test_channels_are_found_behind_concatenation_groups_and_flattening() -> None:
    model = Layouts().eval()
    found = seen(model, X)
    with torch.no_grad():
        x = torch.cat([model.a(X), model.b(X)], 1).relu()
        flat = model.pool(model.grouped(x))
    groups = find_groups(model, X)
    for name in ("a", "b"):
        for key, group in groups.items():
            if key.split("#")[0] == name:
                own = {m.tensor: m for m in group.members}[f"{name}.weight"].index
                assert found[key].shape[:2] == (2, group.size)
                shown = {tuple(c.flatten().tolist()) for c in found[key].flatten(1, 2)[0]}
                maker = (model.a if name == "a" else model.b)(X).relu().detach()
                assert {tuple(maker[0, c].flatten().tolist()) for c in own.flatten().tolist()} <= shown
    (last,) = (n for n in groups if n.startswith("grouped"))
    index = {m.tensor: m for m in groups[last].members}["grouped.weight"].index
    assert found[last].numel() == flat.numel()
    torch.testing.assert_close(found[last].flatten(2).sort().values, flat[:, index].flatten(2).sort().values)


def test_heads_and_neurons_of_a_transformer() -> None:
    torch.manual_seed(0)
    model = segformer_mini().eval()
    x = torch.randn(2, 3, 64, 64)
    groups, found, inputs = find_groups(model, x), seen(model, x), {}
    block = model.encoder.stages[1].blocks[0]
    for layer in (block.attention.project, block.mlp.fc2):
        layer.register_forward_pre_hook(lambda m, a: inputs.__setitem__(m, a[0].detach()))
    with torch.no_grad():
        model(x)
    heads = found["encoder.stages.1.blocks.0.attention.query"]  # (B, U, K, tokens)
    tokens = inputs[block.attention.project]
    assert torch.equal(heads, tokens.unflatten(2, (2, -1)).permute(0, 2, 3, 1))
    neurons = found["encoder.stages.1.blocks.0.mlp.fc1"]
    assert torch.equal(neurons[:, :, 0], inputs[block.mlp.fc2].transpose(1, 2))
    assert len(found) == len(groups)


def test_watching_works_in_training_with_gradients_and_stops() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    groups, maps = find_groups(model, X), []
    with watch(model, groups, lambda name, x: maps.append((name, x))):
        model(X)
        with pytest.raises(RuntimeError, match="stop"), watch(model, groups, lambda n, x: None):
            raise RuntimeError("stop")
        model(X)
    model(X)
    assert [name for name, _ in maps] == ["0", "0"]
    maps[0][1].sum().backward()
    assert model[0].weight.grad is not None and not model[0]._forward_pre_hooks and not model[2]._forward_pre_hooks


def test_what_cannot_be_seen_is_named() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.w = nn.Linear(3, 4), nn.Parameter(torch.randn(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) @ self.w

    x = torch.randn(2, 3)
    with pytest.raises(ScoreError, match="what reads 'a' is no convolution or linear layer.*groups.only"):
        seen(Raw(), x)


def test_still_runs_everything_and_moves_nothing() -> None:
    class Aux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.drop = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)
            self.b, self.aux, self.end = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = self.drop(self.bn(self.a(x)))
            return (self.b(x), self.end(self.aux(x))) if self.training else self.b(x)

    model = Aux().train()
    model.aux.eval()
    groups, mean = find_groups(model, X), model.bn.running_mean.clone()
    assert "aux" in groups
    with still(model, groups):
        first, second = model(X), model(X)
    assert torch.equal(first[0], second[0]) and torch.equal(model.bn.running_mean, mean)
    with still(model, groups.only(["a"])):
        assert isinstance(model(X), Tensor)  # nothing asks for the auxiliary part
    with still(model, groups.only(["a"]), ["aux.weight"]):
        assert isinstance(model(X), tuple)  # a layer of it is watched
    assert [m.training for m in (model, model.bn, model.drop, model.aux)] == [True, True, True, False]
