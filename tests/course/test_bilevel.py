"""`prunekit run bilevel`: the paper's numbers, and the whole road on small folders in the published layouts."""

from __future__ import annotations

import json
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
from prunekit.methods.bilevel import MaskConfig
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.plan import Limits

CITY_DEEPLAB = ("cityscapes-deeplab", "DeepLabV3+ MobileNetV2")
TARGETS = {  # preset -> the paper's table, the row with the MACs that it starts from, the row that it ends at
    "ade20k": ("ade20k", "TopFormer-Base", "Ours-Small"),
    "ade20k-tiny": ("ade20k", "TopFormer-Base", "Ours-Tiny"),
    "cityscapes": ("cityscapes", "Ours-Base", "Ours-Small"),  # of TopFormer-Base's MACs there, in the paper's own count
    "cityscapes-tiny": ("cityscapes", "Ours-Base", "Ours-Tiny"),
    "voc": ("voc", "TopFormer-Base", "Ours-Small"),
    "voc-tiny": ("voc", "TopFormer-Base", "Ours-Tiny"),
    "cityscapes-deeplab": (*CITY_DEEPLAB, "Ours-Small-DeepLab"),
    "cityscapes-deeplab-base": (*CITY_DEEPLAB, "Ours-Base-DeepLab"),
}
BASES = ("ade20k-base", "cityscapes-base", "voc-base")  # their start is ours: the paper does not name it


def test_every_full_preset_has_a_target_in_the_paper() -> None:
    assert {*TARGETS, *BASES} == set(BILEVEL["full"])
    for ade, city in zip(PAPER["ade20k"][-3:], PAPER["cityscapes"][-3:], strict=True):
        assert (ade.name, 2 * ade.macs) == (city.name, city.macs)


@pytest.mark.parametrize("name", TARGETS)
def test_full_scale_goes_to_the_papers_network(name: str) -> None:
    table, start, end = TARGETS[name]
    preset, rows = preset_of("full", name), {row.name: row for row in PAPER[table]}
    assert (1 - preset.macs_ratio) * rows[start].macs == pytest.approx(rows[end].macs, rel=0.01)
    with torch.device("meta"):
        model = MODELS[preset.model](len(READERS[preset.dataset][0].CLASSES)).eval()
    macs = pk.profiling.count_macs(model, torch.zeros(1, 3, *preset.size, device="meta"))
    assert macs == pytest.approx(
        1e9 * rows[start].macs, rel=0.12
    )  # its own count of VOC is that of ADE20K, with 150 classes
    assert preset.dataset in READERS and preset.masks.implicit


@pytest.mark.parametrize("name", BASES)
def test_the_base_presets_go_from_a_wider_network_to_the_macs_of_topformer_base(name: str) -> None:
    preset, plain = preset_of("full", name), preset_of("full", name.removesuffix("-base"))
    assert replace(preset, model=plain.model, macs_ratio=plain.macs_ratio) == plain
    with torch.device("meta"):
        x, classes = torch.zeros(1, 3, *preset.size), len(READERS[preset.dataset][0].CLASSES)
        wide, base = (
            pk.profiling.count_macs(MODELS[each](classes).eval(), x) for each in ("topformer_wide", "topformer_base")
        )
    assert (1 - preset.macs_ratio) * wide == pytest.approx(base, rel=0.02)


def test_overrides_reach_every_training_and_the_masks() -> None:
    preset = preset_of("full", "ade20k")
    other = override(preset, steps=2, batch=4, lam=3.0, implicit=False, method="l1", size=None)
    assert [s.steps for s in (other.pretrain, other.search, other.tune) if s] == [2, 2, 2] and other.tune.batch == 4
    assert (other.masks.lam, other.masks.implicit, other.method, other.size) == (3.0, False, "l1", (512, 512))
    assert preset.masks.lam == 1.0 and preset.search.steps == 20000
    asked = {"threshold": 0.3, "lr": 0.1, "inner_steps": 4, "ramp": 0.2, "relative": False}
    assert {name: getattr(override(preset, **asked).masks, name) for name in asked} == asked
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
    history = json.loads((folder / "history.json").read_text())
    assert len(history["lines"]) == 2 and set(history) == {"columns", "sizes", "lines", "flips"}
    plan = pk.PruningPlan.load(folder / "plan.json")
    assert plan.sizes == history["sizes"] and "too short a search" in plan.note
    assert cli.main(command(root, out)) == 0  # all of it is there
    (again,) = ledger.load("bilevel")
    assert again.seconds == entry.seconds and again.metrics == entry.metrics
    search = json.loads((folder / "search.json").read_text())
    assert search.items() <= entry.metrics.items() and search["search_peak_bytes"] > 1e6
    assert search["held_open"] == {}
    assert cli.main(command(root, out, "--beta", "5")) == 2
    assert "beta=25" in capsys.readouterr().err
    for method in ("regrow", "eagleeye", "eagleeye"):
        assert cli.main(command(root, out, "--method", method, "--steps", "1")) == 0
        (entry,) = (each for each in ledger.load("bilevel") if each.method == method)
        assert 0.5 <= entry.metrics["macs_removed"] < 0.51
        search = json.loads((out / f"{method}-cityscapes-deeplabv3_mini-0.5-0" / "search.json").read_text())
        assert search.items() <= entry.metrics.items() and search["search_seconds"] < entry.seconds


def test_the_command_has_an_option_for_every_setting_of_the_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "--tau 0.3 --mask-lr 0.1 --inner-steps 4 --ramp 0.2 --no-relative --no-implicit --beta 2 --lam 3".split()
    given += "--candidates 7 --min-keep 3 --round-to 4".split()
    seen = []
    monkeypatch.setattr("prunekit.course.bilevel.run", lambda preset, **_: seen.append(preset))
    assert cli.main(command(tmp_path, tmp_path / "out", *given)) == 0
    assert [each.masks for each in seen] == [
        MaskConfig(threshold=0.3, lr=0.1, inner_steps=4, beta=2, lam=3, relative=False, implicit=False, ramp=0.2)
    ]
    assert len(MaskConfig.__dataclass_fields__) == 8  # all of them
    assert seen[0].candidates == 7 and seen[0].limits() == Limits(round_to=4, min_keep=3)
    assert cli.main(command(tmp_path, tmp_path / "out", "--min-keep", "0")) == 2


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
