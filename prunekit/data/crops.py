"""Class-balanced crops (Wang et al., DCFP, TCSVT 2024): every class is drawn equally often, around one of its objects.

Item i is drawn for class i mod (classes that occur): an image that holds the class, one of its connected components
(8 neighbours, each as likely as any other, so small objects are not drowned), one of its pixels; the crop is centred
there, shifted at random by up to a quarter of its size, and kept inside the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from prunekit.errors import DataError, InputError


class BalancedCrops(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Crops of a segmentation data set as (image (3, h, w), {"mask": int64 (h, w), "drawn": class number}).

    dataset: gives (image float (3, H, W), mask int64 (H, W)), of fixed images; read once here to learn which image
    holds which class, by dataset.labels(i) where it has that, which spares the images. crop: (h, w); smaller images are
    filled with 0 and `ignore`. Its length: the number of classes that occur times the images of the most frequent one.
    Random numbers come from torch's generator, so `finetune` repeats them. Raises InputError for an impossible crop,
    DataError when no pixel is labelled.
    """

    def __init__(self, dataset: Dataset[Any], crop: tuple[int, int], *, ignore: int = 255) -> None:
        if len(crop) != 2 or min(crop) < 1:
            raise InputError(f"crop is {crop}; give (height, width) in pixels.")
        self.dataset, self.crop, self.ignore = dataset, crop, ignore
        read = getattr(dataset, "labels", lambda i: dataset[i][1].unique().tolist())
        holders: dict[int, list[int]] = {}
        for i in range(len(dataset)):  # type: ignore[arg-type]
            for label in read(i):
                if label != ignore:
                    holders.setdefault(int(label), []).append(i)
        if not holders:
            raise DataError("no image of the data set has a labelled pixel.")
        self.holders = dict(sorted(holders.items()))  # class -> images that hold it

    def __len__(self) -> int:
        return len(self.holders) * max(len(images) for images in self.holders.values())

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Any]]:
        label, images = list(self.holders.items())[i % len(self.holders)]
        image, mask = self.dataset[images[i // len(self.holders) % len(images)]]
        missing = [max(0, want - have) for want, have in zip(self.crop, mask.shape, strict=True)]
        image = F.pad(image, (0, missing[1], 0, missing[0]))
        mask = F.pad(mask, (0, missing[1], 0, missing[0]), value=self.ignore)
        top, left = self._corner(mask, label)
        rows, columns = slice(top, top + self.crop[0]), slice(left, left + self.crop[1])
        return image[:, rows, columns], {"mask": mask[rows, columns], "drawn": label}

    def _corner(self, mask: Tensor, label: int) -> tuple[int, int]:
        """Top left of the crop. A data set that augments may have lost the class: any place will do then."""
        places_N2 = (mask == label).nonzero()
        if len(places_N2) == 0:
            places_N2 = (mask >= -1).nonzero()
        else:
            component_N = components(places_N2.numpy())
            places_N2 = places_N2[torch.from_numpy(component_N == _draw(int(component_N.max()) + 1))]
        middle = places_N2[_draw(len(places_N2))].tolist()
        return tuple(_start(m, size, whole) for m, size, whole in zip(middle, self.crop, mask.shape, strict=True))  # type: ignore[return-value]


def _start(middle: int, size: int, whole: int) -> int:
    shift = _draw(2 * (size // 4) + 1) - size // 4
    return min(max(middle - size // 2 + shift, 0), whole - size)


def _draw(below: int) -> int:
    return int(torch.randint(below, ()))


def components(places_N2: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which connected component (8 neighbours) each pixel belongs to, (N,), from 0; places: (row, column), distinct.

    Neighbours take the smaller of their labels until nothing changes; pointer jumping makes that O(log N) rounds.
    """
    height, width = places_N2.max(0) + 3  # a border of nothing all around
    number = np.full((height, width), -1)
    rows, columns = places_N2[:, 0] + 1, places_N2[:, 1] + 1
    number[rows, columns] = np.arange(len(places_N2))
    edges = []
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = number[rows + down, columns + right]
        edges.append(np.stack([np.flatnonzero(other >= 0), other[other >= 0]]))
    left, right = np.concatenate(edges, axis=1)
    root = np.arange(len(places_N2))
    while not np.array_equal(root[left], root[right]):
        low = np.minimum(root[left], root[right])
        np.minimum.at(root, root[left], low)
        np.minimum.at(root, root[right], low)
        while not np.array_equal(root, root[root]):
            root = root[root]
    return np.unique(root, return_inverse=True)[1]
