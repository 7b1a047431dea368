"""Cityscapes (Cordts et al., CVPR 2016), the fine annotations. As leftImg8bit_trainvaltest.zip and
gtFine_trainvaltest.zip unpack:

    root/leftImg8bit/{train,val}/CITY/CITY_000000_000019_leftImg8bit.png
    root/gtFine/{train,val}/CITY/CITY_000000_000019_gtFine_labelIds.png

2,975 and 500 pictures of 2048 x 1024. The label maps have 34 numbers; the 19 classes of the benchmark are read from
them, so the "labelTrainIds" files, which a script of the authors makes, are not needed. The test split's labels are
not public.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunekit.data.real.pictures import IGNORE, Pictures, label_table

_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # label number of class 0, 1, ...
_PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip


class Cityscapes(Pictures):
    """Cityscapes with 19 classes; other label numbers become 255. Arguments, items and errors: see `Pictures`."""

    NAME = "Cityscapes"
    FETCH = (
        "Get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from cityscapes-dataset.com (free, with an "
        "account), unpack both into one folder and give that folder."
    )
    CLASSES = (
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    )
    PALETTE = np.array(_PALETTE, dtype=np.uint8)
    SPLITS = ("train", "val")
    LABELS = label_table({**dict.fromkeys(range(34), IGNORE), **{number: k for k, number in enumerate(_TRAINED)}})
    SPOKEN = "0 to 33 (files that end in _gtFine_labelIds.png)"

    def find(self) -> list[tuple[Path, Path]]:
        images = sorted(self.folder("leftImg8bit", self.split).glob("*/*_leftImg8bit.png"))
        masks = self.folder("gtFine", self.split)
        stems = [(image.parent.name, image.name.removesuffix("_leftImg8bit.png")) for image in images]
        return [
            (image, masks / city / f"{stem}_gtFine_labelIds.png")
            for image, (city, stem) in zip(images, stems, strict=True)
        ]
