"""Labels before and after a cut: against the pruned network, at the corners, and as a picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

import prunekit as pk
from prunekit import viz
from prunekit.data.transforms import normalize
from prunekit.errors import InputError, ScoreError
from prunekit.methods import l1, random
from prunekit.metrics import confusion_matrix, iou_per_class
from prunekit.widgets import MaskStudy, explore_masks, masks_view
from prunekit.widgets.masks import look

PALETTE = np.array([[0, 0, 0], [10, 20, 30], [200, 0, 0]], np.uint8)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def study() -> MaskStudy:
    """Two images, three classes; the network halves the resolution, so its labels are scaled up."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU())
    net.append(nn.Conv2d(6, 3, 1)).eval()
    images = normalize(torch.rand(2, 3, 8, 12))
    truth = torch.randint(0, 3, (2, 8, 12))
    truth[0, 0, :5] = 255
    groups = pk.find_groups(net, images[:1])
    scores = {"l1": l1.score(net, groups), "random": random.score(net, groups)}
    return MaskStudy(net, groups, scores, images, truth, PALETTE, ("void", "road", "pole"), ratios=(0.0, 0.5, 0.9))


def labels(net: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        up = nn.Upsample((8, 12), mode="bilinear", align_corners=False)
        return up(net(image[None]))[0].argmax(0)


@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("method", ["l1", "random"])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
def test_labels_and_iou_are_those_of_the_dense_and_the_pruned_network(study, image: int, method: str, ratio: float):
    seen = look(study, image, method, ratio)
    small = pk.prune(study.model, study.groups, pk.uniform_plan(study.groups, study.scores[method], ratio))
    assert torch.equal(seen.dense_HW, labels(study.model, study.images_BCHW[image]))
    assert torch.equal(seen.pruned_HW, labels(small, study.images_BCHW[image]))
    wanted = iou_per_class(confusion_matrix(seen.pruned_HW, study.truth_BHW[image], 3))
    torch.testing.assert_close(seen.pruned_iou_K, wanted, equal_nan=True)
    assert torch.equal(seen.dense_HW, seen.pruned_HW) == (ratio == 0), "the cut must change something here"
    assert seen.macs_left == 1 if ratio == 0 else seen.macs_left < 0.7


def test_the_picture_has_image_both_label_maps_and_the_changes(study: MaskStudy):
    view = masks_view(study, 0, "l1", 0.9)
    seen = look(study, 0, "l1", 0.9)
    shown = [np.asarray(ax.images[0].get_array()) for ax in view.fig.axes]
    assert (shown[1] == PALETTE[seen.dense_HW]).all() and (shown[2] == PALETTE[seen.pruned_HW]).all()
    truth = study.truth_BHW[0]
    counted = {
        "newly wrong": (truth != 255) & (seen.dense_HW == truth) & (seen.pruned_HW != truth),
        "wrong before too": (truth != 255) & (seen.dense_HW != truth) & (seen.pruned_HW != truth),
        "now right": (truth != 255) & (seen.dense_HW != truth) & (seen.pruned_HW == truth),
    }
    for kind, where in counted.items():
        assert torch.equal(torch.tensor((shown[3] == viz.CHANGES[kind]).all(-1)), where), kind
    assert view.fig.axes[2].get_title() == f"l1, 90 % of units gone, mIoU {seen.pruned_iou_K.nanmean():.2f}"
    assert view.alt.startswith("Image 0 with 90 % of all units gone by l1, ")


def test_the_sentence_names_the_class_that_lost_most_or_none(study: MaskStudy):
    dense = f"{look(study, 1, 'l1', 0.0).dense_iou_K.nanmean():.2f}"
    assert masks_view(study, 1, "l1", 0.0).alt.endswith(
        f"100% of the MACs left: mIoU {dense} to {dense}, no class lost."
    )
    with torch.no_grad():  # truth as the dense network says it: every class can only lose
        truth = torch.stack([labels(study.model, image) for image in study.images_BCHW])
    right = replace(study, truth_BHW=truth)
    seen = look(right, 0, "random", 0.9)
    worst = int((1 - seen.pruned_iou_K).nan_to_num(nan=-1).argmax())
    assert (
        f"{study.classes[worst]} lost most, 1.00 to {seen.pruned_iou_K[worst]:.2f}."
        in masks_view(right, 0, "random", 0.9).alt
    )


def test_another_way_to_plan(study: MaskStudy):
    gentle = replace(study, make=lambda groups, scores, ratio: pk.uniform_plan(groups, scores, ratio / 2))
    assert torch.equal(look(gentle, 0, "l1", 0.8).pruned_HW, look(study, 0, "l1", 0.4).pruned_HW)
    assert look(gentle, 0, "l1", 0.8).macs_left > look(study, 0, "l1", 0.8).macs_left


def test_what_cannot_work_is_said(study: MaskStudy):
    for image in (-1, 2):
        with pytest.raises(InputError, match=f"no image {image}; they are numbered from 0 to 1"):
            masks_view(study, image, "l1", 0.5)
    with pytest.raises(ScoreError, match="no scores of 'taylor'; there are scores of: l1, random"):
        masks_view(study, 0, "taylor", 0.5)
    with pytest.raises(ScoreError, match="no scores: nothing to rank"):
        masks_view(replace(study, scores={"l1": {}}), 0, "l1", 0.5)
    with pytest.raises(InputError, match="fraction to remove"):
        masks_view(study, 0, "l1", 1.0)
    with pytest.raises(InputError, match="nothing to choose from"):
        explore_masks(replace(study, scores={}))
