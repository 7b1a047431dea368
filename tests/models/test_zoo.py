"""The stored networks: as good as their cards say, and no damaged file is ever loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from prunekit.course.tasks import load_task
from prunekit.errors import CheckpointError, InputError
from prunekit.methods import l1
from prunekit.metrics import evaluate
from prunekit.models import zoo
from prunekit.oneshot import slim
from prunekit.plan import uniform_plan
from prunekit.profiling import count_params
from prunekit.surgery import check_equivalence, find_groups, prune

NAMES = list(zoo.BUILDERS)
FLOOR = {
    "deeplabv3_mini": 0.70,
    "pspnet_mini": 0.67,
    "bisenet_mini": 0.69,
    "segformer_mini": 0.78,
    "topformer_mini": 0.75,
    "deeplabv3plus_mini": 0.55,
}  # mIoU, or AP50 of a detector


def copied(name: str, to: Path) -> Path:
    for suffix in (".safetensors", ".json"):
        shutil.copy(zoo.FOLDER / f"{name}{suffix}", to)
    return to / f"{name}.safetensors"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ssd_mini"])
def test_the_card_tells_the_truth(name: str) -> None:
    """mIoU on the card's own test scenes, to the third digit (other processors round differently)."""
    card, model = zoo.card(name), zoo.load(name)
    assert count_params(model) == card["parameters"]
    task = load_task("scenes", train_count=1)
    result = evaluate(model, task.test_loader(), len(task.classes))
    assert result.miou == pytest.approx(card["test_miou"], abs=2e-3)
    assert dict(zip(task.classes, result.iou)) == pytest.approx(card["test_iou"], abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_network_is_good_and_half_of_it_is_exact(name: str) -> None:
    card, model = zoo.card(name), zoo.load(name)
    assert card.get("test_miou", card.get("test_ap50")) >= FLOOR[name]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    x, _ = load_task("scenes", train_count=1, test_count=1).examples(1)
    groups = find_groups(model, x)
    plan = uniform_plan(groups, l1.score(model, groups), 0.5)
    small = prune(model, groups, plan)
    assert check_equivalence(model, small, groups, plan, x).control > 1e-3
    assert count_params(small) < 0.45 * count_params(model)


def test_the_mini_deeplab_is_good_sees_poles_and_collapses_without_half_its_work() -> None:
    task, model = load_task("scenes", train_count=1, test_count=100), zoo.load("deeplabv3_mini")
    dense = evaluate(model, task.test_loader(), 12)
    assert dense.miou >= 0.65
    assert dense.iou[task.classes.index("pole")] >= 0.25
    cut = slim(model, task.examples(1)[0], macs_ratio=0.5, score=l1.score).model
    assert evaluate(cut, task.test_loader(), 12).miou < 0.5 * dense.miou


def test_all_checkpoints_together_stay_small() -> None:
    assert sum(f.stat().st_size for f in zoo.FOLDER.iterdir()) <= 10e6


def test_loading_twice_gives_equal_but_separate_networks() -> None:
    first, second = zoo.load("deeplabv3_mini"), zoo.load("deeplabv3_mini")
    with torch.no_grad():
        first.classifier.bias.zero_()  # type: ignore[union-attr]
    assert second.classifier.bias.abs().sum() > 0  # type: ignore[union-attr]
    assert not first.training


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no card", "empty card"])
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    weights = copied("deeplabv3_mini", tmp_path)
    raw = weights.read_bytes()
    if damage == "truncated":
        weights.write_bytes(raw[:-100])
    elif damage == "flipped":
        weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "missing":
        weights.unlink()
    elif damage == "no card":
        weights.with_suffix(".json").unlink()
    else:
        weights.with_suffix(".json").write_text("")
    with pytest.raises(CheckpointError, match="install prunekit again"):
        zoo.load("deeplabv3_mini", folder=tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    import hashlib

    from safetensors.torch import save

    weights = copied("deeplabv3_mini", tmp_path)
    raw = save({"classifier.weight": torch.zeros(3)})
    weights.write_bytes(raw)
    card = json.loads(weights.with_suffix(".json").read_text()) | {"sha256": hashlib.sha256(raw).hexdigest()}
    weights.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="is not a deeplabv3_mini checkpoint"):
        zoo.load("deeplabv3_mini", folder=tmp_path)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(InputError, match="no mini network 'resnet'; there are: deeplabv3_mini"):
        zoo.load("resnet")
