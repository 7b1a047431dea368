"""DeepLab: shapes, strides, the auxiliary head, and sizes against the peer implementation and the papers."""

from __future__ import annotations

import re

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from prunekit.errors import InputError
from prunekit.methods import random
from prunekit.models.backbone import Backbone
from prunekit.models.deeplab import (
    DeepLabV3Plus,
    deeplabv3,
    deeplabv3_mini,
    deeplabv3plus,
    separable_bn_relu,
)
from prunekit.plan import uniform_plan
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import check_equivalence, find_groups, prune


@pytest.mark.parametrize(
    "build",
    [
        deeplabv3_mini,
        lambda classes: deeplabv3(classes, backbone="resnet18"),
        lambda classes: deeplabv3plus(classes, backbone="mobilenetv2_100"),
        lambda classes: deeplabv3plus(classes, backbone="mobilenetv2_100", lite=True),
    ],
)
def test_logits_come_at_the_size_of_the_image(build) -> None:
    model = build(7).eval()
    with torch.no_grad():
        assert model(torch.randn(2, 3, 64, 96)).shape == (2, 7, 64, 96)


def test_training_adds_the_auxiliary_head() -> None:
    out = deeplabv3_mini(5).train()(torch.randn(2, 3, 64, 64))
    assert {name: tuple(o.shape) for name, o in out.items()} == {"out": (2, 5, 64, 64), "aux": (2, 5, 64, 64)}
    plain = deeplabv3plus(5, backbone="resnet18").train()
    assert plain(torch.randn(2, 3, 64, 64)).shape == (2, 5, 64, 64)


