"""`prunekit run mtp`: the numbers of the paper, and the whole road on small folders in the published layouts."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from layouts import VOC, publish

import prunekit as pk
from prunekit import cli
from prunekit.course import ledger
from prunekit.course.mtp import MODELS, MTP, data, networks, override, preset_of
from prunekit.errors import DataError, InputError
from prunekit.methods import mtp
from prunekit.models.bisenet import bisenet_mini
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.train import classification_loss

# alpha; dense: epochs, batch, lr; tuning: epochs, lr; ImageNet: epochs, batch; crop
APPENDIX = {
    "voc": (0.001, (50, 16, 0.007), (50, 0.0007), (20, 256), (513, 513)),
    "cityscapes": (0.001, (480, 32, 0.01), (240, 0.0005), (20, 256), (512, 1024)),
    "cityscapes-bisenet": (0.0001, (80, 32, 0.01), (80, 0.001), (50, 512), (768, 1536)),
    "ade20k": (0.0001, (120, 32, 0.01), (120, 0.0005), (50, 128), (480, 480)),
}
TRAINING = {"voc": 10582, "cityscapes": 2975, "cityscapes-bisenet": 2975, "ade20k": 20210}


@pytest.mark.parametrize("name", APPENDIX)
def test_full_scale_is_appendix_7_1(name: str) -> None:
    alpha, dense, tune, imagenet, size = APPENDIX[name]
    preset = preset_of("full", name)
    assert preset.settings.alpha1 == preset.settings.alpha2 == alpha and preset.size == size
    per_epoch, objects = -(-TRAINING[name] // dense[1]), -(-1_281_167 // imagenet[1])
    assert (preset.dense.steps, preset.dense.batch, preset.dense.lr) == (dense[0] * per_epoch, *dense[1:])
    assert (preset.tune_segment.steps, preset.tune_segment.lr) == (tune[0] * per_epoch, tune[1])
    assert (preset.tune_classify.steps, preset.tune_classify.batch) == (imagenet[0] * objects, imagenet[1])
    assert (preset.classify.lr, preset.classify.schedule, preset.classify.batch) == (0.001, "linear", imagenet[1])
    assert {s.config(seed=0).schedule for s in (preset.dense, preset.tune_segment, preset.tune_classify)} == {"poly"}
    assert preset.resize == ((0.75, 2.0) if "bisenet" in name else (0.5, 2.0))
    several = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert preset.scales == (several if name in ("cityscapes", "ade20k") else ())
    assert set(MTP["full"]) == set(APPENDIX)


@pytest.mark.parametrize(("name", "params"), [("deeplabv3_r101", 58.04e6), ("pspnet_r50", 46.71e6)])
def test_networks_of_the_paper_have_the_parameters_it_prints(name: str, params: float) -> None:
    with torch.device("meta"):
        model = MODELS[name](21)
    aux = getattr(model, "aux", None)
    counted = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in (aux.parameters() if aux else ()))
    assert counted == pytest.approx(params, rel=0.002)


def test_every_scale_can_be_run_in_rounds() -> None:
    for presets in MTP.values():
        for preset in presets.values():
            rounds = preset.settings.rounds
            assert preset.classify.steps % rounds == 0 == preset.segment.steps % rounds and preset.classify.steps > 0
    preset = override(preset_of("mini"), steps=4, rounds=2, batch=3, percentage=0.25, size=None)
    assert preset.tune_classify.steps == preset.segment.steps == 4 and preset.dense.steps == 0
    assert preset.settings.rounds == 2 and preset.settings.alpha1 == preset_of("mini").settings.alpha1
    other = override(preset, alpha=0.2, mu=0.5, rho=3.0, inner=False)
    assert other.settings == replace(preset.settings, alpha1=0.2, alpha2=0.2, mu=0.5, rho=3.0) and not other.inner
    with pytest.raises(InputError, match=r"no network 'resnet'.*deeplabv3_r101, bisenet_r18"):
        override(preset, model="resnet")
    with pytest.raises(InputError, match=r"'coco' at full scale.*cityscapes-bisenet"):
        preset_of("full", "coco")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("--percentage 1.0", r"percentage is the fraction to remove, from 0 up to but not 1; got 1 \(--percentage\)"),
        ("--percentage -0.2", r"the fraction to remove, from 0 up to but not 1; got -0\.2 \(--percentage\)"),
        ("--steps 3 --rounds 2", r"3 steps \(classify\) are no multiple of 2 rounds; .*--steps 4"),
        ("--rho 1", r"rho is 1.0; mu is multiplied by it"),
        ("--side 0", r"side is 0; give whole numbers"),
        ("--pretrained", r"no ImageNet weights for deeplabv3_mini; pass --no-pretrained, or one of: deeplabv3_r101"),
    ],
)
def test_what_no_run_can_do_is_said_before_anything_is_drawn_or_trained(
    said: str, answer: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(data, "scenes", None)
    assert cli.main(["run", "mtp", "--out", str(tmp_path), *said.split()]) == 2
    assert re.search(answer, capsys.readouterr().err) and not list(tmp_path.iterdir())


def test_a_folder_that_would_not_be_read_and_a_network_without_a_backbone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--objects .* would not be read: here .* are patches of drawn scenes"):
        data.objects(preset_of("mini"), tmp_path, classification_loss)
    with pytest.raises(InputError, match="Linear has no convolutional backbone; take e.g. deeplabv3_mini"):
        networks.backbone_path(nn.Linear(2, 2))


def imagenet(root: Path) -> Path:
    for k, split in ((0, "train"), (1, "val")):
        for c in range(3):
            for n in range(4):
                path = root / split / f"n{c:08}" / f"{n}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(100 * k + 10 * c + n).integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(path)
    return root


@pytest.mark.parametrize(("model", "build"), [("deeplabv3_mini", deeplabv3_mini), ("bisenet_mini", bisenet_mini)])
def test_the_command_trains_on_the_published_layouts_and_goes_on(
    model: str, build, tmp_path: Path, capsys, monkeypatch
) -> None:
    # a new block's last scale is 0, so that its inner ones learn nothing before a real step
    fast = preset_of("full", "voc")
    monkeypatch.setitem(MTP["full"], "voc", replace(fast, classify=replace(fast.classify, lr=0.1)))
    voc, things = publish(VOC, tmp_path / "voc"), imagenet(tmp_path / "imagenet")
    out = tmp_path / "out"
    line = f"run mtp --scale full --dataset voc --root {voc} --objects {things} --out {out} --model {model}"
    line += " --size 32 32 --side 32 --steps 2 --rounds 2 --batch 4 --no-pretrained"
    alike: list[bool] = []

    def alternate(classifier: nn.Module, segmenter: nn.Module, parts: mtp.Parts, *more, **given) -> mtp.Sparse:
        theirs = segmenter.get_submodule(parts.path).state_dict()
        alike.append(
            all(torch.equal(t, theirs[n]) for n, t in classifier.get_submodule("backbone").state_dict().items())
        )
        return real(classifier, segmenter, parts, *more, **given)

    real = mtp.alternate
    monkeypatch.setattr(mtp, "alternate", alternate)
    assert cli.main(line.split()) == 0
    said = capsys.readouterr().out
    assert alike == [True], "one backbone to begin with"
    assert re.search(r"round 1: losses classification \d.*, segmentation \d.*; \|\|W1 - W3\|\|", said)
    assert "certificate: masked == pruned" in said and "mtp, independent, ratio 0.5 / 0.5" in said
    folder = out / f"mtp-voc-{model}-0"
    assert (folder / "0.5-independent-1" / "report.txt").read_text().count("losses classification") == 2
    small = pk.load_pruned(folder / "0.5-independent-1" / "small", build(21).eval(), torch.randn(1, 3, 32, 32))
    assert small(torch.randn(1, 3, 32, 32)).shape == (1, 21, 32, 32)
    (entry,) = ledger.load("mtp")
    assert entry.method == "mtp" and entry.scale == "full" and 0 < entry.metrics["macs_removed"] < 1
    assert {len(entry.metrics[name]) for name in ("residual", "classify_loss", "segment_loss")} == {
        2
    } and 0 <= entry.metrics["top1"] <= 1
    assert cli.main(line.split()) == 0  # all is there: nothing is trained again
    (again,) = ledger.load("mtp")
    assert again.metrics == entry.metrics
    assert json.loads(next((folder / "sparse").glob("step-*/state.json")).read_text())["config"]["rounds"] == 2
    capsys.readouterr()
    assert cli.main([*line.split(), "--how", "unified", "--percentage", "0.25"]) == 0, "another cut, the same networks"
    assert "round 0" not in capsys.readouterr().out and (folder / "0.25-unified-1" / "plan.json").is_file()
    assert {entry.settings["percentage"] for entry in ledger.load("mtp")} == {0.5, 0.25}


def test_where_the_data_are_must_be_said(tmp_path: Path, capsys) -> None:
    base = ["run", "mtp", "--scale", "full", "--dataset", "voc", "--out", str(tmp_path), "--no-pretrained"]
    assert cli.main(base) == 2
    assert "where is voc? Give its folder: --root PATH" in capsys.readouterr().err
    assert cli.main([*base, "--root", str(publish(VOC, tmp_path / "voc"))]) == 2
    assert re.search(r"where is ImageNet\? Give its folder: --objects PATH", capsys.readouterr().err)


def test_a_head_with_other_classes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    body = SimpleNamespace(get_classifier=lambda: nn.Linear(2048, 1000))
    segmenter = deeplabv3_mini()
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: body)
    with pytest.raises(DataError, match="has 998 classes, the pre-trained head 1000"):
        networks.classifier_of(preset_of("full"), segmenter, 998, seed=0)
