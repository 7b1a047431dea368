"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015). As VOCtrainval_11-May-2012.tar unpacks:

    root/JPEGImages/2007_000032.jpg     root/SegmentationClass/2007_000032.png
    root/ImageSets/Segmentation/{train,val,trainval}.txt

1,464 and 1,449 pictures. The split "trainaug" adds the annotations of SBD (Hariharan et al., ICCV 2011), 10,582
pictures in all, in the form in which they are passed on: root/SegmentationClassAug/NAME.png beside a trainaug.txt.
"""

from __future__ import annotations

from pathlib import Path

from prunekit.data.real.pictures import IGNORE, Pictures, index_palette, label_table


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
