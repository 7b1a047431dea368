"""What all readers share: pictures beside label maps, checked when they are read.

A reader says where its pairs of files are and which class each number of its label maps means; both are attributes and
one method, everything else is here.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from prunekit.data.transforms import IGNORE, normalize
from prunekit.errors import DataError, InputError, MissingDependencyError

UNKNOWN = 254  # in a table of labels: no such number belongs in a label map


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """A data set on disk as (image float32 (3, H, W), ImageNet-normalised; mask int64 (H, W), 255 = ignore).

    root: the set's folder. split: one of SPLITS. transform: called with (image, mask) as torchvision tv_tensors, uint8,
    and gives both back; without one the image is only normalised. Pictures are read when asked for.

    Raises InputError for an unknown split. Raises DataError when a folder is missing, the split is empty or an image
    has no mask (at once), when a file cannot be read, a mask and its image differ in size, or a label is out of range
    (when that picture is asked for).
    """

    NAME: ClassVar[str]
    FETCH: ClassVar[str]  # what to do when something is missing: a sentence
    CLASSES: ClassVar[tuple[str, ...]]
    PALETTE: ClassVar[NDArray[np.uint8]]  # (K, 3) RGB
    SPLITS: ClassVar[tuple[str, ...]]
    LABELS: ClassVar[NDArray[np.uint8]]  # (256,): number in a file -> class, IGNORE or UNKNOWN
    SPOKEN: ClassVar[str]  # the numbers that files may hold, in words

    def __init__(
        self, root: str | os.PathLike[str], split: str, *, transform: Callable[..., Any] | None = None
    ) -> None:
        if split not in self.SPLITS:
            raise InputError(f"no split {split!r} in {self.NAME}; choose one of {', '.join(self.SPLITS)}.")
        self.root, self.split, self.transform = Path(root), split, transform
        self.pairs = self.find()
        if not self.pairs:
            raise DataError(
                f"{self.NAME}: the split '{split}' is empty: {self.root} has no picture of it. {self.FETCH}"
            )
        for image, mask in self.pairs:
            if not mask.is_file():
                raise DataError(f"{self.NAME}: {image} has no mask; expected {mask}. Fetch it, or remove the image.")

    def find(self) -> list[tuple[Path, Path]]:
        """(image, mask) of every picture of the split, in order. The masks need not exist."""
        raise NotImplementedError

    def raw_mask(self, path: Path) -> NDArray[Any]:
        """The label map as the file has it."""
        return self.picture(path, None)

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

    def read(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Picture i as bytes: image uint8 (H, W, 3) RGB and mask uint8 (H, W), checked, 255 = ignore."""
        image_path, mask_path = self.pairs[i]
        image, mask = self.picture(image_path, "RGB"), self._mask(mask_path)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{self.NAME}: {image_path} is {image.shape[1]} x {image.shape[0]} pixels but its mask {mask_path} is "
                f"{mask.shape[1]} x {mask.shape[0]}; resize both alike (masks with nearest)."
            )
        return image, mask

    def labels(self, i: int) -> list[int]:
        """The classes that occur in picture i, without reading the image."""
        found = np.unique(self._mask(self.pairs[i][1]))
        return [int(label) for label in found if label != IGNORE]

    def picture(self, path: Path, mode: str | None) -> NDArray[Any]:
        """A picture file as an array; `mode` None keeps index values as they are."""
        return read_picture(self.NAME, path, mode)

    def folder(self, *parts: str) -> Path:
        """root / parts, which must be a folder."""
        wanted = self.root.joinpath(*parts)
        for folder in (self.root, wanted):
            if not folder.is_dir():
                raise DataError(f"{self.NAME}: no folder {folder}. {self.FETCH}")
        return wanted

    def names(self, *parts: str) -> list[str]:
        """The first word of each line of the list root / parts."""
        file = self.root.joinpath(*parts)
        if not file.is_file():
            raise DataError(f"{self.NAME}: no list {file}. {self.FETCH}")
        return [line.split()[0] for line in file.read_text().splitlines() if line.strip()]

    def listed(self, name: str, file: Path) -> Path:
        """The file of a picture that a list names."""
        if not file.is_file():
            raise DataError(
                f"{self.NAME}: the list of '{self.split}' names '{name}', but there is no {file}. {self.FETCH}"
            )
        return file

    def _mask(self, path: Path) -> NDArray[np.uint8]:
        mask = self.raw_mask(path)
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise DataError(
                f"{self.NAME}: {path} is a picture of shape {mask.shape} and type {mask.dtype}; masks are 8-bit index "
                "or grey PNGs whose values are class numbers."
            )
        classes = self.LABELS[mask]
        wrong = mask[classes == UNKNOWN]
        if wrong.size:
            raise DataError(
                f"{self.NAME}: {path} has the label {int(wrong[0])} at {wrong.size} pixels; labels are {self.SPOKEN}. "
                "Was it resized with a smoothing filter, or is it a colour mask?"
            )
        return classes


def read_picture(name: str, path: Path, mode: str | None) -> NDArray[Any]:
    """A picture file of the data set `name` as an array; DataError when it cannot be read."""
    try:
        with Image.open(path) as file:
            return np.array(file.convert(mode) if mode else file)
    except (OSError, UnidentifiedImageError, SyntaxError) as err:
        raise DataError(f"{name}: cannot read {path} ({err}); the file is damaged, fetch it again.") from err


def read_mat(name: str, path: Path, variables: Sequence[str]) -> dict[str, Any]:
    """Variables of a MATLAB file of the data set `name`. MissingDependencyError without SciPy, DataError for damage."""
    try:
        from scipy.io import loadmat
    except ImportError as err:
        raise MissingDependencyError(f"the .mat files of {name} are read by SciPy: pip install scipy") from err
    try:
        return loadmat(path, variable_names=variables)
    except (OSError, ValueError, TypeError, NotImplementedError, EOFError, zlib.error) as err:
        raise DataError(f"{name}: cannot read {path} ({err}); the file is damaged, fetch it again.") from err


def label_table(classes: Mapping[int, int]) -> NDArray[np.uint8]:
    """(256,): number in a file -> class (or IGNORE); numbers that are not given are UNKNOWN."""
    table = np.full(256, UNKNOWN, dtype=np.uint8)
    for number, label in classes.items():
        table[number] = label
    return table


def index_palette(count: int) -> NDArray[np.uint8]:
    """(count, 3): PASCAL VOC's colours, continued. Bits 0, 3, 6 ... of a class number make red, 1, 4, 7 ... green."""
    number_N, colours = np.arange(count), np.zeros((count, 3), dtype=np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((number_N >> bit) & 1).astype(np.uint8) << (7 - bit // 3)
    return colours
