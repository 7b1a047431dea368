"""MTP's settings at mini, small and full scale, one value for each network and data set.

The numbers of `full` are Appendix 7.1 of Chen et al. (MTP); its epochs are turned into steps, a last batch counted as
a full one. Where the appendix is silent: lambda 1, mu and rho as below, sparse training for 20 rounds over 10 epochs of
ImageNet and a fifth of the fine-tuning's segmentation epochs, at the fine-tuning's learning rate; weight decay 1e-4;
ADE20K and PSPNet with an auxiliary head of weight 0.4, BiSeNet with two of weight 1, as in their own papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import nn

from prunekit.course.experiments import Stretch, adamw, check_numbers, choose, pick_model
from prunekit.course.presets import Scale
from prunekit.errors import InputError
from prunekit.methods.mtp import Settings
from prunekit.methods.mtp.thresholds import How
from prunekit.models import zoo
from prunekit.models.bisenet import bisenet
from prunekit.models.deeplab import deeplabv3
from prunekit.models.pspnet import pspnet
from prunekit.multiscale import SCALES

MODELS: dict[str, Callable[..., nn.Module]] = {
    "deeplabv3_r101": partial(deeplabv3, backbone="resnet101", output_stride=16, aux=False, fuse=False),
    "bisenet_r18": partial(bisenet, backbone="resnet18"),
    "pspnet_r50": pspnet,
}
BODIES = {"deeplabv3_r101": "resnet101", "bisenet_r18": "resnet18", "pspnet_r50": "resnet50s"}  # timm's names
IMAGES = {"voc": 10_582, "cityscapes": 2_975, "ade20k": 20_210, "imagenet": 1_281_167}  # of training
Objects = Literal["patches", "crops", "tinyimagenet", "imagenet"]


@dataclass(frozen=True)
class Mtp:
    """What `prunekit run mtp` and the lesson read. size: (height, width) of a training crop, side: of a picture to
    classify, pixels. objects: the classification set. model: a key of MODELS, or a mini network of models/zoo.py.

    pretrain, dense: of the classifier, of the segmenter, before anything is sparse. classify, segment: of all rounds of
    the alternation together. tune_classify, tune_segment: after the cut. percentage: of the channels that go; round_to:
    those that stay are a multiple of it; inner: of the backbone's only those inside residual blocks may go. resize:
    range of random scaling. scales: of multi-scale testing beside the plain one, empty: none.
    """

    dataset: str
    model: str
    size: tuple[int, int]
    pretrain: Stretch
    dense: Stretch
    classify: Stretch
    segment: Stretch
    tune_classify: Stretch
    tune_segment: Stretch
    objects: Objects = "imagenet"
    side: int = 224
    settings: Settings = field(default_factory=Settings)
    percentage: float = 0.5
    how: How = "independent"
    inner: bool = True
    round_to: int = 1
    aux_weight: float = 0.4
    resize: tuple[float, float] = (0.5, 2.0)
    scales: tuple[float, ...] = ()
    pretrained: bool = False


def epochs(count: int, images: str, batch: int) -> int:
    """Steps of so many epochs of a data set."""
    return count * math.ceil(IMAGES[images] / batch)


def _full(
    dataset: str,
    model: str,
    size: tuple[int, int],
    *,
    dense: tuple[int, int, float],
    tune: tuple[int, float],
    imagenet: tuple[int, int],
    alpha: float,
    **more: Any,
) -> Mtp:
    """dense: (epochs, batch, lr). tune: (epochs, lr). imagenet: (epochs of fine-tuning, batch)."""
    first, batch, lr = dense
    last, tune_lr = tune
    rounds = 20
    objects = epochs(10, "imagenet", imagenet[1]) // rounds * rounds
    pictures = epochs(last // 5, dataset, batch) // rounds * rounds
    return Mtp(
        dataset,
        model,
        size,
        pretrain=Stretch(0, imagenet[1], 0.001),
        dense=Stretch(epochs(first, dataset, batch), batch, lr),
        classify=Stretch(objects, imagenet[1], 0.001, schedule="linear"),
        segment=Stretch(pictures, batch, tune_lr),
        tune_classify=Stretch(epochs(imagenet[0], "imagenet", imagenet[1]), imagenet[1], tune_lr),
        tune_segment=Stretch(epochs(last, dataset, batch), batch, tune_lr),
        settings=Settings(rounds=rounds, alpha1=alpha, alpha2=alpha),
        pretrained=True,
        **more,
    )


def _mini(model: str, aux_weight: float) -> Mtp:
    return Mtp(
        "scenes",
        model,
        (64, 128),
        pretrain=adamw(100, 32, 0.002),
        dense=Stretch(0, 16, 0.003),
        classify=Stretch(160, 32, 0.05, schedule="linear"),
        segment=Stretch(160, 8, 0.05, schedule="linear"),
        tune_classify=adamw(40, 64, 0.002),
        tune_segment=adamw(150, 16, 0.003),
        objects="patches",
        side=32,
        settings=Settings(rounds=10, alpha1=0.036, alpha2=0.036, mu=0.1, rho=1.8),
        aux_weight=aux_weight,
    )


def _small(model: str, aux_weight: float) -> Mtp:
    return replace(
        _mini(model, aux_weight),
        dataset="camvid",
        size=(240, 320),
        objects="tinyimagenet",
        side=64,
        pretrain=adamw(4000, 128, 0.003),
        dense=adamw(2000, 8, 0.003),
        classify=Stretch(1000, 128, 0.02, schedule="linear"),
        segment=Stretch(500, 8, 0.02, schedule="linear"),
        tune_classify=adamw(1000, 128, 0.002),
        tune_segment=adamw(800, 8, 0.003),
        settings=Settings(rounds=10, alpha1=0.005, alpha2=0.005, mu=0.1, rho=1.8),
    )


MTP: dict[Scale, dict[str, Mtp]] = {
    "mini": {"scenes": _mini("deeplabv3_mini", 0.4), "scenes-bisenet": _mini("bisenet_mini", 1.0)},
    "small": {"camvid": _small("deeplabv3_mini", 0.4), "camvid-bisenet": _small("bisenet_mini", 1.0)},
    "full": {
        "voc": _full(
            "voc",
            "deeplabv3_r101",
            (513, 513),
            dense=(50, 16, 0.007),
            tune=(50, 0.0007),
            imagenet=(20, 256),
            alpha=0.001,
        ),
        "cityscapes": _full(
            "cityscapes",
            "deeplabv3_r101",
            (512, 1024),
            dense=(480, 32, 0.01),
            tune=(240, 0.0005),
            imagenet=(20, 256),
            alpha=0.001,
            scales=SCALES,
        ),
        "cityscapes-bisenet": _full(
            "cityscapes",
            "bisenet_r18",
            (768, 1536),
            dense=(80, 32, 0.01),
            tune=(80, 0.001),
            imagenet=(50, 512),
            alpha=0.0001,
            resize=(0.75, 2.0),
            aux_weight=1.0,
        ),
        "ade20k": _full(
            "ade20k",
            "pspnet_r50",
            (480, 480),
            dense=(120, 32, 0.01),
            tune=(120, 0.0005),
            imagenet=(50, 128),
            alpha=0.0001,
            scales=SCALES,
        ),
    },
}


def preset_of(scale: Scale, name: str | None = None) -> Mtp:
    """The scale's preset by name, the first one without. InputError with the names there are."""
    return choose(MTP, scale, name)


