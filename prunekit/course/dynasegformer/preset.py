"""DynaSegFormer's settings at mini, small and full scale, and the numbers its authors print.

What of `full` is the paper's (Bai et al., ICASSP 2022): networks and data sets, crops, batch, 160,000 steps at 0.00006
with poly decay, annealing over half of them, lambda_m (on the sum over a layer's gates) and lambda_s, 30 and 50 %; and,
since it keeps the rest as in SegFormer (Xie et al., NeurIPS 2021), what that released: 1,500 steps of warm-up, poly of
power 1 (our "linear"), weight decay 0.01 and none on norms. Left out of SegFormer's: a head that learns ten times as
fast, and the windows of 1024 x 1024 that it tests Cityscapes with; ours are whole pictures. Ours: biases are spared
weight decay with the norms; each stage of the distillation has half of the steps and a schedule of its own, warm-up and
all (not printed); a predictor is a 16th as wide as its layer (not printed; it fits the parameters that are). It starts
from the released SegFormer weights: give their file or folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from torch import nn

from prunekit.course.experiments import Stretch, adamw, check_numbers, choose, pick_model
from prunekit.course.presets import Scale
from prunekit.errors import InputError
from prunekit.methods.dynasegformer.gate import check_sparsity
from prunekit.models.segformer import segformer, segformer_mini

GateKind = Literal["dynamic", "static", "dense"]
Penalty = Literal["mean", "sum"]
STAGES = tuple(f"encoder.stages.{i}" for i in range(4))  # whose outputs stage 1 of the distillation compares
MODELS: dict[str, Callable[..., nn.Module]] = {
    "segformer_mini": segformer_mini,
    **{f"segformer_{variant}": partial(segformer, variant=variant) for variant in ("b0", "b2")},
}


@dataclass(frozen=True)
class Printed:
    """A row of Table 1: parameters in millions, MACs in 10^9, mIoU in %."""

    name: str
    params: float
    macs: float
    miou: float


PAPER: dict[str, tuple[Printed, ...]] = {
    "ade20k": (
        Printed("SegFormer-B0", 3.8, 8.4, 37.4),
        Printed("DynaSegFormer-B0, 30 %", 4.24, 3.3, 36.9),
        Printed("DynaSegFormer-B0, 50 %", 4.24, 2.7, 35.0),
        Printed("SegFormer-B2", 27.5, 62.4, 46.5),
        Printed("DynaSegFormer-B2, 30 %", 30.85, 18.5, 45.4),
        Printed("DynaSegFormer-B2, 50 %", 30.85, 15.0, 44.6),
    ),
    "cityscapes": (
        Printed("SegFormer-B0", 3.8, 125.5, 76.2),
        Printed("DynaSegFormer-B0, 30 %", 4.24, 62.7, 75.1),
        Printed("DynaSegFormer-B0, 50 %", 4.24, 46.7, 74.3),
        Printed("SegFormer-B2", 27.5, 717.1, 81.0),
        Printed("DynaSegFormer-B2, 30 %", 30.85, 286.5, 80.3),
        Printed("DynaSegFormer-B2, 50 %", 30.85, 214.2, 79.8),
    ),
}


@dataclass(frozen=True)
class Dyna:
    """What `prunekit run dynasegformer` and the lesson read. size: (height, width) of a training crop, pixels. whole:
    of the picture whose MACs are counted; None: that of the crop.

    train: of the student, both stages of the distillation together. pretrain: of the dense network, which is then the
    teacher; None: it comes trained. gate: "dynamic", "static" (the comparator) or "dense" (no gate, trained alike).
    features, soft: the two stages of distillation; annealing: over half of the steps. weight: lambda_m. soft_weight:
    lambda_s. penalty: "sum" of a layer's |G| as printed, or their "mean". reduction, gain: see make_dynamic; in a short
    training gates must move faster than weights. fuse_layer: of the additive decoder. domains: worlds of scenes, from
    day on; the teacher that comes trained knows day alone.
    """

    dataset: str
    model: str
    size: tuple[int, int]
    train: Stretch
    pretrain: Stretch | None = None
    gate: GateKind = "dynamic"
    sparsity: float = 0.5
    features: bool = True
    soft: bool = True
    annealing: bool = True
    weight: float = 0.005
    penalty: Penalty = "mean"
    soft_weight: float = 0.5
    reduction: int = 16
    gain: float = 1.0
    fuse_layer: bool = False
    domains: int = 1
    short_side: int | None = None
    whole: tuple[int, int] | None = None


def _full(dataset: str, variant: str, side: int, batch: int, **more: Any) -> Dyna:
    train = Stretch(
        160000, batch, 6e-5, weight_decay=0.01, optimizer="adamw", schedule="linear", warmup=1500, decay_norm=False
    )
    return Dyna(dataset, f"segformer_{variant}", (side, side), train, sparsity=0.3, penalty="sum", **more)


DYNASEGFORMER: dict[Scale, dict[str, Dyna]] = {
    "mini": {"scenes": Dyna("scenes", "segformer_mini", (64, 128), train=adamw(200, 8, 0.001), reduction=8, gain=10)},
    "small": {
        "camvid": Dyna(
            "camvid",
            "segformer_mini",
            (240, 320),
            pretrain=adamw(3000, 8, 0.002),
            train=adamw(1000, 8, 0.001),
            reduction=8,
            gain=10,
        )
    },
    "full": {
        "ade20k": _full("ade20k", "b0", 512, 16, short_side=512),
        "ade20k-b2": _full("ade20k", "b2", 512, 16, short_side=512),
        "cityscapes": _full("cityscapes", "b0", 1024, 8, whole=(1024, 2048)),
        "cityscapes-b2": _full("cityscapes", "b2", 1024, 8, whole=(1024, 2048)),
    },
}


def preset_of(scale: Scale, name: str | None = None) -> Dyna:
    """The scale's preset of this name, the first one without a name. InputError with the names there are."""
    return choose(DYNASEGFORMER, scale, name)


def override(preset: Dyna, **given: Any) -> Dyna:
    """The preset with what is not None instead; steps and batch go to every training.

    Without gates it has no sparsity and nothing to anneal. InputError for what cannot be, or would go unheeded.
    """
    given = {name: value for name, value in given.items() if value is not None}
    check_numbers(given)
    each = {name: given.pop(name) for name in ("steps", "batch") if name in given}
    pick_model(given.get("model", preset.model), MODELS)
    if given.get("gate", preset.gate) not in get_args(GateKind):
        raise InputError(f"no gate {given['gate']!r}; there are: {', '.join(get_args(GateKind))}.")
    check_sparsity(given.get("sparsity", preset.sparsity))
    if given.get("gate", preset.gate) == "dense":
        unheeded = [name for name in ("sparsity", "annealing") if given.get(name)]
        if unheeded:
            raise InputError(f"no gates, so no {' and no '.join(unheeded)}: leave that out, or choose another gate.")
        given |= {"sparsity": 0.0, "annealing": False}
    if given.get("features", preset.features) and each.get("steps", preset.train.steps) < 2:
        raise InputError("1 step is too few for two stages: give 2 or more, or leave the first out, --no-features.")
    stretches = {name: getattr(preset, name) for name in ("pretrain", "train")}
    changed = {name: replace(stretch, **each) for name, stretch in stretches.items() if stretch is not None}
    return replace(preset, **changed, **given)
