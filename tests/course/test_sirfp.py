"""`prunekit run sirfp`: the numbers of the paper, and the whole road on small folders in the published layouts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from layouts import ADE, CITY, COCO, publish

import prunekit as pk
from prunekit import cli
from prunekit.course import ledger
from prunekit.course.sirfp import MODELS, SIRFP, Sirfp, override, preset_of
from prunekit.course.sirfp import experiment as road
from prunekit.errors import DataError, DownloadError, InputError
from prunekit.models.deeplab import deeplabv3_mini

TABLE_10 = {  # (steps, batch, lr, weight decay) of the pre-training and of each fine-tuning, crop, targets by ratio
    "cityscapes": (
        [(4000, 8, 0.01, 0.0005), (4000, 8, 0.01, 0.001), (36000, 8, 0.01, 0.001)],
        (769, 769),
        {0.6: (0.30, 0.60), 0.7: (0.35, 0.70), 0.8: (0.40, 0.80)},
    ),
    "ade20k": (
        [(16000, 16, 0.01, 0.0001), (144000, 16, 0.01, 0.0005)],
        (512, 512),
        {0.6: (0.60,), 0.7: (0.70,), 0.8: (0.80,)},
    ),
    "cocostuff10k": (
        [(6000, 16, 0.001, 0.0001), (6000, 16, 0.001, 0.0001), (54000, 16, 0.001, 0.0001)],
        (512, 512),
        {0.6: (0.30, 0.60), 0.7: (0.35, 0.70), 0.8: (0.40, 0.80)},
    ),
}


@pytest.mark.parametrize("dataset", TABLE_10)
def test_full_scale_is_table_10(dataset: str):
    stretches, size, targets = TABLE_10[dataset]
    preset = preset_of("full", dataset)
    all_of_them = (preset.pretrain, *preset.tune)
    assert [(s.steps, s.batch, s.lr, s.weight_decay) for s in all_of_them] == stretches
    assert {s.optimizer for s in all_of_them} == {"sgd"} and preset.size == size
    assert (preset.decay, preset.max_ratio, preset.aux_weight, preset.every) == (0.99, 0.9, 0.4, 1)
    assert {ratio: override(preset, macs_ratio=ratio).targets for ratio in targets} == targets
    assert SIRFP["full"][dataset] is preset and set(SIRFP["full"]) == set(TABLE_10)


PUBLISHED_MACS = {"deeplabv3": 177.29e9, "deeplabv3plus": 201.12e9, "pspnet": 184.57e9}  # Tables 1 and 2, an eighth


@pytest.mark.parametrize("name", PUBLISHED_MACS)
def test_networks_of_the_paper_cost_about_what_it_prints(name: str):
    with torch.device("meta"):
        model = MODELS[name](19)
    assert model.aux is not None and model.aux[-1].out_channels == 19
    model.aux = None
    macs = pk.profiling.count_macs(model, torch.zeros(1, 3, 512, 512, device="meta"))
    assert macs == pytest.approx(PUBLISHED_MACS[name], rel=0.06)


def test_overrides_reach_every_training_and_leave_the_preset():
    preset = preset_of("full", "cityscapes")
    other = override(preset, steps=2, batch=4, model="pspnet", size=None)
    assert [s.steps for s in (other.pretrain, *other.tune)] == [2, 2, 2] and other.tune[1].weight_decay == 0.001
    assert (other.model, other.size) == ("pspnet", (769, 769)) and preset.pretrain.steps == 4000
    with pytest.raises(InputError, match=r"no network 'resnet'.*deeplabv3plus, pspnet"):
        override(preset, model="resnet")
    with pytest.raises(InputError, match=r"'voc' at full scale.*cityscapes, ade20k"):
        preset_of("full", "voc")


def command(dataset: str, root: Path, out: Path, *more: str) -> list[str]:
    tiny = "--model deeplabv3_mini --size 32 32 --batch 4 --steps 2".split()
    return [*f"run sirfp --scale full --dataset {dataset} --root {root} --out {out}".split(), *tiny, *more]


REAL = {"cityscapes": (CITY, 19), "ade20k": (ADE, 150), "cocostuff10k": (COCO, 171)}


@pytest.mark.parametrize("dataset", REAL)
def test_the_command_trains_on_the_published_layouts(dataset: str, tmp_path: Path, monkeypatch, capsys):
    layout, classes = REAL[dataset]
    small = override(preset_of("full", dataset), short_side=24 if dataset != "cityscapes" else None)
    monkeypatch.setitem(SIRFP["full"], dataset, small)
    assert cli.main(command(dataset, publish(layout, tmp_path / "set"), tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "step 1" in said and said.count("certificate: masked == pruned") == len(small.tune)
    folder = tmp_path / f"out/sirfp-{dataset}-deeplabv3_mini-0.6-0"
    dense = deeplabv3_mini(classes).eval()
    pruned = pk.load_pruned(folder / "small", dense, torch.randn(1, 3, 32, 32))
    assert pruned(torch.randn(1, 3, 32, 32)).shape == (1, classes, 32, 32)
    (entry,) = ledger.load("sirfp")
    assert entry.method == "sirfp" and entry.scale == "full" and len(entry.metrics["iou"]) == classes
    assert 0.6 <= entry.metrics["macs_removed"] < 0.7
    clock = json.loads((folder / "seconds.json").read_text())
    assert clock["done"] and entry.seconds == pytest.approx(clock["seconds"], abs=1e-3)
    assert json.loads((folder / "run.json").read_text())["criterion"].startswith(
        "prunekit.methods.sirfp.observer.Observer"
    )


def test_where_the_data_are_must_be_said(tmp_path: Path, capsys):
    line = command("cityscapes", tmp_path, tmp_path / "out")
    line = [word for word in line if word not in ("--root", str(tmp_path))]
    assert cli.main(line) == 2
    assert "where is cityscapes? Give its folder: --root PATH" in capsys.readouterr().err
    assert cli.main(command("cityscapes", tmp_path / "nowhere", tmp_path / "out")) == 2
    assert re.search(r"Cityscapes: no folder .*nowhere\. Get leftImg8bit", capsys.readouterr().err)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch):
    def offline(classes: int, *, pretrained: bool) -> nn.Module:
        assert pretrained
        raise FileNotFoundError("no connection\nmore")

    monkeypatch.setitem(MODELS, "deeplabv3", offline)
    with pytest.raises(DownloadError, match=r"\(no connection\).*--no-pretrained"):
        road.dense_model(preset_of("full"), 19, seed=0)


def test_pictures_are_scored_at_their_own_size(tmp_path: Path):
    preset = override(preset_of("full", "ade20k"), size=(8, 8), short_side=8)
    found, balanced = road.sources(preset, publish(ADE, tmp_path))
    image, mask = found.test[0]
    assert image.shape == (3, 8, 12) and mask.shape == (16, 24)
    image, mask = found.train[0]
    assert image.shape == (3, 8, 8) and mask.shape == (8, 8)
    image, target = balanced[0]
    assert image.shape == (3, 8, 8) and target["mask"].shape == (8, 8) and target["drawn"] == 0
    with pytest.raises(DataError):
        road.sources(preset, tmp_path / "nowhere")


def test_mini_scale_takes_the_stored_network_and_scenes():
    preset = preset_of("mini")
    assert isinstance(preset, Sirfp) and preset.targets == (0.3, 0.6)
    model = road.dense_model(preset, 12, seed=0)
    stored = pk.profile(model, torch.randn(1, 3, *preset.size), latency=False)
    assert 0.2e6 < stored.params < 3e6 and not model.training


def test_accelerate_launch_runs_it_in_two_processes(tmp_path: Path):
    """Started as a person would."""
    root, out = publish(CITY, tmp_path / "set"), tmp_path / "out"
    here = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1"]
    launch = [*here, "--mixed_precision=no", "--dynamo_backend=no", "-m", "prunekit.cli"]
    line = [*launch, *command("cityscapes", root, out)]
    environment = {**os.environ, "TQDM_DISABLE": "1", "PRUNEKIT_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(line, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("certificate: masked == pruned") == 2  # one process reports, on two cuts
    assert len(list((tmp_path / "results").iterdir())) == 1
    folder = out / "sirfp-cityscapes-deeplabv3_mini-0.6-0"
    state = json.loads(next((folder / "dense").glob("step-*/state.json")).read_text())
    assert len(state["history"]["loss"]) == 2 and "observer.safetensors" in state["files"]


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"steps": 0}, {"size": (0, 64)}])
def test_numbers_below_one_are_refused(wrong: dict[str, Any]):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .*give whole numbers from 1 on"):
        override(preset_of("mini"), **wrong)
