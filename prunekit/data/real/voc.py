"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015). As VOCtrainval_11-May-2012.tar unpacks:

    root/JPEGImages/2007_000032.jpg     root/SegmentationClass/2007_000032.png
    root/ImageSets/Segmentation/{train,val,trainval}.txt

1,464 and 1,449 pictures. The split "trainaug" adds the annotations of SBD (Hariharan et al., ICCV 2011), 10,582
pictures in all, in the form in which they are passed on: root/SegmentationClassAug/NAME.png beside a trainaug.txt.
SBD itself, as benchmark.tgz unpacks:

    root/img/2008_000002.jpg     root/cls/2008_000002.mat     root/{train,val}.txt

8,498 and 2,857 pictures; some of them are in VOC's val, so leave those out before you train: SBD(root, "train",
without=VOC2012(voc, "val").stems()).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from prunekit.data.real.pictures import IGNORE, Pictures, index_palette, label_table, read_mat
from prunekit.errors import DataError


class VOC2012(Pictures):
    """VOC 2012 with 21 classes, background too; borders are 255. Arguments, items and errors: see `Pictures`."""

    NAME = "VOC 2012"
    FETCH = (
        "Get VOCtrainval_11-May-2012.tar (2 GB) from the PASCAL VOC site, unpack it, and give the folder "
        "VOCdevkit/VOC2012; trainaug also needs SegmentationClassAug/ and its trainaug.txt."
    )
    CLASSES = (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
    PALETTE = index_palette(21)
    SPLITS = ("train", "val", "trainval", "trainaug")
    LABELS = label_table({**{k: k for k in range(21)}, 255: IGNORE})
    SPOKEN = "0 to 20, and 255 for borders"

    def find(self) -> list[tuple[Path, Path]]:
        images = self.folder("JPEGImages")
        masks = self.folder("SegmentationClassAug" if self.split == "trainaug" else "SegmentationClass")
        names = self.names("ImageSets", "Segmentation", f"{self.split}.txt")
        return [(self.listed(name, images / f"{name}.jpg"), masks / f"{name}.png") for name in names]

    def stems(self) -> frozenset[str]:
        """The pictures' names, e.g. "2007_000032"."""
        return frozenset(image.stem for image, _ in self.pairs)


class SBD(Pictures):
    """SBD's pictures with VOC's 21 classes. without: names to leave out. Else as `Pictures`; MissingDependencyError
    without SciPy, which reads the .mat files.
    """

    NAME = "SBD"
    FETCH = "Get benchmark.tgz (1.4 GB) from the authors' page, unpack it, and give benchmark_RELEASE/dataset."
    CLASSES, PALETTE, LABELS, SPOKEN = VOC2012.CLASSES, VOC2012.PALETTE, VOC2012.LABELS, VOC2012.SPOKEN
    SPLITS = ("train", "val")

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        transform: Callable[..., Any] | None = None,
        without: Collection[str] = (),
    ) -> None:
        self.without = frozenset(without)
        super().__init__(root, split, transform=transform)

    def find(self) -> list[tuple[Path, Path]]:
        images, masks = self.folder("img"), self.folder("cls")
        names = [name for name in self.names(f"{self.split}.txt") if name not in self.without]
        return [(self.listed(name, images / f"{name}.jpg"), masks / f"{name}.mat") for name in names]

    def raw_mask(self, path: Path) -> NDArray[Any]:
        found = read_mat(self.NAME, path, ["GTcls"])
        try:
            return found["GTcls"]["Segmentation"][0, 0]
        except (KeyError, ValueError, IndexError) as err:
            raise DataError(f"{self.NAME}: {path} has no GTcls.Segmentation. {self.FETCH}") from err
