"""Cityscapes, ADE20K, COCO-Stuff 10k, VOC 2012: small folders in the exact layouts, one error for each mistake."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from layouts import ADE, CITY, COCO, LAYOUTS, SIZE, VOC, Layout, publish, save

from prunekit.data.crops import BalancedCrops
from prunekit.data.real import ADE20K, VOC2012, Cityscapes, COCOStuff10k
from prunekit.data.transforms import normalize
from prunekit.errors import DataError, MissingDependencyError

loadmat = pytest.importorskip("scipy.io").loadmat


@pytest.fixture(params=LAYOUTS)
def published(request, tmp_path: Path) -> tuple[Layout, Path]:
    return LAYOUTS[request.param], publish(LAYOUTS[request.param], tmp_path / "set")


def stored(path: Path) -> np.ndarray:
    return loadmat(path)["S"].astype(int) if path.suffix == ".mat" else np.array(Image.open(path)).astype(int)


CLASS_OF = {  # in words of each paper: which class a number of a file is
    "Cityscapes": {7: "road", 8: "sidewalk", 17: "pole", 19: "traffic light", 24: "person", 33: "bicycle", 6: None},
    "ADE20K": {0: None, 1: "wall", 13: "person", 94: "pole", 150: "flag"},
    "COCO-Stuff 10k": {0: None, 1: "person", 11: "fire hydrant", 13: "stop sign", 90: "toothbrush", 92: "banner",
                       182: "wood"},
    "VOC 2012": {0: "background", 15: "person", 20: "tvmonitor", 255: None},
}  # fmt: skip


def test_items_are_the_files_in_the_order_of_the_set(published):
    layout, root = published
    for split, files in layout.files.items():
        data = layout.reader(root, split)
        assert [(i, m) for i, m in data.pairs] == [(root / i, root / m) for i, m in files]
        for n, (image_file, mask_file) in enumerate(files):
            image, mask = data[n]
            pixels = np.array(Image.open(root / image_file).convert("RGB"))
            assert torch.equal(image, normalize(torch.from_numpy(pixels).permute(2, 0, 1)))
            assert image.dtype == torch.float32 and mask.dtype == torch.int64 and mask.shape == SIZE
            numbers = stored(root / mask_file)
            for number, name in CLASS_OF[layout.reader.NAME].items():
                label = 255 if name is None else layout.reader.CLASSES.index(name)
                assert (mask[torch.from_numpy(numbers == number)] == label).all() and (numbers == number).any()


COUNTS = {"Cityscapes": 19, "ADE20K": 150, "COCO-Stuff 10k": 171, "VOC 2012": 21}


def test_every_class_has_a_number_a_name_and_a_colour(published):
    layout, root = published
    reader, count = layout.reader, COUNTS[layout.reader.NAME]
    assert len(reader.CLASSES) == len(set(reader.CLASSES)) == count and all(
        name.strip() == name for name in reader.CLASSES
    )
    assert reader.PALETTE.shape == (count, 3) and len(np.unique(reader.PALETTE, axis=0)) == count
    data = reader(root, reader.SPLITS[0])
    assert data[0][1].unique().tolist() == [*range(count), 255]
    assert data.labels(0) == list(range(count))


def test_label_numbers_of_cityscapes_in_the_order_of_its_classes():
    evaluated = [number for number, label in enumerate(Cityscapes.LABELS.tolist()) if label < 19]
    assert evaluated == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert Cityscapes.LABELS[evaluated].tolist() == list(range(19))


def test_the_first_colours_of_voc():
    first = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]]
    assert VOC2012.PALETTE[:7].tolist() == first and VOC2012.PALETTE[15].tolist() == [192, 128, 128]


def test_a_wrong_root_names_the_folder_and_the_next_step(published, tmp_path: Path):
    layout, _ = published
    with pytest.raises(DataError) as told:
        layout.reader(tmp_path / "nowhere", layout.reader.SPLITS[0])
    assert f"no folder {tmp_path / 'nowhere'}. Get " in str(told.value) and layout.reader.NAME in str(told.value)


def test_the_folder_above_ade_is_answered_by_the_right_one(tmp_path: Path):
    publish(ADE, tmp_path / "ADEChallengeData2016")
    with pytest.raises(DataError, match="give .*ADEChallengeData2016"):
        ADE20K(tmp_path, "training")


def test_a_missing_part_is_named(published):
    layout, root = published
    image, mask = layout.files[layout.reader.SPLITS[0]][0]
    (root / mask).unlink()
    with pytest.raises(DataError, match=f"has no mask; expected .*{Path(mask).name}"):
        layout.reader(root, layout.reader.SPLITS[0])
    (root / Path(mask).parts[0]).rename(root / "elsewhere")
    with pytest.raises(DataError, match=f"no folder .*{Path(mask).parts[0]}"):
        layout.reader(root, layout.reader.SPLITS[0])


@pytest.mark.parametrize("layout", [COCO, VOC], ids=["coco", "voc"])
def test_lists_must_be_there_and_name_pictures_that_are(tmp_path: Path, layout: Layout):
    root = publish(layout, tmp_path)
    image = root / layout.files["train"][0][0]
    image.unlink()
    with pytest.raises(DataError, match=f"names '{image.stem}', but there is no .*{image.name}"):
        layout.reader(root, "train")
    for listing in root.rglob("train.txt"):
        listing.unlink()
    with pytest.raises(DataError, match=r"no list .*train\.txt"):
        layout.reader(root, "train")


def test_an_empty_split(published):
    layout, root = published
    split = layout.reader.SPLITS[0]
    for image, _ in layout.files[split]:
        (root / image).unlink()
    for listing in root.rglob(f"{split}.txt"):
        listing.write_text("\n")
    with pytest.raises(DataError, match=f"the split '{split}' is empty"):
        layout.reader(root, split)


@pytest.mark.parametrize("layout,number", [(CITY, 34), (CITY, 255), (ADE, 151), (COCO, 12), (COCO, 183), (VOC, 21)])
def test_a_number_that_no_label_map_has(tmp_path: Path, layout: Layout, number: int):
    root = publish(layout, tmp_path)
    labels = np.zeros(SIZE, np.uint8)
    labels[2, 3:6] = number
    split = layout.reader.SPLITS[0]
    save(root / layout.files[split][0][1], labels)
    with pytest.raises(DataError, match=f"has the label {number} at 3 pixels; labels are 0 to"):
        layout.reader(root, split)[0]


def test_damaged_files(published):
    layout, root = published
    split = layout.reader.SPLITS[0]
    for file in layout.files[split][0][::-1]:
        path = root / file
        path.write_bytes(path.read_bytes()[:150])
        with pytest.raises(DataError, match=f"cannot read .*{path.name}.*damaged"):
            layout.reader(root, split)[0]


def test_release_1_of_coco_stuff_is_refused(tmp_path: Path):
    from scipy.io import savemat

    root = publish(COCO, tmp_path)
    names = np.array(["unlabeled"] * 172, dtype=object)
    savemat(root / COCO.files["train"][0][1], {"S": np.ones(SIZE), "names": names})
    with pytest.raises(DataError, match=r"release 1\.0.*v1\.1"):
        COCOStuff10k(root, "train")[0]
    savemat(root / COCO.files["train"][0][1], {"T": np.ones(SIZE)})
    with pytest.raises(DataError, match="no label map S"):
        COCOStuff10k(root, "train")[0]


def test_without_scipy_coco_stuff_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = COCOStuff10k(publish(COCO, tmp_path), "train")
    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *a, **k: _no(name) or real(name, *a, **k))
    with pytest.raises(MissingDependencyError, match="pip install scipy"):
        data[0]


def _no(name: str) -> None:
    if name.startswith("scipy"):
        raise ImportError(name)


def test_grey_and_small_pictures_of_the_wild_are_rgb(tmp_path: Path):
    root = publish(ADE, tmp_path)
    Image.fromarray(np.full(SIZE, 90, np.uint8)).save(root / ADE.files["training"][0][0])
    image, _ = ADE20K(root, "training").read(0)
    assert image.shape == (*SIZE, 3) and (image == image[..., :1]).all()


def test_balanced_crops_learn_the_classes_from_the_label_maps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = publish(CITY, tmp_path)
    labels = np.full(SIZE, 7, np.uint8)
    labels[4:6, 4:6] = 17
    for _, mask in CITY.files["train"]:
        save(root / mask, labels)
    data = Cityscapes(root, "train")
    monkeypatch.setattr(Cityscapes, "read", lambda self, i: pytest.fail("an image was read"))
    crops = BalancedCrops(data, (8, 8))
    assert crops.holders == {0: [0, 1, 2], 5: [0, 1, 2]}
