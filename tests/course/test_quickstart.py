"""The quickstart outside the notebook, on a real data set's layout: trains, prunes, leaves files and ledger records."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunekit.course import ledger, presets, quickstart
from prunekit.course.tasks import load_task
from prunekit.data.scenes import make_scene
from prunekit.errors import DataError, InputError

SIZE = (48, 64)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """CamVid's layout, filled with drawn streets; classes above 11 are folded onto 'unlabelled'."""
    root = tmp_path / "camvid"
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for i in range(count):
            scene = make_scene(3, i, size=SIZE)
            name = f"Seq05VD_{i:03}.png" if i == 0 else f"0001TP_{i:03}.png"
            Image.fromarray(scene.image).save(root / split / name)
            Image.fromarray(np.minimum(scene.mask, 11).astype(np.uint8)).save(root / f"{split}annot" / name)
    return root


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A preset of a few steps, and a ledger of its own."""
    tiny = dataclasses.replace(presets.QUICKSTART["small"], size=SIZE, train_steps=3, tune_steps=2, batch=2)
    monkeypatch.setitem(quickstart.QUICKSTART, "small", tiny)
    monkeypatch.setenv("PRUNEKIT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return tmp_path / "out"


def test_it_runs_on_camvid_and_again_from_where_it_was(
    camvid: Path, short: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quickstart.run(scale="small", dataset="camvid", root=camvid, out=short, seed=0)
    for criterion in ("l1", "random"):
        files = {f.name for f in (short / criterion).iterdir()}
        assert {"report.txt", "plan.json", "pruned.onnx", "before_after.png"} <= files
        assert json.loads((short / criterion / "plan.json").read_text())["format"] == "prunekit-plan-1"
    table = capsys.readouterr().out
    assert all(word in table for word in ("params (M)", "MACs (M)", "mIoU", "sign symbol", "bicyclist"))
    records = {r.method: r for r in ledger.load("Q1")}
    assert set(records) == {"dense", "l1", "random"}
    assert records["l1"].metrics["macs"] <= 0.5 * records["dense"].metrics["macs"]
    assert 0 <= records["l1"].metrics["miou_seq05vd"] <= 1
    monkeypatch.setattr(quickstart, "_leave_files", lambda *args, **kw: None)  # its exports take longest
    quickstart.run(scale="small", dataset="camvid", root=camvid, out=short, seed=0)
    again = {r.method: r for r in ledger.load("Q1")}
    assert all(again[m].metrics["iou"] == records[m].metrics["iou"] for m in records)


def test_tasks_give_what_a_lesson_needs(camvid: Path) -> None:
    task = load_task("camvid", size=(32, 500), root=camvid)
    image, mask = task.train[0]
    assert image.shape == (3, 32, SIZE[1])  # a crop never exceeds the pictures
    assert mask.shape == (32, SIZE[1])
    assert task.test[0][0].shape == (3, *SIZE)
    images, masks = task.examples(2)
    assert (images.shape, masks.shape) == ((2, 3, *SIZE), (2, *SIZE))
    scenes = load_task("scenes", train_count=3, test_count=2)
    assert (len(scenes.train), len(scenes.test), len(scenes.classes)) == (3, 2, 12)  # type: ignore[arg-type]


def test_the_loss_gives_thin_classes_more_weight() -> None:
    task = load_task("scenes", train_count=20, test_count=1)
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    wrong = torch.zeros(1, 12, 8, 8)
    road, pole = task.classes.index("road"), task.classes.index("pole")
    assert task.loss(wrong, target + pole) > 3 * task.loss(wrong, target + road)


def test_wrong_names_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set 'cityscapes' here"):
        load_task("cityscapes")
    with pytest.raises(DataError, match=r"Fetch the set in a clone of prunekit: python data_scripts/get_camvid.py"):
        load_task("camvid", root=tmp_path / "nowhere")


def test_the_table_shows_absent_classes_as_nan() -> None:
    task = load_task("scenes", train_count=2, test_count=2)
    model = quickstart.dense_model(presets.QUICKSTART["mini"], task, Path("unused"))
    found = quickstart.measure({"dense": model, "same": model}, task, task.examples(1)[0])
    lines = quickstart.comparison(task, found).splitlines()
    assert lines[0].split() == ["dense", "same"]
    row = next(line.split() for line in lines if line.startswith("MACs"))
    assert row[2] == row[3]
