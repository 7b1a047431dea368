"""The export in Cityscapes' layout: right numbers, resumable, the same pixels from any number of processes."""

import hashlib
import json
from pathlib import Path

import make_scenes
import numpy as np
import pytest
from make_scenes import LABEL_IDS, TRAIN_IDS, main
from PIL import Image

from prunekit.data.scenes import CLASSES, PALETTE, make_scene

ARGS = ["--train", "3", "--val", "1", "--test", "1", "--size", "32", "64", "--domain", "day", "--domain", "fog"]


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def hashes(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.*")}


@pytest.fixture
def root(tmp_path):
    assert main([str(tmp_path / "s"), *ARGS, "--workers", "1"]) == 0
    return tmp_path / "s"


def test_files_and_pixels(root):
    assert sum(p.suffix == ".png" for p in root.rglob("*")) == 5 * 4 and not list(root.rglob("*.part"))
    for split, seed, index, domain in (("train", 0, 0, "day"), ("train", 0, 1, "fog"), ("val", 1, 0, "day")):
        scene = make_scene(seed, index, domain=domain, size=(32, 64))
        stem = f"{split}/{domain}/{domain}_{index:06d}_000000"
        assert np.array_equal(read(root / f"leftImg8bit/{stem}_leftImg8bit.png"), scene.image)
        label, train = (read(root / f"gtFine/{stem}_gtFine_{kind}.png") for kind in ("labelIds", "labelTrainIds"))
        for i in range(12):
            assert np.array_equal(label == LABEL_IDS[i], scene.mask == i)
            assert np.array_equal(train == TRAIN_IDS[i], scene.mask == i)
        assert np.array_equal(label == 0, scene.mask == 255) and np.array_equal(train == 255, scene.mask == 255)
        colour = read(root / f"gtFine/{stem}_gtFine_color.png")
        assert np.array_equal(colour[scene.mask < 12], PALETTE[scene.mask[scene.mask < 12]])


def test_numbers_are_those_of_cityscapes():
    """From the data set's own table (name, id, trainId)."""
    table = {
        "road": (7, 0),
        "sidewalk": (8, 1),
        "building": (11, 2),
        "fence": (13, 4),
        "pole": (17, 5),
        "traffic light": (19, 6),
        "traffic sign": (20, 7),
        "vegetation": (21, 8),
        "sky": (23, 10),
        "person": (24, 11),
        "car": (26, 13),
        "bicycle": (33, 18),
    }
    assert dict(zip(CLASSES, zip(LABEL_IDS, TRAIN_IDS))) == table


def test_boxes(root):
    coco = json.loads((root / "annotations/train.json").read_text())
    assert [i["id"] for i in coco["images"]] == [0, 1, 2]
    assert [a["id"] for a in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    assert all((root / i["file_name"]).is_file() and (i["height"], i["width"]) == (32, 64) for i in coco["images"])
    scene = make_scene(0, 2, size=(32, 64))
    ours = [(a["bbox"], a["category_id"]) for a in coco["annotations"] if a["image_id"] == 2]
    theirs = [
        ([x0, y0, x1 - x0, y1 - y0], LABEL_IDS[n]) for (x0, y0, x1, y1), n in zip(scene.boxes.tolist(), scene.labels)
    ]
    assert ours == theirs and ours
    assert {a["category_id"] for a in coco["annotations"]} <= {c["id"] for c in coco["categories"]}


def test_classes_file(root):
    rows = json.loads((root / "classes.json").read_text())["classes"]
    assert [(r["class"], r["name"], r["labelId"]) for r in rows] == list(zip(range(12), CLASSES, LABEL_IDS))


def test_same_from_two_processes(root, tmp_path):
    assert main([str(tmp_path / "two"), *ARGS, "--workers", "2"]) == 0
    assert hashes(tmp_path / "two") == hashes(root)


def test_resumes(root, monkeypatch):
    before = hashes(root)
    gone = root / "gtFine/train/fog/fog_000001_000000_gtFine_labelIds.png"
    gone.unlink()
    (root / "annotations/val.json").unlink()
    written = []
    save = make_scenes.save_atomic
    monkeypatch.setattr(make_scenes, "save_atomic", lambda path, pixels: (written.append(path), save(path, pixels)))
    assert main([str(root), *ARGS, "--workers", "1"]) == 0
    assert written == [gone] and hashes(root) == before


def test_a_stopped_write_leaves_no_file(tmp_path, monkeypatch):
    def stop(*_, **__) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            make_scenes.save_atomic(tmp_path / "x.png", np.zeros((4, 4), np.uint8))
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("change", [["--seed", "1"], ["--size", "32", "32"], ["--domain", "night"]])
def test_other_settings_need_another_folder(root, capsys, change):
    before = hashes(root)
    assert main([str(root), *ARGS, *change, "--workers", "1"]) == 1
    assert "choose an empty folder" in capsys.readouterr().err and hashes(root) == before


def test_bad_arguments(tmp_path, capsys):
    assert main([str(tmp_path / "x"), "--train", "1", "--size", "4", "4", "--workers", "1"]) == 1
    assert "size is (4, 4)" in capsys.readouterr().err
    for wrong in (["--domain", "mars"], ["--train", "-1"]):
        with pytest.raises(SystemExit):
            main([str(tmp_path / "x"), *wrong])
