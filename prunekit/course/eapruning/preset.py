"""EAPruning's settings at mini, small and full scale, one value for each network.

The numbers of `full` are Sections 4.1 to 4.5 of Li et al. (arXiv 2210.00181): ImageNet, 1,500 images to rebuild weights
on (3,000 for MobileNetV1), 5,000 others of the training set for the error, 64 candidates and then 30 times 50 (ResNet50
47 times 32), and its trainings, epochs turned into steps. DeiT's is the one of DeiT (Touvron et al., ICML 2021): 0.001
for a batch of 1,024 after five epochs of warm-up, no decay of biases and norms, and what recipe.py says. Where the
paper is silent: ten patches of each image, MLPs in steps of 32 neurons. The sizes of plan are the paper's
2,019 M (ResNet50), 302 M (MobileNetV1) and 13.5 G (DeiT-Base, fine-tuned); 11.0 G is `--macs-ratio 0.382 --fresh
--steps 626000`.

ResNet50's last layer gets one sample an image, so the paper's 1,500 images are too few for its 2,049 unknowns. They are
kept, since the plans of interest leave it about 1,000: a warning says so, a ridge holds it, `--images 2100` is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import timm
from torch import nn

from prunekit.core import Heads
from prunekit.course.experiments import Stretch, adamw, check_numbers, choose, pick_model
from prunekit.course.presets import Scale
from prunekit.errors import InputError
from prunekit.methods.eapruning import Choice, Settings
from prunekit.models import zoo

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet50": partial(timm.create_model, "resnet50.tv_in1k"),
    "mobilenetv1": partial(timm.create_model, "mobilenetv1_100"),
    "deit_base": partial(timm.create_model, "deit_base_patch16_224", drop_path_rate=0.1),
}
SIDES = {"deit_base": 224, "deit_mini": 32}  # pixels; a transformer's positions are as many as it was made for
IMAGENET = 1_281_167  # images of training


@dataclass(frozen=True)
class EaPruning:
    """What `prunekit run eapruning` and the lesson read. size: (height, width) of an image, pixels. model: a key of
    MODELS (timm's weights, so MobileNetV1 starts better than the paper's), or a mini network of models/zoo.py. tune: of
    the chosen network; scratch: instead, when it starts from scratch (None: the same). pretrain: None = comes trained.

    macs_ratio: fraction of the cost that the chosen network lacks at least. images: to rebuild weights on, held: others
    of the training set, for the error. samples: outputs drawn from each image, the first `tokens` of them a
    transformer's first tokens. step: of counts of channels and neurons. fresh: the chosen network is trained from
    scratch, not from its rebuilt weights. recipe: of training pictures and labels, plain: crops and flips. plans: along
    the front, left as files.
    """

    dataset: str
    model: str
    size: tuple[int, int]
    tune: Stretch
    search: Settings
    pretrain: Stretch | None = None
    scratch: Stretch | None = None
    macs_ratio: float = 0.5
    cost: Literal["macs", "params", "latency"] = "macs"
    images: int = 1500
    held: int = 5000
    samples: int = 10
    tokens: int = 0
    choose: Choice = "random"
    heads: Heads = "number"
    step: int = 1
    fresh: bool = False
    recipe: Literal["plain", "deit"] = "plain"
    plans: int = 8
    pretrained: bool = False

    @property
    def classifies(self) -> bool:
        """Whole images, not pixels."""
        return self.dataset in ("crops", "imagenet", "tinyimagenet")

    @property
    def training(self) -> Stretch:
        """Of the chosen network."""
        return self.scratch or self.tune if self.fresh else self.tune

    @property
    def folder(self) -> str:
        """Of a run's files, less the seed: what makes two runs other ones, choices that are not the usual included."""
        parts = ["eapruning", self.dataset, self.model, f"{self.macs_ratio:g}"]
        usual = {"cost": "macs", "choose": "random", "heads": "number"}
        parts += [getattr(self, name) for name, value in usual.items() if getattr(self, name) != value]
        return "-".join([*parts, *(["fresh"] if self.fresh else [])])


