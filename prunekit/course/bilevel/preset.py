"""The settings of bi-level pruning at mini, small and full scale, and the numbers its authors print.

What of `full` is the paper's (Yang et al., CVPR 2023): networks, data sets, crops, the MACs of "Ours-Small", lambda 0.1
and beta 0.01 (`MaskConfig(relative=False)`; in units it does not name, so the preset keeps ours). It is silent on the
length of search and training: pre-training is TopFormer's own (Zhang et al., CVPR 2022), DeepLabV3+'s that of its
paper; the search is an eighth of it, the rest our choice. A preset goes from TopFormer-Base to "Ours-Small", with -tiny
in its name to "Ours-Tiny". "Ours-Base" has the MACs of TopFormer-Base itself, so it was cut from a wider network, which
the paper does not name. With -base the start is `topformer_wide`, our guess: a quarter wider in every layer, and the
end TopFormer-Base's MACs. Other starts are --model and --macs-ratio.

What is removed is a share of TopFormer-Base's MACs as the paper counts them: 1.8 G on ADE20K and VOC. On Cityscapes we
take twice that: the picture is twice as large, and the paper's own rows there are twice those of ADE20K. The 2.7 G that
Table 2 prints beside TopFormer-Base are of another count; ours is nearer to the 3.6 G.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

from torch import nn

from prunekit.course.experiments import Stretch, adamw, check_numbers, choose, pick_model
from prunekit.course.presets import Scale
from prunekit.errors import InputError
from prunekit.methods.bilevel import MaskConfig
from prunekit.models import zoo
from prunekit.models.deeplab import deeplabv3plus
from prunekit.models.topformer import VARIANTS, TopFormer, topformer
from prunekit.plan import Limits

Method = Literal["bilevel", "regrow", "eagleeye", "l1"]


def topformer_wide(classes: int) -> nn.Module:
    """TopFormer-Base, every width and the heads times 5 / 4: half again its MACs."""
    base = VARIANTS["base"]
    blocks = tuple((kernel, expansion, 5 * width // 4, stride) for kernel, expansion, width, stride in base.blocks)
    sizes = replace(base, blocks=blocks, heads=5 * base.heads // 4, width=5 * base.width // 4)
    return TopFormer(sizes, classes, drop_path=0.1)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "topformer_wide": topformer_wide,
    **{f"topformer_{variant}": partial(topformer, variant=variant) for variant in ("base", "small", "tiny")},
    "deeplabv3plus_mobilenetv2": partial(deeplabv3plus, backbone="mobilenetv2_100", lite=True),
}


@dataclass(frozen=True)
class Printed:
    """A row of the paper: params in millions, macs in 10^9, mIoU in %, frames a second on an Adreno 660."""

    name: str
    params: float
    macs: float
    miou: float
    fps: float


PAPER: dict[str, tuple[Printed, ...]] = {  # Tables 1, 2, 4 and 5
    "ade20k": (
        Printed("EagleEye", 3.4, 1.2, 34.3, 59.2),
        Printed("DMCP", 3.3, 1.2, 33.9, 63.8),
        Printed("ResRep", 3.3, 1.2, 35.0, 64.9),
        Printed("CHEX", 3.3, 1.2, 35.2, 64.2),
        Printed("TopFormer-Base", 5.1, 1.8, 37.8, 36.3),
        Printed("TopFormer-Small", 3.1, 1.2, 36.1, 54.7),
        Printed("TopFormer-Tiny", 1.4, 0.6, 31.8, 82.7),
        Printed("Ours-Base", 3.7, 1.8, 38.9, 56.5),
        Printed("Ours-Small", 3.3, 1.2, 37.5, 75.2),
        Printed("Ours-Tiny", 1.3, 0.7, 33.5, 98.0),
    ),
    "cityscapes": (
        Printed("EagleEye", 3.6, 2.4, 69.6, 27.6),
        Printed("DMCP", 3.5, 2.4, 70.3, 32.0),
        Printed("ResRep", 3.5, 2.4, 71.3, 28.2),
        Printed("CHEX", 3.4, 2.4, 71.7, 35.5),
        Printed("TopFormer-Base", 5.1, 2.7, 70.6, 21.5),
        Printed("TopFormer-Tiny", 1.4, 1.2, 66.1, 42.8),
        Printed("Ours-Base", 3.7, 3.6, 74.7, 30.8),
        Printed("Ours-Small", 3.3, 2.4, 73.6, 38.7),
        Printed("Ours-Tiny", 1.3, 1.4, 71.5, 52.6),
    ),
    "voc": (
        Printed("TopFormer-Base", 5.1, 1.8, 71.0, 36.8),
        Printed("TopFormer-Small", 3.1, 1.2, 69.8, 55.2),
        Printed("TopFormer-Tiny", 1.4, 0.6, 65.7, 81.5),
        Printed("Ours-Base", 3.7, 1.8, 74.3, 56.8),
        Printed("Ours-Small", 3.3, 1.2, 73.4, 75.0),
        Printed("Ours-Tiny", 1.3, 0.7, 70.5, 97.6),
    ),
    "cityscapes-deeplab": (
        Printed("DeepLabV3+ MobileNetV2", 2.26, 9.5, 69.0, 9.4),
        Printed("Ours-Base-DeepLab", 1.21, 7.6, 70.9, 22.3),
        Printed("Ours-Small-DeepLab", 0.569, 4.3, 70.2, 28.1),
    ),
}


@dataclass(frozen=True)
class Bilevel:
    """What `prunekit run bilevel` and the lesson read. size: (height, width) of a training crop, pixels. model: a key
    of MODELS, or a mini network of models/zoo.py. pretrain: None = the stored checkpoint. macs_ratio: fraction of the
    MACs to remove. method: what makes the plan; eagleeye and l1 get the search's steps as fine-tuning, eagleeye draws
    `candidates` strategies. round_to, min_keep: see `Limits`. short_side: pictures are resized to it first.
    """

    dataset: str
    model: str
    size: tuple[int, int]
    search: Stretch
    tune: Stretch
    pretrain: Stretch | None = None
    macs_ratio: float = 0.5
    masks: MaskConfig = field(default_factory=MaskConfig)
    method: Method = "bilevel"
    candidates: int = 20
    round_to: int = 1
    min_keep: int = 1
    short_side: int | None = None

    def limits(self) -> Limits:
        """What every group keeps, whatever chooses."""
        return Limits(round_to=self.round_to, min_keep=self.min_keep)


_MINI, _TOPFORMER = adamw(150, 16, 0.002), "topformer_base"

BILEVEL: dict[Scale, dict[str, Bilevel]] = {
    "mini": {
        "scenes": Bilevel("scenes", "topformer_mini", (64, 128), search=_MINI, tune=_MINI),
        "scenes-deeplab": Bilevel(
            "scenes", "deeplabv3plus_mini", (64, 128), search=_MINI, tune=_MINI, macs_ratio=1 - 4.3 / 9.5
        ),
    },
    "small": {
        "camvid": Bilevel(
            "camvid",
            "topformer_mini",
            (240, 320),
            pretrain=adamw(2000, 8, 0.003),
            search=adamw(600, 8, 0.001),
            tune=adamw(800, 8, 0.002),
        )
    },
    "full": {
        "ade20k": Bilevel(
            "ade20k",
            _TOPFORMER,
            (512, 512),
            pretrain=adamw(160000, 16, 0.00012),
            search=adamw(20000, 16, 0.00012),
            tune=adamw(140000, 16, 0.00012),
            macs_ratio=1 / 3,
            short_side=512,
        ),
        "cityscapes": Bilevel(
            "cityscapes",
            _TOPFORMER,
            (512, 1024),
            pretrain=adamw(80000, 16, 0.0003),
            search=adamw(10000, 16, 0.0003),
            tune=adamw(70000, 16, 0.0003),
            macs_ratio=1 / 3,
            short_side=512,
        ),
        "voc": Bilevel(
            "voc",
            _TOPFORMER,
            (512, 512),
            pretrain=adamw(40000, 16, 0.0003),
            search=adamw(5000, 16, 0.0003),
            tune=adamw(35000, 16, 0.0003),
            macs_ratio=1 / 3,
        ),
        "cityscapes-deeplab": Bilevel(
            "cityscapes",
            "deeplabv3plus_mobilenetv2",
            (512, 1024),
            pretrain=Stretch(80000, 16, 0.01, 0.0005),
            search=Stretch(10000, 16, 0.01, 0.0005),
            tune=Stretch(70000, 16, 0.01, 0.0005),
            macs_ratio=1 - 4.3 / 9.5,
            short_side=512,
        ),
    },
}

_FULL = BILEVEL["full"]
# TopFormer-Base to "Ours-Tiny": MACs as the paper counts them
_TOPFORMERS = ("ade20k", "cityscapes", "voc")
_FULL |= {f"{name}-tiny": replace(_FULL[name], macs_ratio=1 - 0.7 / 1.8) for name in _TOPFORMERS}
# a third less than `topformer_wide` is TopFormer-Base's work, which "Ours-Base" has
_FULL |= {f"{name}-base": replace(_FULL[name], model="topformer_wide", macs_ratio=1 / 3) for name in _TOPFORMERS}
_FULL |= {"cityscapes-deeplab-base": replace(_FULL["cityscapes-deeplab"], macs_ratio=1 - 7.6 / 9.5)}


def preset_of(scale: Scale, name: str | None = None) -> Bilevel:
    """The scale's preset of this name, the first one without a name. InputError with the names there are."""
    return choose(BILEVEL, scale, name)


def override(preset: Bilevel, **given: Any) -> Bilevel:
    """The preset with what is not None instead; steps and batch go to every training, the masks' names to masks."""
    given = {name: value for name, value in given.items() if value is not None}
    check_numbers(given)
    each = {name: given.pop(name) for name in ("steps", "batch") if name in given}
    known = MaskConfig.__dataclass_fields__
    masks = replace(preset.masks, **{name: given.pop(name) for name in list(given) if name in known})
    pick_model(given.get("model", preset.model), {**MODELS, **zoo.BUILDERS})
    if given.get("method", preset.method) not in get_args(Method):
        raise InputError(f"no method {given['method']!r}; there are: {', '.join(get_args(Method))}.")
    stretches = {name: getattr(preset, name) for name in ("pretrain", "search", "tune")}
    changed = {name: replace(stretch, **each) for name, stretch in stretches.items() if stretch is not None}
    return replace(preset, masks=masks, **changed, **given)
