"""DeepLab: shapes, strides, the auxiliary head, and sizes against the peer implementation and the papers."""

from __future__ import annotations

import re

import pytest
import torch
from torchvision.models.segmentation import deeplabv3_resnet50

from prunekit.errors import InputError
from prunekit.models.backbone import Backbone
from prunekit.models.deeplab import deeplabv3, deeplabv3_mini, deeplabv3plus
from prunekit.profiling import count_macs, count_params


@pytest.mark.parametrize(
    "build",
    [
        deeplabv3_mini,
        lambda classes: deeplabv3(classes, backbone="resnet18"),
        lambda classes: deeplabv3plus(classes, backbone="mobilenetv2_100"),
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
    for module in peer.modules():  # fresh batch norms would hide a mistake
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    ours = deeplabv3(7).eval()
    ours.load_state_dict({from_torchvision(n): t for n, t in peer.state_dict().items()})
    x = torch.randn(1, 3, 97, 97)
    with torch.no_grad():
        expected = peer(x)["out"]
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
