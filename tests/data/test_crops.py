"""Crops around every class alike; components against a flood fill."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from prunekit.data.crops import BalancedCrops, components
from prunekit.data.scenes import SceneDataset
from prunekit.errors import DataError, InputError


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        todo = [left.pop()]
        piece = set(todo)
        while todo:
            y, x = todo.pop()
            near = {(y + v, x + u) for v in (-1, 0, 1) for u in (-1, 0, 1)} & left
            left -= near
            piece |= near
            todo += near
        found.append(piece)
    return found


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.95])
def test_components_equal_a_flood_fill(density: float) -> None:
    mask = np.random.default_rng(0).random((23, 31)) < density
    places = np.argwhere(mask)
    number = components(places)
    pieces = [{tuple(map(int, p)) for p in places[number == n]} for n in range(number.max() + 1)]
    assert sorted(map(sorted, pieces)) == sorted(map(sorted, flood(mask)))


def test_a_snake_is_one_component() -> None:
    mask = np.zeros((9, 40), bool)
    mask[::2] = True
    mask[1::4, -1] = mask[3::4, 0] = True
    assert components(np.argwhere(mask)).max() == 0
    mask[4, 20] = False
    assert components(np.argwhere(mask)).max() == 1


def test_every_class_is_drawn_equally_often_and_is_in_its_crop() -> None:
    crops = BalancedCrops(SceneDataset(4), (24, 32))
    torch.manual_seed(0)
    items = [crops[i] for i in range(len(crops))]
    drawn = Counter(target["drawn"] for _, target in items)
    assert set(drawn) == set(crops.holders) and len(set(drawn.values())) == 1
    for image, target in items:
        assert image.shape == (3, 24, 32) and target["mask"].shape == (24, 32)
        assert (target["mask"] == target["drawn"]).any()
    pixels = torch.stack([target["mask"] for _, target in items]).flatten().bincount(minlength=12).float()
    plain = torch.stack([mask for _, mask in SceneDataset(4)]).flatten().bincount(minlength=12).float()
    rare = int(plain.masked_fill(plain == 0, torch.inf).argmin())
    assert pixels[rare] / pixels.sum() > 2 * plain[rare] / plain.sum()


def test_small_objects_are_not_drowned_by_large_ones_of_their_class() -> None:
    mask = torch.zeros(1, 40, 60, dtype=torch.long)
    mask[0, :, :20], mask[0, 20, 55] = 1, 1
    crops = BalancedCrops(TensorDataset(torch.zeros(1, 3, 40, 60), mask), (8, 8))
    torch.manual_seed(0)
    alone = sum(int((crops[1][1]["mask"] == 1).sum()) == 1 for _ in range(200))
    assert 70 < alone < 130  # half of the draws; by pixels it would be 1 in 801


def test_the_crop_is_the_picture_and_its_mask_and_dice_are_torchs() -> None:
    image = torch.arange(3 * 20 * 30).view(1, 3, 20, 30).float()
    mask = torch.arange(600).view(1, 20, 30) % 2
    crops = BalancedCrops(TensorDataset(image, mask), (6, 10))
    torch.manual_seed(5)
    x, target = crops[0]
    top, left = divmod(int(x[0, 0, 0]), 30)
    assert torch.equal(x, image[0, :, top : top + 6, left : left + 10])
    assert torch.equal(target["mask"], mask[0, top : top + 6, left : left + 10])
    torch.manual_seed(5)
    assert torch.equal(crops[0][0], x)
    assert len({int(crops[0][0][0, 0, 0]) for _ in range(20)}) > 5


def test_small_images_are_filled_and_lost_classes_do_no_harm() -> None:
    data = TensorDataset(torch.ones(1, 3, 5, 4), torch.ones(1, 5, 4, dtype=torch.long))
    x, target = BalancedCrops(data, (8, 8))[0]
    assert (x.sum(), (target["mask"] == 1).sum(), (target["mask"] == 255).sum()) == (60, 20, 44)
    crops = BalancedCrops(data, (2, 2))
    crops.holders[7] = [0]  # what an augmenting data set can do
    assert crops[1][1]["drawn"] == 7


def test_bad_input() -> None:
    with pytest.raises(InputError, match="crop is"):
        BalancedCrops(SceneDataset(1), (0, 8))
    empty = TensorDataset(torch.ones(1, 3, 5, 4), torch.full((1, 5, 4), 255))
    with pytest.raises(DataError, match="no image .* labelled pixel"):
        BalancedCrops(empty, (2, 2))
