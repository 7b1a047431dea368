"""ImageNet's folders, Tiny ImageNet's, SBD's .mat files and crops of scenes: items, order, and one error a mistake."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunekit.data.real import SBD, VOC2012, ImageNet, TinyImageNet
from prunekit.data.scenes import DOMAINS, THINGS, SceneCrops, ScenePatches, class_patches, make_scene, object_crops
from prunekit.data.transforms import classify_transform, normalize
from prunekit.errors import DataError, InputError, MissingDependencyError

WNIDS = ("n01443537", "n01629819", "n02795169")


def picture(path: Path, seed: int, size: tuple[int, int] = (20, 24)) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return np.array(Image.open(path).convert("RGB"))


def imagenet(root: Path) -> Path:
    for k, name in enumerate(reversed(WNIDS)):
        for n in range(2):
            picture(root / "train" / name / f"{name}_{n}.JPEG", 10 * k + n)
        picture(root / "val" / name / f"ILSVRC2012_val_{k:08}.JPEG", 100 + k)
    return root


def tiny(root: Path) -> Path:
    for k, name in enumerate(WNIDS):
        for n in range(2):
            picture(root / "train" / name / "images" / f"{name}_{n}.JPEG", 10 * k + n)
        (root / "train" / name / f"{name}_boxes.txt").write_text("")
        picture(root / "val" / "images" / f"val_{k}.JPEG", 100 + k)
    rows = [f"val_{k}.JPEG\t{WNIDS[(k + 1) % 3]}\t0\t0\t9\t9" for k in range(3)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    (root / "test" / "images").mkdir(parents=True)
    return root


@pytest.mark.parametrize(("reader", "publish"), [(ImageNet, imagenet), (TinyImageNet, tiny)])
def test_items_are_the_files_with_the_class_of_their_folder(reader, publish, tmp_path: Path) -> None:
    root = publish(tmp_path)
    train, val = reader(root, "train"), reader(root, "val")
    assert train.classes == val.classes == WNIDS and len(train) == 6 and len(val) == 3
    assert [label for _, label in train.items] == [0, 0, 1, 1, 2, 2]
    assert all(path.stem.startswith(WNIDS[label]) for path, label in train.items)
    image, label = train[3]
    stored = np.array(Image.open(train.items[3][0]).convert("RGB"))
    assert label == 1 and torch.equal(image, normalize(torch.from_numpy(stored).permute(2, 0, 1)))
    expected = [1, 2, 0] if reader is TinyImageNet else [0, 1, 2]
    assert [val[i][1] for i in range(3)] == expected
    for train_view in (True, False):
        view, _ = reader(root, "val", transform=classify_transform(16, train=train_view))[0]
        assert view.shape == (3, 16, 16) and view.dtype == torch.float32 and type(view) is torch.Tensor


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ImageNet: no folder .*train\. Get ILSVRC2012_img_train"):
        ImageNet(tmp_path, "train")
    with pytest.raises(InputError, match="no split 'test' in Tiny ImageNet; choose one of train, val"):
        TinyImageNet(tmp_path, "test")
    root = imagenet(tmp_path / "one")
    (root / "val" / "n99999999").mkdir()
    with pytest.raises(DataError, match="n99999999 is no class of train/"):
        ImageNet(root, "val")
    damaged = root / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match=rf"cannot read .*{damaged.name}.*damaged"):
        ImageNet(root, "train")[0]
    root = tiny(tmp_path / "two")
    listing = root / "val" / "val_annotations.txt"
    listing.write_text("val_0.JPEG\tn00000000\n")
    with pytest.raises(DataError, match="says 'val_0.JPEG n00000000': no such picture or class"):
        TinyImageNet(root, "val")
    listing.unlink()
    with pytest.raises(DataError, match=r"no list .*val_annotations.txt"):
        TinyImageNet(root, "val")
    (tmp_path / "three" / "train" / "n0").mkdir(parents=True)
    with pytest.raises(DataError, match="the split 'train' is empty"):
        ImageNet(tmp_path / "three", "train")


def sbd(root: Path) -> tuple[Path, np.ndarray]:
    savemat = pytest.importorskip("scipy.io").savemat
    labels = (np.arange(20 * 24) % 21).reshape(20, 24).astype(np.uint8)
    for name in ("2008_000002", "2008_000003"):
        picture(root / "img" / f"{name}.jpg", 0)
        (root / "cls").mkdir(exist_ok=True)
        savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels, "Boundaries": np.zeros((20, 1))}})
    (root / "train.txt").write_text("2008_000002\n2008_000003\n")
    return root, labels


def test_sbd_is_read_from_its_mat_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, labels = sbd(tmp_path)
    data = SBD(root, "train")
    image, mask = data[1]
    assert len(data) == 2 and image.shape == (3, 20, 24) and SBD.CLASSES == VOC2012.CLASSES
    assert torch.equal(mask, torch.from_numpy(labels.astype(np.int64)))
    assert [image.stem for image, _ in SBD(root, "train", without={"2008_000003"}).pairs] == ["2008_000002"]
    from scipy.io import savemat

    savemat(root / "cls" / "2008_000002.mat", {"other": 1})
    with pytest.raises(DataError, match="has no GTcls.Segmentation"):
        data[0]
    real = builtins.__import__

    def without_scipy(name: str, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(MissingDependencyError, match="of SBD are read by SciPy: pip install scipy"):
        data[1]


def test_scene_crops_are_the_crops_of_the_scenes() -> None:
    data = SceneCrops(3, seed=5, size=16)
    scenes = [object_crops(make_scene(5, i), 16) for i in range(3)]
    assert len(data) == sum(len(labels) for _, labels in scenes) > 3
    images, labels = (np.concatenate(part) for part in zip(*scenes, strict=True))
    for i in (0, len(data) - 1):
        image, label = data[i]
        assert THINGS[label] == labels[i]
        assert torch.equal(image, normalize(torch.from_numpy(images[i]).permute(2, 0, 1)))
    flipped = SceneCrops(1, seed=5, size=16, transform=classify_transform(12, train=True))
    assert flipped[0][0].shape == (3, 12, 12)
    with pytest.raises(InputError, match="count is 0"):
        SceneCrops(0)


def test_a_patch_shows_its_class_in_the_middle() -> None:
    scene = make_scene(5, 0, domain="night")
    words = np.arange(7, 263, dtype=np.uint64)
    for size in (16, 17):
        patches, labels = class_patches(scene, words, size)
        assert labels.tolist() == sorted({*scene.mask.flatten().tolist()} - {255})
        for patch, label in zip(patches, labels, strict=True):
            rows, columns = np.nonzero(scene.mask == label)
            pixel = int(words[label]) % len(rows)
            assert (patch[size // 2, size // 2] == scene.image[rows[pixel], columns[pixel]]).all()


def test_scene_patches_take_turns_in_the_worlds() -> None:
    data = ScenePatches(5, seed=5, size=16)
    counts = [len(set(make_scene(5, i, domain=world).mask.flatten()) - {255}) for i, world in enumerate(DOMAINS)]
    assert len(data) == sum(counts) and data[0][0].shape == (3, 16, 16) and data[0][0].dtype == torch.float32
    again = ScenePatches(5, seed=5, size=16)
    assert (data.images == again.images).all() and (data.labels == again.labels).all()
    assert {label for _, label in (data[i] for i in range(counts[0]))} == set(data.labels[: counts[0]].tolist())
    for count, size, worlds in ((0, 32, DOMAINS), (1, 0, DOMAINS), (1, 32, ())):
        with pytest.raises(InputError, match="give at least one of each"):
            ScenePatches(count, size=size, domains=worlds)
    with pytest.raises(InputError, match="no domain 'mars'"):
        ScenePatches(1, domains=("mars",))
