"""UNet: shapes, backbones, the same sizes and numbers as a peer, and pruning."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from prunekit.errors import InputError
from prunekit.methods import random
from prunekit.models.backbone import Backbone
from prunekit.models.unet import UNet, unet, unet_mini
from prunekit.plan import uniform_plan
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune


@pytest.mark.parametrize(
    "build",
    [
        unet_mini,
        lambda classes: unet(classes, backbone="resnet18", resize="bilinear"),
        lambda classes: unet(classes, backbone="mobilenetv2_100"),
        lambda classes: unet(classes, backbone="convnext_atto", taps=(0, 1, 2, 3)),
    ],
    ids=["mini", "resnet18", "mobilenetv2", "convnext"],
)
def test_logits_come_at_the_size_of_the_image(build) -> None:
    model = build(7)
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 3, 64, 96)).shape == (2, 7, 64, 96)
        assert model(torch.randn(1, 3, 75, 101)).shape == (1, 7, 75, 101)  # no multiple of 32
        assert model.train()(torch.randn(2, 3, 64, 96)).shape == (2, 7, 64, 96)  # no auxiliary head


def test_what_does_not_fit_is_refused() -> None:
    body = Backbone("resnet18", (0, 1, 2), 32)
    with pytest.raises(InputError, match="returns 3 maps"):
        UNet(body, 5)
    with pytest.raises(InputError, match="nearest, bilinear, not 'area'"):
        UNet(body, 5, widths=(64, 32, 16), resize="area")


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_parameters_and_macs_equal_the_peers_to_the_last_one(backbone: str) -> None:
    with torch.device("meta"):
        ours, peer = unet(21, backbone=backbone), smp.Unet(backbone, encoder_weights=None, classes=21)
        x = torch.empty(1, 3, 64, 64)
        assert count_params(ours) == count_params(peer)
        assert count_macs(ours, x) == count_macs(peer, x)


def test_the_mini_is_small() -> None:
    with torch.device("meta"):
        assert count_params(unet_mini()) / 1e6 == pytest.approx(0.59, abs=0.01)


def stir(model: nn.Module) -> None:
    """Norms that are not the identity, so that a wrong key shows."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.weight, 0.5), (layer.running_var, 0.5), (layer.bias, -0.5)):
                nn.init.uniform_(tensor, low, low + 1)
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)


def our_name(name: str) -> str:
    """smp's key -> ours: encoder.layer1.0 ... -> backbone.body.layer1.0 ..."""
    name = name.replace("encoder.", "backbone.body.").replace("segmentation_head.0", "classifier")
    return name.replace("decoder.blocks", "blocks")


@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
def test_the_same_weights_give_the_numbers_of_segmentation_models_pytorch(resize: str) -> None:
    torch.manual_seed(0)
    peer = smp.Unet("resnet18", encoder_weights=None, classes=5, decoder_interpolation=resize).eval()
    stir(peer)
    ours = unet(5, backbone="resnet18", resize=resize).eval()
    weights: dict[str, Tensor] = {our_name(name): tensor for name, tensor in peer.state_dict().items()}
    ours.load_state_dict(weights)  # strict: every tensor has its counterpart
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = peer(x)
        limit = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=limit)
        other = unet(5, backbone="resnet18", resize={"nearest": "bilinear", "bilinear": "nearest"}[resize]).eval()
        other.load_state_dict(weights)  # the control: another way of resizing does not agree
        assert (other(x) - expected).abs().max() > 1000 * limit


@pytest.mark.parametrize(
    "build",
    [unet_mini, lambda: unet(5, backbone="resnet18"), lambda: unet(5, backbone="mobilenetv2_100")],
    ids=["mini", "resnet18", "mobilenetv2"],
)
def test_half_of_it_is_exact_and_still_trains(build) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(2, 3, 64, 64)
    groups = find_groups(model, x)
    plan = uniform_plan(groups, random.score(model, groups), 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error <= 1e-9
    assert count_params(small) < 0.4 * count_params(model)
    small.train()(x).square().mean().backward()
    assert all(p.grad is not None for p in small.parameters())