def epochs(count: int, batch: int) -> int:
    """Steps of so many epochs of ImageNet, a last batch counted as a full one."""
    return count * math.ceil(IMAGENET / batch)


MINI = Settings(population=40, offspring=26, generations=10)
GENTLE = replace(adamw(150, 64, 2e-4), warmup=15)  # ten times the rate costs the rebuilt DeiT two points


def _mini(model: str, dataset: str = "crops", **more: Any) -> EaPruning:
    size = (32, 32) if dataset == "crops" else (64, 128)
    given = {"tune": adamw(150, 64, 0.002), "images": 500, "held": 400, "samples": 8, **more}
    return EaPruning(dataset, model, size, search=MINI, **given)


def _small(model: str, **more: Any) -> EaPruning:
    return EaPruning(
        "tinyimagenet",
        model,
        (64, 64),
        tune=adamw(2000, 128, 0.002),
        search=Settings(population=64, offspring=48, generations=12),
        pretrain=adamw(8000, 128, 0.003),
        held=2000,
        **more,
    )


def _full(model: str, tune: Stretch, **more: Any) -> EaPruning:
    return EaPruning("imagenet", model, (224, 224), tune, **{"search": Settings(), "pretrained": True, **more})


EAPRUNING: dict[Scale, dict[str, EaPruning]] = {
    "mini": {
        "resnet": _mini("resnet_mini"),
        "mobilenet": _mini("mobilenet_mini"),
        "deit": _mini("deit_mini", step=8, tokens=1, tune=GENTLE, scratch=adamw(450, 64, 0.002)),
        "segmenter": _mini("deeplabv3_mini", "scenes", tune=adamw(100, 16, 0.002), images=60, held=40, samples=32),
    },
    "small": {"resnet": _small("resnet_mini"), "mobilenet": _small("mobilenet_mini")},
    "full": {
        "resnet50": _full(
            "resnet50",
            Stretch(epochs(200, 512), 512, 0.2, 1e-4, schedule="cosine"),
            search=Settings(offspring=32, generations=47),
            macs_ratio=1 - 2019 / 4111,
            fresh=True,
        ),
        "mobilenetv1": _full(
            "mobilenetv1",
            Stretch(epochs(150, 256), 256, 0.05, 4e-5, schedule="cosine"),
            macs_ratio=1 - 302 / 569,
            images=3000,
        ),
        "deit_base": _full(
            "deit_base",
            Stretch(epochs(100, 1024), 1024, 0.001, 0.05, optimizer="adamw", warmup=epochs(5, 1024), decay_norm=False),
            recipe="deit",
            macs_ratio=1 - 13.5 / 17.8,
            samples=20,
            tokens=1,
            step=32,
        ),
    },
}


def preset_of(scale: Scale, name: str | None = None) -> EaPruning:
    """The scale's preset by name, the first one without. InputError with the names there are."""
    return choose(EAPRUNING, scale, name)


def override(preset: EaPruning, **given: Any) -> EaPruning:
    """The preset with what is not None instead. steps, batch: of every training. population, generations, sampling: of
    the search. InputError for a number out of range, and for a network that does not fit the data.
    """
    given = {name: value for name, value in given.items() if value is not None}
    check_numbers(given)
    each = {name: given.pop(name) for name in ("steps", "batch") if name in given}
    if "model" in given:
        there = (MODELS, zoo.CLASSIFIERS) if preset.classifies else (zoo.BUILDERS,)
        pick_model(given["model"], *there, of=preset.dataset)
    search = {name: given.pop(name) for name in ("population", "generations", "sampling") if name in given}
    stretches = {name: getattr(preset, name) for name in ("tune", "scratch", "pretrain")}
    given |= {name: replace(stretch, **each) for name, stretch in stretches.items() if stretch}
    given["search"] = replace(preset.search, **search)
    changed = replace(preset, **given)
    height, width = changed.size
    if changed.classifies and (height != width or SIDES.get(changed.model, height) != height):
        side = SIDES.get(changed.model)
        raise InputError(
            f"{changed.model} reads squares{f' of {side} x {side} pixels' if side else ''}, not {height} x {width}: "
            "give --size, or another --model."
        )
    return changed
