"""Ops that copy, shift or re-deal channels: which positions go together, and masked == pruned for any plan."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import PruningPlan
from prunekit.plan import plan_macs, plan_params
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GRID = F.affine_grid(torch.eye(2, 3)[None].repeat(2, 1, 1), [2, 8, 8, 8], align_corners=False)


class Between(nn.Module):
    """a (8 channels) -> an op -> b, a 1x1 convolution that reads `reads` channels."""

    def __init__(self, op: Callable[[Tensor], Tensor], reads: int) -> None:
        super().__init__()
        self.a, self.b, self.op = nets.conv(3, 8), nets.conv(reads, 4, 1), op

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.op(self.a(x).sigmoid()))


def fold(y: Tensor) -> Tensor:
    return F.fold(y.flatten(2), (16, 16), 2, stride=2)


# op, channels that b reads, units of a, positions of a's first unit, what the first unit is for b
CASES = {
    "repeat": (lambda y: y.repeat(1, 2, 1, 1), 16, 8, [0], [0, 8]),
    "repeat_interleave": (lambda y: y.repeat_interleave(2, 1), 16, 8, [0], [0, 1]),
    "flip channels": (lambda y: y.flip(1), 8, 8, [0], [7]),
    "flip pixels": (lambda y: y.flip(-1), 8, 8, [0], [0]),
    "roll pixels": (lambda y: torch.roll(y, (1, 2), (2, 3)), 8, 8, [0], [0]),
    "pad channels": (lambda y: F.pad(y, (0, 0, 0, 0, 2, 3)), 13, 8, [0], [2]),
    "glu": (lambda y: F.glu(y, 1), 4, 4, [0, 4], [0]),
    "pixel_shuffle": (lambda y: F.pixel_shuffle(y, 2), 2, 2, [0, 1, 2, 3], [0]),
    "pixel_unshuffle": (lambda y: F.pixel_unshuffle(y, 2), 32, 8, [0], [0, 1, 2, 3]),
    "channel_shuffle": (lambda y: torch.ops.aten.channel_shuffle(y, 2), 8, 4, [0, 4], [0, 1]),
    "unfold": (lambda y: F.unfold(y, 2)[..., None], 32, 8, [0], [0, 1, 2, 3]),
    "fold": (fold, 2, 2, [0, 1, 2, 3], [0]),
    "grid_sample": (lambda y: F.grid_sample(y, GRID.to(y), align_corners=False), 8, 8, [0], [0]),
}


@pytest.mark.parametrize("name", CASES)
def test_positions_go_together_and_the_cut_is_exact(name: str) -> None:
    op, reads, size, made, read = CASES[name]
    model = Between(op, reads)
    groups = find_groups(model, X)
    group = groups["a"]
    (reader,) = group.consumers()
    assert group.size == size
    assert group.producers()[0].index[0].tolist() == made
    assert reader.index[0].tolist() == read
    for seed in range(4):
        plan = nets.random_plan(groups, 0.5, seed)
        small = prune(model, groups, plan)
        assert type(small) is Between
        assert check_equivalence(model, small, groups, plan, X).max_error < 1e-12


def test_padded_positions_stay() -> None:
    model = Between(*CASES["pad channels"][:2])
    groups = find_groups(model, X)
    small = prune(model, groups, PruningPlan({"a": 8}, {"a": (3,)}))
    assert small.b.weight.shape[1] == 2 + 1 + 3


@pytest.mark.parametrize("groups_of", [1, 2, 4])
def test_transposed_convolutions_keep_their_groups_equally_wide(groups_of: int) -> None:
    model = nn.Sequential(nets.conv(3, 8), nn.ConvTranspose2d(8, 12, 2, stride=2, groups=groups_of), nets.conv(12, 2))
    groups = find_groups(model, X)
    assert {n: g.size for n, g in groups.items()} == {"0": 8 // groups_of, "1": 12 // groups_of}
    plan = nets.random_plan(groups, 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, X).max_error < 1e-12
    assert count_macs(small, X) == plan_macs(groups, plan)
    assert count_params(small) == plan_params(groups, plan)


def test_a_layer_norm_written_by_hand_is_pruned_and_called_inexact() -> None:
    class Normed(Between):
        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            centred = y - y.mean(1, keepdim=True)
            return self.b(centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt())

    model = Normed(lambda y: y, 8)
    groups = find_groups(model, X)
    assert not groups["a"].exact
    plan = nets.random_plan(groups, 0.5)
    assert check_equivalence(model, prune(model, groups, plan), groups, plan, X).inexact == ("a",)


def test_swin_loses_channels_along_its_shifted_windows() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(2, 2), embed_dim=32)
    model, x = model.eval(), torch.randn(1, 3, 64, 64)
    groups = find_groups(model, x)
    assert "patch_embed.proj" in groups  # the stream, through roll and window partition
    plan = nets.random_plan(groups, 0.5)
    assert check_equivalence(model, prune(model, groups, plan), groups, plan, x).max_error < 1e-12
