"""How DeiT is trained (Touvron et al., ICML 2021, Table 9): what changes pictures and labels.

RandAugment 9/0.5 (Cubuk et al., 2020) and random erasing 0.25 (Zhong et al., 2020), both timm's; Mixup 0.8 (Zhang et
al., 2018) or CutMix 1.0 (Yun et al., 2019), one as often as the other; label smoothing 0.1. Stochastic depth 0.1 is the
network's (MODELS of preset.py). Left out: repeated augmentation, the schedule's floor of 1e-5, and RandAugment's
magnitudes above 9, at which a colour would keep no bits: Pillow refuses that.

Legend: K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from prunekit.data.transforms import MEAN, STD

smoothed_loss = partial(F.cross_entropy, label_smoothing=0.1)  # of class numbers, or of shares


def deit_transform(side: int, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Callable[[Any], Tensor]:
    """A training view of a picture, (3, side, side). Called with a tv_tensors.Image, uint8."""
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import v2

    views: Any = create_transform(
        side,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-mmax9-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        mean=tuple(mean),
        std=tuple(std),
    )
    return v2.Compose([v2.ToPILImage(), views])


class Mixed(Dataset[tuple[Tensor, Tensor]]):
    """Each picture of `data` mixed with another one of it: (image, (K,) shares of the classes). A batch of timm's mixes
    with itself; here each has a partner of its own, by torch's dice, so a run that is resumed sees the same.
    """

    def __init__(self, data: Dataset[Any], classes: int) -> None:
        from torchvision.transforms import v2

        self.data = data
        kinds = [v2.MixUp(alpha=0.8, num_classes=classes), v2.CutMix(alpha=1.0, num_classes=classes)]
        self.mix = v2.RandomChoice(kinds)

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        partner = int(torch.randint(len(self), ()))
        images, labels = zip(self.data[number], self.data[partner])
        mixed, shares_2K = self.mix(torch.stack(images), torch.tensor([int(each) for each in labels]))
        return mixed[0], shares_2K[0]
