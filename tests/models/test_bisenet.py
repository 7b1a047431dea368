"""BiSeNet: shapes, three heads, the published size, attention by hand, and pruning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunekit.methods import random
from prunekit.models.bisenet import AttentionRefinement, FeatureFusion, bisenet, bisenet_mini
from prunekit.plan import uniform_plan
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune
from prunekit.train import segmentation_loss


@pytest.mark.parametrize("build", [bisenet_mini, bisenet])
def test_logits_come_at_the_size_of_the_image(build) -> None:
    model = build(7).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 64, 96)).shape == (2, 7, 64, 96)
        assert model(torch.randn(1, 3, 75, 101)).shape == (1, 7, 75, 101)


def test_training_adds_two_auxiliary_heads() -> None:
    out = bisenet_mini(5).train()(torch.randn(2, 3, 64, 64))
    assert {name: tuple(o.shape) for name, o in out.items()} == dict.fromkeys(
        ("out", "aux", "aux_deep"), (2, 5, 64, 64)
    )
    assert bisenet(5, aux=False).train()(torch.randn(2, 3, 64, 64)).shape == (2, 5, 64, 64)


def test_the_published_size() -> None:
    """12.89 M parameters and 104.27 G MACs at 2048 x 1024."""
    with torch.device("meta"):
        model = bisenet(19, aux=False)
        macs = count_macs(model, torch.empty(1, 3, 1024, 2048))
    assert count_params(model) / 1e6 == pytest.approx(12.89, abs=0.005)
    assert macs / 1e9 == pytest.approx(104.27, rel=0.006)


def test_the_mini_is_small() -> None:
    with torch.device("meta"):
        assert count_params(bisenet_mini()) / 1e6 == pytest.approx(0.54, abs=0.01)


def test_attention_weighs_channels_by_their_mean() -> None:
    arm = AttentionRefinement(3, 3).eval()
    nn.init.dirac_(arm.conv[0].weight)
    nn.init.dirac_(arm.attention[0].weight)
    x = torch.rand(2, 3, 5, 7)
    kept = x / (1 + 1e-5) ** 0.5  # the norm's eps
    factor = (kept.mean((2, 3), keepdim=True) / (1 + 1e-5) ** 0.5).sigmoid()
    torch.testing.assert_close(arm(x), kept * factor)


def test_fusion_never_shuts_a_channel() -> None:
    fusion = FeatureFusion(4, 4).eval()
    nn.init.dirac_(fusion.mix[0].weight)
    nn.init.zeros_(fusion.attention[2].weight)
    a, b = torch.rand(2, 2, 5, 7), torch.rand(2, 2, 5, 7)
    torch.testing.assert_close(fusion(a, b), 1.5 * torch.cat([a, b], 1) / (1 + 1e-5) ** 0.5)


def test_both_paths_meet_at_the_size_of_the_spatial_one() -> None:
    model, x = bisenet_mini(5).eval(), torch.randn(1, 3, 64, 64)
    seen = {}
    model.fusion.register_forward_pre_hook(lambda _, args: seen.update(spatial=args[0], context=args[1]))
    with torch.no_grad():
        model(x)
    assert seen["spatial"].shape == seen["context"].shape == (1, 48, 16, 16)


@pytest.mark.parametrize("build", [bisenet_mini, lambda: bisenet(5)], ids=["mini", "resnet18"])
def test_half_of_it_is_exact_and_still_trains(build) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(2, 3, 64, 64)
    groups = find_groups(model, x)
    plan = uniform_plan(groups, random.score(model, groups), 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error <= 1e-9
    assert count_params(small) < 0.4 * count_params(model)
    segmentation_loss(small.train()(x), torch.randint(0, 5, (2, 64, 64)), aux_weight=1.0).backward()
    assert all(p.grad is not None for p in small.parameters())
