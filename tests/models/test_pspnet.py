"""PSPNet: shapes, the auxiliary head, the published size, the same numbers as a peer, and pruning."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from prunekit.methods import random
from prunekit.models.backbone import Backbone
from prunekit.models.pspnet import PSPNet, PyramidPooling, pspnet, pspnet_mini
from prunekit.plan import uniform_plan
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune


@pytest.mark.parametrize("build", [pspnet_mini, lambda classes: pspnet(classes, backbone="resnet18")])
def test_logits_come_at_the_size_of_the_image(build) -> None:
    model = build(7).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 64, 96)).shape == (2, 7, 64, 96)
        assert model(torch.randn(1, 3, 65, 97)).shape == (1, 7, 65, 97)


def test_training_adds_the_auxiliary_head() -> None:
    out = pspnet_mini(5).train()(torch.randn(2, 3, 64, 64))
    assert {name: tuple(o.shape) for name, o in out.items()} == {"out": (2, 5, 64, 64), "aux": (2, 5, 64, 64)}
    plain = pspnet(5, backbone="resnet18", aux=False).train()
    assert plain(torch.randn(2, 3, 64, 64)).shape == (2, 5, 64, 64)


def test_one_bin_is_the_mean_of_the_whole_image() -> None:
    pyramid = PyramidPooling(3, 2, (1,), align_corners=True).eval()
    nn.init.dirac_(pyramid.branches[0][1][0].weight)
    x = torch.rand(2, 3, 5, 7)
    out = pyramid(x)
    assert torch.equal(out[:, :3], x)
    means = x.mean((2, 3), keepdim=True)[:, :2] / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(out[:, 3:], means.expand(2, 2, 5, 7))


def test_the_published_size() -> None:
    """46.71 M parameters and 190.43 G MACs at 513 x 513."""
    with torch.device("meta"):
        model = pspnet(21, aux=False)
        macs = count_macs(model, torch.empty(1, 3, 513, 513))
    assert count_params(model) / 1e6 == pytest.approx(46.71, abs=0.01)
    assert macs / 1e9 == pytest.approx(190.43, rel=0.005)


def test_the_mini_is_small() -> None:
    with torch.device("meta"):
        assert count_params(pspnet_mini()) / 1e6 == pytest.approx(0.46, abs=0.01)


def peer_weights(peer: nn.Module, eps: float = 1e-5) -> dict[str, Tensor]:
    """smp's weights under our names. smp puts the pyramid before the map and has no norm behind the 1x1 bin."""
    weights = {}
    for name, tensor in peer.state_dict().items():
        name = name.replace("encoder.", "backbone.body.").replace("segmentation_head.0", "classifier")
        name = name.replace("decoder.psp.blocks.", "pyramid.branches.").replace(".pool.1.", ".1.")
        weights[name.replace("decoder.conv.", "fuse.0.")] = tensor
    fuse = weights["fuse.0.0.weight"]
    deep = fuse.shape[1] // 2
    weights["fuse.0.0.weight"] = torch.cat([fuse[:, deep:], fuse[:, :deep]], 1)
    first, bias = "pyramid.branches.0.1.1.", weights.pop("pyramid.branches.0.1.0.bias")
    weights |= {first + "bias": bias, first + "weight": torch.ones_like(bias)}  # an identity norm carries the bias
    weights |= {first + "running_mean": torch.zeros_like(bias), first + "running_var": torch.full_like(bias, 1 - eps)}
    return weights


def stir(model: nn.Module) -> None:
    """Norms that are not the identity, so that a wrong key shows."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.weight, 0.5), (layer.running_var, 0.5), (layer.bias, -0.5)):
                nn.init.uniform_(tensor, low, low + 1)
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)


def test_the_same_weights_give_the_numbers_of_segmentation_models_pytorch() -> None:
    """The whole network; smp's fuse is 1x1 and its classifier 3x3, so ours get those two layers for the comparison."""
    torch.manual_seed(0)
    peer = smp.PSPNet("resnet18", encoder_weights=None, classes=5, psp_dropout=0.0).eval()
    stir(peer)
    ours = PSPNet(Backbone("resnet18", (1, 2), 8), 5).eval()
    ours.fuse[0][0] = nn.Conv2d(256, 512, 1, bias=False)
    ours.classifier = nn.Conv2d(512, 5, 3, padding=1)
    weights = peer_weights(peer)
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert [name for name in missing if not name.endswith("num_batches_tracked")] == []
    assert [name for name in unexpected if not name.startswith("backbone.body.layer")] == []  # smp keeps unused stages
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = peer(x)
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        ours.align_corners = False  # the control: another way of resizing does not agree
        assert (ours(x) - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("build", [pspnet_mini, lambda: pspnet(5, backbone="resnet50s")], ids=["mini", "resnet50s"])
def test_half_of_it_is_exact_and_still_trains(build) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(2, 3, 64, 64)
    groups = find_groups(model, x)
    plan = uniform_plan(groups, random.score(model, groups), 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error <= 1e-9
    assert count_params(small) < 0.4 * count_params(model)
    out = small.train()(x)
    (out["out"].square().mean() + out["aux"].square().mean()).backward()
    assert all(p.grad is not None for p in small.parameters())
