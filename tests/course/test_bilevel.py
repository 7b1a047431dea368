"""`prunekit run bilevel`: the paper's numbers, and the whole road on small folders in the published layouts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from layouts import CITY, publish

import prunekit as pk
from prunekit import cli
from prunekit.course import ledger
from prunekit.course.bilevel import BILEVEL, MODELS, PAPER, experiment, override, preset_of
from prunekit.course.experiments import READERS
from prunekit.errors import InputError
from prunekit.models.deeplab import deeplabv3_mini

TARGETS = {"ade20k": "TopFormer-Base", "voc": "TopFormer-Base", "cityscapes-deeplab": "DeepLabV3+ MobileNetV2"}


@pytest.mark.parametrize("name", TARGETS)
def test_full_scale_goes_to_the_papers_small_network(name: str) -> None:
    preset, rows = preset_of("full", name), {row.name: row for row in PAPER[name]}
    small = next(row for key, row in rows.items() if key.startswith("Ours-Small"))
    assert (1 - preset.macs_ratio) * rows[TARGETS[name]].macs == pytest.approx(small.macs, rel=0.01)
    with torch.device("meta"):
        model = MODELS[preset.model](len(READERS[preset.dataset][0].CLASSES)).eval()
    macs = pk.profiling.count_macs(model, torch.zeros(1, 3, *preset.size, device="meta"))
    assert macs == pytest.approx(
        1e9 * rows[TARGETS[name]].macs, rel=0.12
    )  # its own count of VOC is that of ADE20K, with 150 classes
    assert preset.dataset in READERS and preset.masks.implicit


def test_overrides_reach_every_training_and_the_masks() -> None:
    preset = preset_of("full", "ade20k")
    other = override(preset, steps=2, batch=4, lam=3.0, implicit=False, method="l1", size=None)
    assert [s.steps for s in (other.pretrain, other.search, other.tune) if s] == [2, 2, 2] and other.tune.batch == 4
    assert (other.masks.lam, other.masks.implicit, other.method, other.size) == (3.0, False, "l1", (512, 512))
    assert preset.masks.lam == 1.0 and preset.search.steps == 20000
    with pytest.raises(InputError, match=r"no network 'resnet'.*topformer_base"):
        override(preset, model="resnet")
    with pytest.raises(InputError, match=r"no method 'dmcp'.*eagleeye"):
        override(preset, method="dmcp")
    with pytest.raises(InputError, match=r"'coco' at full scale.*voc"):
        preset_of("full", "coco")


def command(root: Path, out: Path, *more: str) -> list[str]:
    tiny = "--model deeplabv3_mini --size 32 32 --batch 4 --steps 2 --macs-ratio 0.5"
    return f"run bilevel --scale full --dataset cityscapes --root {root} --out {out} {tiny}".split() + list(more)


def test_the_command_searches_resumes_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BILEVEL["full"], "cityscapes", replace(preset_of("full", "cityscapes"), short_side=None))
    root, out = publish(CITY, tmp_path / "set"), tmp_path / "out"
    assert cli.main(command(root, out)) == 0
    said = capsys.readouterr().out
    assert "2 steps" in said and "closing step" in said and "bilevel: mIoU" in said
    folder = out / "bilevel-cityscapes-deeplabv3_mini-0.5-0"
    pruned = pk.load_pruned(folder / "small", deeplabv3_mini(19).eval(), torch.randn(1, 3, 32, 32))
    assert pruned(torch.randn(1, 3, 32, 32)).shape == (1, 19, 32, 32)
    (entry,) = ledger.load("bilevel")
    assert entry.method == "bilevel" and entry.scale == "full" and len(entry.metrics["iou"]) == 19
    assert 0.5 <= entry.metrics["macs_removed"] < 0.51 and entry.metrics["search_steps"] == 2
    assert cli.main(command(root, out)) == 0  # all of it is there
    assert cli.main(command(root, out, "--beta", "5")) == 2
    assert "beta=25" in capsys.readouterr().err
    assert cli.main(command(root, out, "--method", "eagleeye", "--steps", "1")) == 0
    assert {entry.method for entry in ledger.load("bilevel")} == {"bilevel", "eagleeye"}


def test_where_the_data_are_must_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [word for word in command(tmp_path, tmp_path / "out") if word not in ("--root", str(tmp_path))]
    assert cli.main(line) == 2
    assert "where is cityscapes? Give its folder: --root PATH" in capsys.readouterr().err


def test_a_target_out_of_reach_is_refused_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = publish(CITY, tmp_path / "set")
    monkeypatch.setattr(experiment, "finetune", lambda *args, **more: pytest.fail("it trained"))
    line = command(root, tmp_path / "out")
    line[line.index("--macs-ratio") + 1] = "0.999"
    assert cli.main(line) == 2
    assert "up to 9" in capsys.readouterr().err
