"""ImageNet (Russakovsky et al., IJCV 2015), or any data set in its layout, and Tiny ImageNet (Stanford CS231n).

    ImageNet      root/{train,val}/n01440764/NAME.JPEG
    TinyImageNet  root/train/n01443537/images/NAME.JPEG     root/val/images/NAME.JPEG + root/val/val_annotations.txt

1,281,167 and 50,000 pictures of 1,000 classes; 100,000 and 10,000 of 64 x 64 pixels and 200 classes. ImageNet's val
folder is published flat; the script valprep.sh that many repositories hold sorts it into the folders above.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from prunekit.data.real.pictures import read_picture
from prunekit.data.transforms import normalize
from prunekit.errors import DataError, InputError

_SUFFIXES = (".jpeg", ".jpg", ".png")


class ImageNet(Dataset[tuple[Tensor, int]]):
    """Pictures with one class each: (image float32 (3, H, W), ImageNet-normalised; class number).

    root: the set's folder. split: "train" or "val". transform: called with the image as a tv_tensor, uint8, and gives
    it back (see classify_transform); without one it is only normalised, at its own size. classes: the names of
    train's folders, sorted; a class is a place among them. Raises InputError for an unknown split, DataError for a
    folder that is missing or empty (at once) and for a file that cannot be read (when it is asked for).
    """

    NAME: ClassVar[str] = "ImageNet"
    FETCH: ClassVar[str] = (
        "Get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org (free, with an account), unpack "
        "them into train/ and val/ with one folder a class, and give the folder above."
    )
    SPLITS = ("train", "val")

    def __init__(
        self, root: str | os.PathLike[str], split: str, *, transform: Callable[[Any], Any] | None = None
    ) -> None:
        if split not in self.SPLITS:
            raise InputError(f"no split {split!r} in {self.NAME}; choose one of {', '.join(self.SPLITS)}.")
        self.root, self.split, self.transform = Path(root), split, transform
        self.classes = tuple(sorted(p.name for p in self.folder("train").iterdir() if p.is_dir()))
        self.items = self.find()
        if not self.items:
            raise DataError(
                f"{self.NAME}: the split '{split}' is empty: {self.root} has no picture of it. {self.FETCH}"
            )

    def find(self) -> list[tuple[Path, int]]:
        """(file, class) of every picture of the split, in order."""
        folder = self.folder(self.split)
        strange = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and p.name not in self.classes]
        if strange:
            raise DataError(f"{self.NAME}: {folder / strange[0]} is no class of train/; are both from one release?")
        return [(file, k) for k, name in enumerate(self.classes) for file in _pictures(folder / name)]

    def folder(self, *parts: str) -> Path:
        """root / parts, which must be a folder."""
        wanted = self.root.joinpath(*parts)
        if not wanted.is_dir():
            raise DataError(f"{self.NAME}: no folder {wanted}. {self.FETCH}")
        return wanted

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        path, label = self.items[i]
        image = torch.from_numpy(read_picture(self.NAME, path, "RGB")).permute(2, 0, 1).contiguous()
        if self.transform is None:
            return normalize(image), label
        from torchvision import tv_tensors

        return self.transform(tv_tensors.Image(image)).as_subclass(Tensor), label


class TinyImageNet(ImageNet):
    """Tiny ImageNet as tiny-imagenet-200.zip unpacks; else as `ImageNet`."""

    NAME = "Tiny ImageNet"
    FETCH = "Get tiny-imagenet-200.zip (237 MB) from cs231n.stanford.edu, unpack it, and give that folder."

    def find(self) -> list[tuple[Path, int]]:
        if self.split == "train":
            return [
                (file, k)
                for k, name in enumerate(self.classes)
                for file in _pictures(self.folder("train", name, "images"))
            ]
        images, listing = self.folder("val", "images"), self.root / "val" / "val_annotations.txt"
        if not listing.is_file():
            raise DataError(f"{self.NAME}: no list {listing}. {self.FETCH}")
        number = {name: k for k, name in enumerate(self.classes)}
        rows = [line.split() for line in listing.read_text().splitlines() if line.strip()]
        for row in rows:
            if len(row) < 2 or row[1] not in number or not (images / row[0]).is_file():
                raise DataError(
                    f"{self.NAME}: {listing} says '{' '.join(row)}': no such picture or class. {self.FETCH}"
                )
        return [(images / row[0], number[row[1]]) for row in rows]


def _pictures(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in found if p.suffix.lower() in _SUFFIXES)
