"""The script that makes the stored networks: a short run leaves two files that load, and a card that is true."""

from __future__ import annotations

from pathlib import Path

import make_checkpoints as script
import pytest
import torch

from prunekit.course.tasks import load_task
from prunekit.metrics import evaluate
from prunekit.models import zoo
from prunekit.models.ssd import ssd_mini


def test_every_network_of_the_zoo_has_a_recipe() -> None:
    assert set(zoo.BUILDERS) <= set(script.RECIPES)
    stored = {name: zoo.card(name)["recipe"] for name in zoo.BUILDERS}
    now = {name: script.asdict(script.RECIPES[name]) for name in zoo.BUILDERS}
    assert {name: now[name] | recipe for name, recipe in stored.items()} == now, "a card tells another recipe"


@pytest.mark.parametrize(("name", "result"), [("bisenet_mini", "test_miou"), ("ssd_mini", "test_ap50")])
def test_a_short_run_leaves_a_network_in_half_precision_and_its_card(
    name: str, result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TEST", 8)
    monkeypatch.setitem(zoo.BUILDERS, "ssd_mini", ssd_mini)
    script.train(name, script.Recipe(images=8, steps=2, batch=4, warmup=1), tmp_path)
    card, model = zoo.card(name, folder=tmp_path), zoo.load(name, folder=tmp_path)
    assert 0 <= card[result] <= 1
    weights = tmp_path / f"{name}.safetensors"
    assert 2 * card["parameters"] < weights.stat().st_size < 2.3 * card["parameters"]
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())
    if result == "test_miou":
        task = load_task("scenes", train_count=1, test_count=8)
        assert evaluate(model, task.test_loader(), 12).miou == pytest.approx(card["test_miou"], abs=1e-4)
