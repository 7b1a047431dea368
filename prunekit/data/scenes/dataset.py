"""SceneDataset, SceneBoxes and SceneCrops: torch Datasets of synthetic scenes, rendered once and kept as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from prunekit.data.scenes.classes import THINGS
from prunekit.data.scenes.render import make_scene, object_crops
from prunekit.data.transforms import normalize
from prunekit.errors import InputError


class SceneDataset(Dataset[tuple[Tensor, Tensor]]):
    """`count` scenes as (image float32 (3, H, W), ImageNet-normalised; mask int64 (H, W), 255 = ignore).

    seed: 0 for training, 1 for validation, 2 for testing, by convention. domain: one of DOMAINS, or several, which
    then take turns (scene i is in domain[i % len(domain)]). transform: called with (image, mask) as torchvision
    tv_tensors, uint8, and gives both back; without one the image is only normalised. All scenes are rendered here,
    once (about 3 ms each at 64 x 128, 32 kB), and the set can be pickled.

    Raises InputError for a count below 1 and for what `make_scene` refuses.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        domain: str | tuple[str, ...] = "day",
        size: tuple[int, int] = (64, 128),
        transform: Callable[..., Any] | None = None,
    ) -> None:
        if count < 1:
            raise InputError(f"count is {count}; a data set needs at least one scene.")
        self.domains = (domain,) if isinstance(domain, str) else tuple(domain)
        if not self.domains:
            raise InputError("domain is empty; name at least one of the worlds in DOMAINS.")
        self.seed, self.transform = seed, transform
        self.images = np.empty((count, *size, 3), np.uint8)  # (N, H, W, 3)
        self.masks = np.empty((count, *size), np.uint8)  # (N, H, W)
        for i in range(count):
            scene = make_scene(seed, i, domain=self.domains[i % len(self.domains)], size=size)
            self.images[i], self.masks[i] = scene.image, scene.mask

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(self.images[i]).permute(2, 0, 1).contiguous()
        mask = torch.from_numpy(self.masks[i].astype(np.int64))
        if self.transform is None:
            return normalize(image), mask
        from torchvision import tv_tensors

        image, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


class SceneBoxes(Dataset[tuple[Tensor, tuple[Tensor, Tensor]]]):
    """`count` scenes for detection: image float32 (3, H, W), ImageNet-normalised, and (boxes, labels).

    boxes: float32 (M, 4), x0 y0 x1 y1 in pixels. labels: int64 (M,), class numbers. M differs from scene to scene and
    may be 0: give `stack_images` to a DataLoader as collate_fn. Seeds and sizes as in SceneDataset.
    """

    def __init__(self, count: int, *, seed: int = 0, domain: str = "day", size: tuple[int, int] = (64, 128)) -> None:
        if count < 1:
            raise InputError(f"count is {count}; a data set needs at least one scene.")
        self.scenes = [make_scene(seed, i, domain=domain, size=size) for i in range(count)]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        scene = self.scenes[i]
        image = normalize(torch.from_numpy(scene.image).permute(2, 0, 1).contiguous())
        return image, (torch.from_numpy(scene.boxes).float(), torch.from_numpy(scene.labels))


class SceneCrops(Dataset[tuple[Tensor, int]]):
    """The countable objects of `count` scenes, one crop each: (image float32 (3, S, S), ImageNet-normalised; class).

    The class is a place in THINGS (traffic light, traffic sign, person, car, bicycle), not a label of the mask: what a
    backbone can be pre-trained on. size: S, pixels. seed, domain as in SceneDataset. transform: called with the uint8
    image as a tv_tensor; without one it is only normalised. How many crops there are follows from the scenes.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        domain: str = "day",
        size: int = 32,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if count < 1:
            raise InputError(f"count is {count}; a data set needs at least one scene.")
        crops = [object_crops(make_scene(seed, i, domain=domain), size) for i in range(count)]
        self.images = np.concatenate([images for images, _ in crops])  # (N, S, S, 3)
        self.labels = np.searchsorted(THINGS, np.concatenate([labels for _, labels in crops]))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.images[i]).permute(2, 0, 1).contiguous()
        if self.transform is None:
            return normalize(image), int(self.labels[i])
        from torchvision import tv_tensors

        return self.transform(tv_tensors.Image(image)).as_subclass(Tensor), int(self.labels[i])


def stack_images(samples: Sequence[tuple[Tensor, Any]]) -> tuple[Tensor, list[Any]]:
    """Samples as a batch: images (B, 3, H, W), and a list of their targets, which need not be of one size."""
    images, targets = zip(*samples)
    return torch.stack(images), list(targets)
