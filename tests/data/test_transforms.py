"""Transforms: image and mask move together, padding is ignored, numbers match the formulas."""

import ast
from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors

import prunekit.data as data_package
from prunekit.data.transforms import MEAN, STD, denormalize, eval_transform, normalize, train_transform
from prunekit.errors import InputError


def coded(height: int = 40, width: int = 60):
    """An image whose red channel says which label its pixel has: blocks, so that resizing keeps most of them."""
    mask = (torch.arange(height)[:, None] // 10 * 3 + torch.arange(width) // 20).long()
    image = (mask * 20).to(torch.uint8).expand(3, height, width).contiguous()
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


def red(image: torch.Tensor) -> torch.Tensor:
    return (denormalize(image)[0] * 255 / 20).round().long()


def test_normalize_is_the_formula_and_back():
    image = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = normalize(image)
    for c in range(3):
        torch.testing.assert_close(x[:, c], (image[:, c].float() / 255 - MEAN[c]) / STD[c])
    torch.testing.assert_close(denormalize(x), image.float() / 255)
    torch.testing.assert_close(normalize(image.double() / 255).float(), x)


def test_image_and_mask_move_together():
    torch.manual_seed(0)
    move = train_transform((32, 32), jitter=0.0)
    for _ in range(20):
        image, mask = move(*coded())
        real = mask != 255
        assert image.shape == (3, 32, 32) and mask.shape == (32, 32)
        assert (red(image)[real] == mask[real]).float().mean() > 0.8  # bilinear mixes labels at block borders


def test_flip_only():
    move = train_transform((40, 60), scale=(1, 1), flip=1, jitter=0)
    image, mask = move(*coded())
    assert torch.equal(mask, coded()[1].flip(-1)) and torch.equal(red(image), mask)


def test_padding_is_ignored_and_grey():
    image, mask = train_transform((80, 80), scale=(1, 1), jitter=0)(*coded())
    outside = mask == 255
    assert (~outside).sum() == 40 * 60
    assert image[:, outside].abs().max() < 0.02  # the mean colour is zero after normalisation


def test_scale_changes_the_size_of_blocks():
    torch.manual_seed(0)
    _, mask = train_transform((20, 30), scale=(0.5, 0.5), flip=0, jitter=0)(*coded())
    assert torch.equal(mask, coded()[1][::2, ::2])


def test_jitter_changes_colours_not_masks():
    torch.manual_seed(0)
    pair = coded()
    image, mask = train_transform((40, 60), scale=(1, 1), flip=0, jitter=0.5)(*pair)
    assert torch.equal(mask, pair[1])
    assert not torch.allclose(image, eval_transform()(*pair)[0])


def test_same_seed_same_picture():
    move = train_transform((32, 32))
    pictures = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        pictures.append(move(*coded())[0])
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])


def test_torchvision_is_imported_late():
    """Only scaling.py, which is itself imported late, may need torchvision at import."""
    folder = Path(data_package.__file__).parent
    for file in folder.rglob("*.py"):
        names = [n for node in ast.parse(file.read_text()).body for n in _imported(node)]
        assert file.name == "scaling.py" or not any(n.startswith("torchvision") for n in names), file


def _imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize(
    "crop, kwargs, says",
    [
        ((0, 8), {}, "crop is"),
        ((8,), {}, "crop is"),
        ((8, 8), {"scale": (1.5, 0.5)}, "scale range"),
        ((8, 8), {"scale": (0, 1)}, "scale range"),
        ((8, 8), {"flip": 1.5}, "flip is 1.5"),
        ((8, 8), {"jitter": -1}, "jitter is -1"),
    ],
)
def test_bad_arguments(crop, kwargs, says):
    with pytest.raises(InputError, match=says):
        train_transform(crop, **kwargs)


@pytest.mark.parametrize("change", [normalize, denormalize])
def test_channels_last_is_refused(change):
    with pytest.raises(InputError, match=r"3, H, W\), got \(8, 9, 3\)"):
        change(torch.zeros(8, 9, 3))


def test_without_a_crop_pictures_keep_their_scaled_size():
    image, mask = train_transform(None, scale=(2.0, 2.0), flip=0.0, jitter=0.0)(*coded(10, 20))
    assert image.shape == (3, 20, 40) and torch.equal(red(image), mask)
