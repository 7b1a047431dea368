"""SIRFP's settings at mini, small and full scale, one value for each data set.

The numbers of `full` are Table 10 of Wu et al. (AAAI 2025); DeepLabV3, DeepLabV3+ and PSPNet share them. Where the
paper is silent, the authors' released scripts say: plain cross-entropy while pre-training, the short side of ADE20K's
and COCO-Stuff's pictures at 512, a ResNet with a stem of three convolutions. Not as they: no multi-grid in the
backbone, no warm-up, and DeepLabV3's head is that of its own paper, 39.8 M parameters in all and not 41.3 M.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from prunekit.course.experiments import Stretch, adamw, check_numbers, choose, pick_model
from prunekit.course.presets import Scale
from prunekit.models import zoo
from prunekit.models.deeplab import deeplabv3, deeplabv3plus
from prunekit.models.pspnet import pspnet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "deeplabv3": partial(deeplabv3, backbone="resnet50s"),
    "deeplabv3plus": partial(deeplabv3plus, backbone="resnet50s", output_stride=8, aux=True),
    "pspnet": partial(pspnet, backbone="resnet50s"),
}


@dataclass(frozen=True)
class Sirfp:
    """What `prunekit run sirfp` and the lesson read. size: (height, width) of a training crop, pixels. model: a key of
    MODELS, or a mini network of models/zoo.py. macs_ratio: fraction of the dense MACs that is gone in the end, in equal
    portions, one a stretch of `tune`. decay: alpha of the edge weights' average, every: look at one step in so many.
    max_ratio: largest fraction of a layer that one cut removes. round_to: kept channels are a multiple of it. window:
    GSRL's k. short_side: pictures are resized to it before anything else. pretrained: ImageNet weights, by timm's hub.
    """

    dataset: str
    model: str
    size: tuple[int, int]
    pretrain: Stretch
    tune: tuple[Stretch, ...]
    macs_ratio: float = 0.6
    decay: float = 0.99
    every: int = 1
    max_ratio: float = 0.9
    round_to: int = 1
    aux_weight: float = 0.4
    window: int = 9
    short_side: int | None = None
    pretrained: bool = False

    @property
    def targets(self) -> tuple[float, ...]:
        """Fraction of the dense MACs that is gone after each cut: (0.30, 0.60) for 0.6 in two steps."""
        return tuple(round(self.macs_ratio * (n + 1) / len(self.tune), 6) for n in range(len(self.tune)))


SIRFP: dict[Scale, dict[str, Sirfp]] = {
    "mini": {
        "scenes": Sirfp(
            dataset="scenes",
            model="deeplabv3_mini",
            size=(64, 128),
            pretrain=adamw(50, 16, 0.001),
            tune=(adamw(75, 16, 0.002), adamw(125, 16, 0.002)),
            decay=0.9,
            window=3,
        )
    },
    "small": {
        "camvid": Sirfp(
            dataset="camvid",
            model="deeplabv3_mini",
            size=(240, 320),
            pretrain=adamw(2000, 8, 0.003),
            tune=(adamw(400, 8, 0.003), adamw(800, 8, 0.003)),
            window=5,
        )
    },
    "full": {
        "cityscapes": Sirfp(
            dataset="cityscapes",
            model="deeplabv3",
            size=(769, 769),
            pretrain=Stretch(4000, 8, 0.01, 0.0005),
            tune=(Stretch(4000, 8, 0.01, 0.001), Stretch(36000, 8, 0.01, 0.001)),
            pretrained=True,
        ),
        "ade20k": Sirfp(
            dataset="ade20k",
            model="deeplabv3",
            size=(512, 512),
            pretrain=Stretch(16000, 16, 0.01, 0.0001),
            tune=(Stretch(144000, 16, 0.01, 0.0005),),
            short_side=512,
            pretrained=True,
        ),
        "cocostuff10k": Sirfp(
            dataset="cocostuff10k",
            model="deeplabv3",
            size=(512, 512),
            pretrain=Stretch(6000, 16, 0.001, 0.0001),
            tune=(Stretch(6000, 16, 0.001, 0.0001), Stretch(54000, 16, 0.001, 0.0001)),
            short_side=512,
            pretrained=True,
        ),
    },
}


def preset_of(scale: Scale, dataset: str | None = None) -> Sirfp:
    """The scale's preset for a data set, the first one without a name. InputError with the names there are."""
    return choose(SIRFP, scale, dataset)


def override(preset: Sirfp, **given: Any) -> Sirfp:
    """The preset with what is not None instead; steps and batch go to every training."""
    given = {name: value for name, value in given.items() if value is not None}
    check_numbers(given)
    each = {name: given.pop(name) for name in ("steps", "batch") if name in given}
    if "model" in given:
        pick_model(given["model"], MODELS, zoo.BUILDERS)
    tune = tuple(replace(stretch, **each) for stretch in preset.tune)
    return replace(preset, pretrain=replace(preset.pretrain, **each), tune=tune, **given)
