"""The references of exercises about cost and structure, against the library that counts and traces."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunekit as pk
from prunekit.course.exercises import lesson_01, lesson_02
from prunekit.profiling import count_macs


def conv3(c_in: int, c_out: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, groups=groups, bias=False)


@pytest.mark.parametrize("r", [0.25, 0.5, 0.75])
def test_what_remains_of_a_layer_in_the_middle(r: float):
    x, keep = torch.zeros(1, 64, 8, 8), int(64 * (1 - r))
    dense, small = conv3(64, 64), conv3(keep, keep)
    macs, params, written = lesson_01.remains(r)
    assert macs == count_macs(small, x[:, :keep]) / count_macs(dense, x)
    assert params == small.weight.numel() / dense.weight.numel()
    assert written == small(x[:, :keep]).numel() / dense(x).numel()


@pytest.mark.parametrize(("c", "k"), [(8, 3), (16, 5)])
def test_the_separable_ratio(c: int, k: int):
    x = torch.zeros(1, c, 8, 8)
    depthwise = nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False)
    both = nn.Sequential(depthwise, nn.Conv2d(c, c, 1, bias=False))
    dense = nn.Conv2d(c, c, k, padding=k // 2, bias=False)
    assert lesson_01.separable_ratio(c, k) == pytest.approx(count_macs(both, x) / count_macs(dense, x))


class Puzzle(nn.Module):
    """As in lesson 02."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = conv3(3, 8), nn.Conv2d(8, 8, 1)
        self.narrow, self.widen = conv3(8, 4), conv3(4, 8)
        self.depthwise, self.head = conv3(8, 8, groups=8), conv3(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        y = self.narrow(x).relu()
        x = self.depthwise(x + self.widen(y))
        return self.head(torch.cat([y, x], 1))


def test_what_is_tied_to_the_stem_and_which_column_the_head_loses():
    group = pk.find_groups(Puzzle(), torch.zeros(1, 3, 8, 8))["stem"]
    assert {m.tensor.split(".")[0] for m in group.members if m.role != "consumer"} == lesson_02.tied_to_stem()
    (head,) = [m for m in group.members if m.tensor == "head.weight"]
    assert head.index[5].tolist() == [9] and "column 9" in lesson_02.PUZZLE.note


@pytest.mark.parametrize(("stem", "wide"), [(4, 6), (2, 3), (1, 5)])
def test_macs_of_four_layers(stem: int, wide: int):
    layers = {
        "stem": conv3(3, stem),
        "wide": conv3(stem, wide),
        "back": conv3(wide, stem),
        "head": conv3(stem + wide, 2),
    }
    total = sum(count_macs(layer, torch.zeros(1, layer.in_channels, 16, 16)) for layer in layers.values())
    assert lesson_02.macs_left(stem, wide) == total


@pytest.mark.parametrize("pixels", [1, 4])
def test_the_rule_of_flatten(pixels: int):
    channels = torch.tensor([7, 8, 9]).view(1, 3, 1).expand(1, 3, pixels)
    assert lesson_02.flatten_rule([7, 8, 9], pixels) == channels.flatten(1)[0].tolist()
