"""Real data sets in miniature: folders and files exactly as they are published, filled with noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from prunekit.data.real import ADE20K, VOC2012, Cityscapes, COCOStuff10k, Pictures

SIZE = (16, 24)


def draw(numbers: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and a label map in which every number occurs."""
    dice = np.random.default_rng(seed)
    labels = np.array(numbers)[dice.permutation(np.arange(SIZE[0] * SIZE[1]) % len(numbers))].reshape(SIZE)
    return dice.integers(0, 256, (*SIZE, 3), np.uint8), labels.astype(np.uint8)


def save(path: Path, content: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        from scipy.io import savemat

        names = np.array([f"class {i}" for i in range(182)], dtype=object)[:, None]
        captions = np.array(["a street"], dtype=object)
        savemat(path, {"S": content.astype(float), "names": names, "captions": captions}, do_compression=True)
    else:
        Image.fromarray(content).save(path)


@dataclass(frozen=True)
class Layout:
    """A data set as it is published. files(split): (image, mask) of its pictures, from the root, in order."""

    reader: type[Pictures]
    numbers: list[int]  # all that its label maps may hold
    files: dict[str, list[tuple[str, str]]]


def city(split: str, town: str, n: int) -> tuple[str, str]:
    stem = f"{split}/{town}/{town}_{n:06}_000019"
    return f"leftImg8bit/{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine_labelIds.png"


def ade(split: str, name: str) -> tuple[str, str]:
    return f"images/{split}/{name}.jpg", f"annotations/{split}/{name}.png"


def coco(name: str) -> tuple[str, str]:
    return f"images/{name}.jpg", f"annotations/{name}.mat"


def voc(name: str, masks: str = "SegmentationClass") -> tuple[str, str]:
    return f"JPEGImages/{name}.jpg", f"{masks}/{name}.png"


NEVER = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
CITY, ADE, COCO, VOC = (
    Layout(
        Cityscapes,
        list(range(34)),
        {
            "train": [city("train", "aachen", 0), city("train", "aachen", 1), city("train", "bochum", 0)],
            "val": [city("val", "lindau", 7)],
        },
    ),
    Layout(
        ADE20K,
        list(range(151)),
        {
            "training": [ade("training", f"ADE_train_0000000{n}") for n in (1, 2)],
            "validation": [ade("validation", "ADE_val_00000001")],
        },
    ),
    Layout(
        COCOStuff10k,
        [number for number in range(183) if number not in NEVER],
        {
            "train": [coco(f"COCO_train2014_{n:012}") for n in (581, 77)],  # a list has its own order
            "test": [coco("COCO_train2014_000000000009")],
        },
    ),
    Layout(
        VOC2012,
        [*range(21), 255],
        {
            "train": [voc("2007_000032"), voc("2007_000039")],
            "val": [voc("2007_000033")],
            "trainval": [voc("2007_000032"), voc("2007_000033"), voc("2007_000039")],
            "trainaug": [voc("2007_000032", "SegmentationClassAug"), voc("2008_000008", "SegmentationClassAug")],
        },
    ),
)
LAYOUTS = {layout.reader.NAME: layout for layout in (CITY, ADE, COCO, VOC)}


def publish(layout: Layout, root: Path) -> Path:
    """The set on disk, with what a release holds besides."""
    for split, files in layout.files.items():
        for n, (image, mask) in enumerate(files):
            pixels, labels = draw(layout.numbers, n)
            save(root / image, pixels)
            save(root / mask, labels)
            if layout is CITY:
                save(root / mask.replace("labelIds", "color"), pixels)
                save(root / mask.replace("labelIds", "instanceIds"), labels)
        names = "".join(f"{Path(image).stem}\n" for image, _ in files)
        for folder in {"COCO-Stuff 10k": ["imageLists"], "VOC 2012": ["ImageSets/Segmentation"]}.get(
            layout.reader.NAME, []
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{split}.txt").write_text(names)
    return root
