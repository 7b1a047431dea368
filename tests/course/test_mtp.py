"""`prunekit run mtp`: the numbers of the paper, and the whole road on small folders in the published layouts."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

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
from prunekit.models.deeplab import deeplabv3, deeplabv3_mini
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


@pytest.mark.parametrize(
    ("name", "params"), [("deeplabv3_r101", 58.04e6), ("pspnet_r50", 46.71e6), ("bisenet_r18", 12.89e6)]
)
def test_networks_of_the_paper_have_the_parameters_it_prints(name: str, params: float) -> None:
    with torch.device("meta"):
        model = MODELS[name](21)
    counted = sum(p.numel() for part, p in model.named_parameters() if not part.startswith("aux"))
    assert counted == pytest.approx(params, rel=0.002)


PRUNED = {  # network -> how it is built, its blocks a stage, which convolutions in them may go
    "deeplabv3": (partial(deeplabv3, backbone="resnet50", output_stride=16, aux=False, fuse=False), (3, 4, 6, 3), 2),
    "pspnet_r50": (MODELS["pspnet_r50"], (3, 4, 6, 3), 2),
    "bisenet_r18": (MODELS["bisenet_r18"], (2, 2, 2, 2), 1),
}


@pytest.mark.parametrize("name", PRUNED)
def test_networks_of_the_paper_are_cut_inside_their_blocks(name: str) -> None:
    build, blocks, inside = PRUNED[name]
    torch.manual_seed(0)
    model, x = build(5).eval(), torch.randn(1, 3, 65, 65)
    path = networks.backbone_path(model)
    classifier = networks.classifier_of(replace(preset_of("full"), pretrained=False), model, 7, seed=0).eval()
    for norm in (m for net in (model, classifier) for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.1, 1)
    groups = pk.find_groups(model, x)
    parts = mtp.split(model, groups, path)
    firsts = [f"{path}.body.layer{stage}.{n}.conv" for stage, count in enumerate(blocks, 1) for n in range(count)]
    assert list(parts.backbone) == [f"{first}{k}" for first in firsts for k in range(1, inside + 1)]
    plan = mtp.plan(parts, mtp.score(model, parts, classifier=classifier), 0.5)
    small = pk.prune(model, groups, plan)
    pk.check_equivalence(model, small, groups, plan, x)
    first = pk.prune(classifier, pk.find_groups(classifier, x), mtp.classifier_plan(plan, parts))
    moved = mtp.with_backbone(small, first, path)
    assert moved(x).shape == (1, 5, 65, 65) and first(x).shape == (1, 7)


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
        ("--model deeplabv3plus_mini", r"the backbone of deeplabv3plus_mini has no residual blocks.*pass --no-inner"),
        ("--model segformer_mini", r"no convolutional backbone; take e\.g\. deeplabv3_mini"),
        ("--precision fp16", r"invalid choice: 'fp16' \(choose from"),
        ("--pretrained", r"no ImageNet weights for deeplabv3_mini; pass --no-pretrained, or one of: deeplabv3_r101"),
    ],
)
def test_what_no_run_can_do_is_said_before_anything_is_drawn_or_trained(
    said: str, answer: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(data, "scenes", None)
    try:
        status = cli.main(["run", "mtp", "--out", str(tmp_path), *said.split()])
    except SystemExit as stop:  # argparse's own
        status = stop.code
    assert status == 2
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
    fast = replace(fast, classify=replace(fast.classify, lr=0.1), scales=(0.75, 1.0))
    monkeypatch.setitem(MTP["full"], "voc", fast)
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

    real, folder = mtp.alternate, out / f"mtp-voc-{model}-0"
    clock = folder / "0.5-independent-1" / "seconds.json"
    monkeypatch.setattr(mtp, "alternate", Mock(side_effect=KeyboardInterrupt))
    assert cli.main(line.split()) == 130
    kept = json.loads(clock.read_text())
    assert kept["seconds"] > 0 and not kept["done"], "of a run that was stopped"
    clock.write_text(json.dumps({**kept, "seconds": 1000.0}))
    monkeypatch.setattr(mtp, "alternate", alternate)
    assert cli.main(line.split()) == 0
    said = capsys.readouterr().out
    assert alike == [True], "one backbone to begin with"
    assert re.search(r"round 1: losses classification \d.*, segmentation \d.*; \|\|W1 - W3\|\|", said)
    assert "certificate: masked == pruned" in said and "mtp, independent, ratio 0.5 / 0.5" in said
    assert (folder / "0.5-independent-1" / "report.txt").read_text().count("losses classification") == 2
    small = pk.load_pruned(folder / "0.5-independent-1" / "small", build(21).eval(), torch.randn(1, 3, 32, 32))
    assert small(torch.randn(1, 3, 32, 32)).shape == (1, 21, 32, 32)
    (entry,) = ledger.load("mtp")
    several = [entry.metrics[f"miou_multiscale{which}"] for which in ("", "_dense")]
    assert all(0 <= miou <= 1 for miou in several)
    assert entry.settings["lr"][2] == 0.1 and entry.settings["batch"] == 6 * [4]
    assert entry.method == "mtp" and entry.scale == "full" and 0 < entry.metrics["macs_removed"] < 1
    assert {len(entry.metrics[name]) for name in ("residual", "classify_loss", "segment_loss")} == {
        2
    } and 0 <= entry.metrics["top1"] <= 1
    assert cli.main(line.split()) == 0  # all is there: nothing is trained again
    (again,) = ledger.load("mtp")
    assert again.metrics == entry.metrics and again.seconds == entry.seconds > 1000
    assert json.loads(next((folder / "sparse").glob("step-*/state.json")).read_text())["config"]["rounds"] == 2
    capsys.readouterr()
    assert cli.main([*line.split(), "--how", "unified", "--percentage", "0.25"]) == 0, "another cut, the same networks"
    assert "round 1:" not in capsys.readouterr().out and (folder / "0.25-unified-1" / "plan.json").is_file()
    assert {entry.settings["percentage"] for entry in ledger.load("mtp")} == {0.5, 0.25}
    assert cli.main([*line.split(), "--alpha", "0"]) == 2 and "alpha" in capsys.readouterr().err, "another run"
    # a penalty would hold those last scales at 0
    every = [*line.split(), "--no-inner", "--alpha", "0", "--out", str(tmp_path / "every")]
    assert cli.main(every) == 0, "all of the backbone's channels"
    assert re.search(r"round 1: losses.*certificate: masked == pruned", capsys.readouterr().out, re.DOTALL)
    folder = tmp_path / "every" / folder.name
    saved = pk.PruningPlan.load(folder / "0.5-independent-1-all" / "plan.json")
    assert (folder / "sparse-all").is_dir() and any(name.endswith("layer1.0.conv2") for name in saved.keep)
    assert (folder / "0.5-independent-1-all" / "small").is_dir()


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def camvid_and_tiny_imagenet(root: Path) -> tuple[Path, Path]:
    """Both in their releases' layouts, with four pictures a split."""
    camvid, tiny = root / "camvid", root / "tiny"
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for n in range(4):
            picture(camvid / split / f"{n}.png", draw.integers(0, 256, (24, 32, 3), np.uint8))
            picture(camvid / f"{split}annot" / f"{n}.png", draw.integers(0, 12, (24, 32), np.uint8))
    names = ("n01", "n02", "n03")
    for n, name in enumerate(names):
        for k in range(3):
            pixels = draw.integers(0, 256, (64, 64, 3), np.uint8)
            picture(tiny / "train" / name / "images" / f"{name}_{k}.JPEG", pixels)
        picture(tiny / "val" / "images" / f"val_{n}.JPEG", pixels)
    rows = [f"val_{n}.JPEG\t{name}\t0\t0\t63\t63\n" for n, name in enumerate(names)]
    (tiny / "val" / "val_annotations.txt").write_text("".join(rows))
    return camvid, tiny


def test_small_scale_is_camvid_with_tiny_imagenet(tmp_path: Path, capsys) -> None:
    camvid, tiny = camvid_and_tiny_imagenet(tmp_path)
    line = f"run mtp --scale small --root {camvid} --objects {tiny} --out {tmp_path / 'out'}"
    line += " --size 32 32 --steps 2 --rounds 2 --batch 4"
    assert cli.main(line.split()) == 0, "nothing of it is drawn, and the segmenter begins at random"
    assert "certificate: masked == pruned" in capsys.readouterr().out
    (entry,) = ledger.load("mtp")
    assert (entry.scale, entry.settings["dataset"], entry.settings["objects"]) == ("small", "camvid", "tinyimagenet")
    assert entry.settings["steps"] == 6 * [2] and len(entry.metrics["iou"]) == 11
    assert entry.metrics["top1"] in (0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)
    assert (tmp_path / "out" / "mtp-camvid-deeplabv3_mini-0" / "dense").is_dir()


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