@pytest.mark.parametrize("stride", [8, 16])
def test_the_deepest_map_has_the_stride_asked_for(stride: int) -> None:
    body = Backbone("resnet18", (3, 4), stride)
    maps = body(torch.randn(1, 3, 128, 128))
    assert body.strides[-1] == stride
    assert [m.shape[-1] for m in maps] == [128 // s for s in body.strides]
    assert [m.shape[1] for m in maps] == list(body.channels)


def test_without_the_stem_pooling_maps_are_twice_as_fine() -> None:
    body = Backbone("resnet18", (3, 4), 16, keep_stem=False)
    assert [m.shape[-1] for m in body(torch.randn(1, 3, 128, 128))] == [128 // s for s in body.strides] == [16, 16]


def test_impossible_backbones_are_refused() -> None:
    with pytest.raises(InputError, match="output_stride is 8, 16 or 32"):
        Backbone("resnet18", (3, 4), 12)
    with pytest.raises(InputError, match="no stem max-pooling"):
        Backbone("mobilenetv2_100", (2, 4), 16, keep_stem=False)


def test_parameters_equal_torchvision_to_the_last_one() -> None:
    """Same network as torchvision's, class for class: 42,004,074 parameters with the auxiliary head, 21 classes."""
    peer = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    assert count_params(deeplabv3(21)) == count_params(peer)
    x = torch.randn(1, 3, 65, 65)
    assert count_macs(deeplabv3(21), x) == pytest.approx(count_macs(peer.eval(), x) - _aux_macs(), rel=1e-3)


def _aux_macs() -> int:
    """torchvision runs its auxiliary head in eval mode too, ours does not: 3x3 over 1024 -> 256, then 1x1 -> 21."""
    return 9 * 9 * (1024 * 256 * 9 + 256 * 21)


def test_the_published_size_of_deeplabv3_resnet101() -> None:
    """58.04 M parameters and 71.52 G MACs at 513 x 513: output stride 16, 21 classes, no 3x3 after ASPP.

    Parameters agree to the last digit printed; MACs are 0.6 % below, as counts that include batch norms would be.
    """
    with torch.device("meta"):
        model = deeplabv3(21, backbone="resnet101", output_stride=16, aux=False, fuse=False)
        macs = count_macs(model, torch.randn(1, 3, 513, 513))
    assert round(count_params(model) / 1e6, 2) == 58.04
    assert macs / 1e9 == pytest.approx(71.52, rel=0.01)


def test_the_published_size_of_deeplabv3plus_mobilenetv2() -> None:
    """2.26 M parameters with 19 classes; the 9.5 G MACs printed at 512 x 1024 fit no stride (10.3 G at 16)."""
    with torch.device("meta"):
        assert round(count_params(deeplabv3plus(19, backbone="mobilenetv2_100", lite=True)) / 1e6, 2) == 2.26


def stir(model: nn.Module) -> None:
    """Norms that are not the identity, so that a wrong key shows."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)


def from_torchvision(name: str) -> str:
    """torchvision's name of a tensor -> ours."""
    for theirs, ours in (
        (r"^backbone\.", "backbone.body."),
        (r"^classifier\.0\.convs\.4\.1\.", "aspp.branches.4.project.0."),
        (r"^classifier\.0\.convs\.4\.2\.", "aspp.branches.4.project.1."),
        (r"^classifier\.0\.convs\.", "aspp.branches."),
        (r"^classifier\.0\.project\.", "aspp.project.0."),
        (r"^classifier\.1\.", "fuse.0."),
        (r"^classifier\.2\.", "fuse.1."),
        (r"^classifier\.4\.", "classifier."),
        (r"^aux_classifier\.([01])\.", r"aux.0.\1."),
        (r"^aux_classifier\.4\.", "aux.2."),
    ):
        name, found = re.subn(theirs, ours, name)
        if found:
            break
    return name


def test_the_same_weights_give_torchvisions_outputs() -> None:
    torch.manual_seed(0)
    peer = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=7, aux_loss=True).eval()
    stir(peer)
    ours = deeplabv3(7).eval()
    ours.load_state_dict({from_torchvision(n): t for n, t in peer.state_dict().items()})
    x = torch.randn(1, 3, 97, 97)
    with torch.no_grad():
        expected = peer(x)["out"]
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def from_smp(name: str) -> str:
    """smp's name of a tensor of its DeepLabV3+ -> ours, for the network built in the test below."""
    for theirs, ours in (
        (r"^encoder\.model\.", "backbone.body."),
        (r"^decoder\.aspp\.0\.convs\.4\.1\.", "aspp.0.branches.4.project.0."),
        (r"^decoder\.aspp\.0\.convs\.4\.2\.", "aspp.0.branches.4.project.1."),
        (r"^decoder\.aspp\.0\.convs\.([123])\.0\.", r"aspp.0.branches.\1.0."),
        (r"^decoder\.aspp\.0\.convs\.", "aspp.0.branches."),
        (r"^decoder\.aspp\.0\.project\.", "aspp.0.project.0."),
        (r"^decoder\.aspp\.1\.", "aspp.1."),
        (r"^decoder\.aspp\.2\.", "aspp.1.2."),
        (r"^decoder\.block1\.", "low."),
        (r"^decoder\.block2\.0\.", "fuse."),
        (r"^decoder\.block2\.1\.", "fuse.2."),
        (r"^segmentation_head\.0\.", "classifier."),
    ):
        name, found = re.subn(theirs, ours, name)
        if found:
            break
    return name


def smp_pair() -> tuple[DeepLabV3Plus, nn.Module]:
    """Ours and smp's, same weights. smp moves one of the decoder's 3x3 in front of the resizing: so does ours here."""
    torch.manual_seed(0)
    peer = smp.DeepLabV3Plus("tu-resnet18", encoder_weights=None, classes=5, decoder_aspp_separable=False).eval()
    stir(peer)
    ours = DeepLabV3Plus(Backbone("resnet18", (1, 3, 4), 16), 5, separable=True)
    ours.aspp = nn.Sequential(ours.aspp, separable_bn_relu(256, 256))  # type: ignore[assignment]
    ours.fuse = ours.fuse[:1][0]
    ours.load_state_dict({from_smp(n): t for n, t in peer.state_dict().items()})
    return ours.eval(), peer


def test_the_same_weights_give_the_outputs_of_segmentation_models_pytorch() -> None:
    ours, peer = smp_pair()
    x = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        corners = peer(x)
        peer.decoder.up.align_corners = peer.segmentation_head[1].align_corners = False
        expected = peer(x)

        def difference(logits: Tensor) -> float:
            return float((ours(x) - logits).abs().max() / logits.abs().max())

        assert difference(expected) < 1e-5
        assert difference(corners) > 1e-2  # the control: another way of resizing does not agree


def test_half_of_the_lite_network_is_exact() -> None:
    torch.manual_seed(0)
    model, x = deeplabv3plus(5, backbone="mobilenetv2_100", lite=True), torch.randn(1, 3, 64, 64)
    groups = find_groups(model, x)
    plan = uniform_plan(groups, random.score(model, groups), 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).max_error <= 1e-9
    assert count_params(small) < 0.4 * count_params(model)
