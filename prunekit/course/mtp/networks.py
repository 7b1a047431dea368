"""The two networks that MTP starts with: the segmenter of the preset, and a classifier with its backbone."""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from torch import nn

from prunekit.course.experiments import fetched
from prunekit.course.mtp.preset import BODIES, MODELS, Mtp
from prunekit.errors import DataError, InputError
from prunekit.methods.mtp.parts import blocks
from prunekit.models import zoo
from prunekit.models.backbone import Backbone
from prunekit.models.classifier import Classifier


def check(preset: Mtp) -> None:
    """InputError for a mini network that cannot be cut as asked, before anything is drawn or read for it."""
    if preset.model in MODELS:
        return
    with torch.device("meta"):
        segmenter = zoo.build(preset.model, classes=2)
    if preset.inner and not blocks(segmenter, backbone_path(segmenter)):
        raise InputError(
            f"the backbone of {preset.model} has no residual blocks to prune inside; pass --no-inner to prune all its "
            "channels."
        )


def segmenter_of(preset: Mtp, classes: int, *, seed: int) -> nn.Module:
    """The stored network for the scenes, the paper's for the full scale, else a mini one with random weights.

    Raises DownloadError when ImageNet weights are asked for and cannot be had.
    """
    torch.manual_seed(seed)
    if preset.model not in MODELS:
        return zoo.load(preset.model) if preset.dataset == "scenes" else zoo.build(preset.model, classes=classes)
    return fetched(lambda: MODELS[preset.model](classes, pretrained=preset.pretrained))


def classifier_of(preset: Mtp, segmenter: nn.Module, classes: int, *, seed: int) -> Classifier:
    """A classifier with a copy of the segmenter's backbone, and ImageNet's own last layer where that was pre-trained.

    The copy is dilated where the segmenter's backbone is, because W1 = W3 asks for one network, though that layer has
    seen none of it.

    Raises DataError when that layer has another number of classes, DownloadError as above.
    """
    torch.manual_seed(seed)
    backbone = segmenter.get_submodule(backbone_path(segmenter))
    assert isinstance(backbone, Backbone)
    classifier = Classifier(copy.deepcopy(backbone), classes)
    if preset.pretrained and preset.model in BODIES:
        body: Any = fetched(lambda: timm.create_model(BODIES[preset.model], pretrained=True))
        head = body.get_classifier()
        if head.out_features != classes:
            raise DataError(
                f"the classification set has {classes} classes, the pre-trained head {head.out_features}: is a folder "
                "of the set missing? For another set than ImageNet pass --no-pretrained."
            )
        classifier.head = head
    return classifier


def backbone_path(segmenter: nn.Module) -> str:
    """The name of its backbone: "backbone", in BiSeNet "context.backbone". InputError without one."""
    for name, module in segmenter.named_modules():
        if isinstance(module, Backbone):
            return name
    raise InputError(f"{type(segmenter).__name__} has no convolutional backbone; take e.g. deeplabv3_mini.")
