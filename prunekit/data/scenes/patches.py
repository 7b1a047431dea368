"""ScenePatches: what is in the middle? A classification set that is hard for a mini network, and knows five worlds.

Crops of objects are easy (a mini backbone gets 97 % of them right); here a patch may show anything, in any light, and
only its middle counts. What a backbone learns on it is what a segmenter needs, for more worlds than the segmenter sees.
Legend: N patches, S their side in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from prunekit.data.scenes.classes import IGNORE
from prunekit.data.scenes.layout import raw_words
from prunekit.data.scenes.render import Scene, make_scene
from prunekit.data.scenes.worlds import DOMAINS
from prunekit.data.transforms import normalize
from prunekit.errors import InputError

_STREAM = 1 + len(DOMAINS)  # of random words; the scenes use those before


def class_patches(scene: Scene, words: np.ndarray, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """For each class in the scene one square patch, in whose middle it is; beyond the border pixels are repeated.

    words: uint64, one for each class, they draw the pixel. Returns (uint8 (N, S, S, 3), int64 (N,) class numbers).
    """
    before = size // 2
    padded = np.pad(scene.image, ((before, size - before), (before, size - before), (0, 0)), mode="edge")
    labels = np.setdiff1d(scene.mask, [IGNORE]).astype(np.int64)
    patches = np.empty((len(labels), size, size, 3), np.uint8)
    for n, label in enumerate(labels.tolist()):
        rows, columns = np.nonzero(scene.mask == label)
        pixel = int(words[label]) % len(rows)
        r, c = rows[pixel], columns[pixel]
        patches[n] = padded[r : r + size, c : c + size]
    return patches, labels


class ScenePatches(Dataset[tuple[Tensor, int]]):
    """The patches of `count` scenes: (image float32 (3, S, S), ImageNet-normalised; class as in a mask, of CLASSES).

    Scene i is in domains[i % len(domains)]; seed as in SceneDataset, size: S, pixels. Raises InputError for a count or
    size below 1 and for what `make_scene` refuses.
    """

    def __init__(self, count: int, *, seed: int = 0, domains: tuple[str, ...] = DOMAINS, size: int = 32) -> None:
        if count < 1 or size < 1 or not domains:
            raise InputError(f"{count} scenes, patches of {size} pixels, domains {domains}: give at least one of each.")
        found = []
        for i in range(count):
            scene = make_scene(seed, i, domain=domains[i % len(domains)])
            found.append(class_patches(scene, raw_words(seed, i, _STREAM, IGNORE), size))
        self.images = np.concatenate([images for images, _ in found])  # (N, S, S, 3)
        self.labels = np.concatenate([labels for _, labels in found])  # (N,)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.images[i]).permute(2, 0, 1).contiguous()
        return normalize(image), int(self.labels[i])