def override(preset: Mtp, **given: Any) -> Mtp:
    """The preset with what is not None instead. steps, batch: of every training (steps of those that have any), steps
    a multiple of the rounds; rounds, alpha (both), mu, rho: of the alternation. InputError for what no run can do.
    """
    given = {name: value for name, value in given.items() if value is not None}
    check_numbers(given)
    each = {name: given.pop(name) for name in ("steps", "batch") if name in given}
    if "model" in given:
        pick_model(given["model"], MODELS, zoo.BUILDERS)
    if "alpha" in given:
        given["alpha1"] = given["alpha2"] = given.pop("alpha")
    own = {name: given.pop(name) for name in ("rounds", "alpha1", "alpha2", "mu", "rho") if name in given}
    stretches = {name: value for name, value in vars(preset).items() if isinstance(value, Stretch)}
    short = {n: replace(s, **{**each, **({} if s.steps else {"steps": 0})}) for n, s in stretches.items()}
    return _possible(replace(preset, settings=replace(preset.settings, **own), **short, **given))


def _possible(preset: Mtp) -> Mtp:
    """The preset again; InputError, in the command's words, for what would otherwise be found after hours."""
    if not 0 <= preset.percentage < 1:
        raise InputError(f"percentage is {preset.percentage:g}; give the fraction to remove, from 0 up to but not 1.")
    rounds = preset.settings.rounds
    for name in ("classify", "segment"):
        steps = getattr(preset, name).steps
        if steps % rounds:
            raise InputError(
                f"{steps} steps ({name}) are no multiple of {rounds} rounds; give --steps and --rounds that fit, e.g. "
                f"--steps {math.ceil(steps / rounds) * rounds}."
            )
    if preset.pretrained and preset.model not in BODIES:
        raise InputError(
            f"there are no ImageNet weights for {preset.model}; pass --no-pretrained, or one of: {', '.join(BODIES)}."
        )
    return preset
