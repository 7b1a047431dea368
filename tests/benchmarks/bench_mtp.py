"""MTP: what a step of the alternation costs beside a plain one, memory, and L1 as a proximal step or a subgradient."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from prunekit.data.scenes import THINGS, SceneCrops, SceneDataset
from prunekit.methods import mtp, slimming
from prunekit.models import zoo
from prunekit.models.classifier import Classifier
from prunekit.profiling import _LiveBytes
from prunekit.progressive import Training
from prunekit.surgery import find_groups
from prunekit.train import TrainConfig, classification_loss, finetune

STEPS = 10


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, nn.Module, mtp.Parts, Training, Training]:
    torch.set_num_threads(1)
    segmenter = zoo.load("deeplabv3_mini")
    classifier = Classifier(copy.deepcopy(segmenter.backbone), len(THINGS))  # type: ignore[arg-type]
    parts = mtp.split(segmenter, find_groups(segmenter, torch.randn(1, 3, 64, 128)))
    config = TrainConfig(STEPS, 0.01, schedule="constant", device="cpu", quiet=True)
    classify = Training(config, DataLoader(SceneCrops(60), 64, shuffle=True), classification_loss)
    segment = Training(config, DataLoader(SceneDataset(60), 8, shuffle=True))
    return classifier, segmenter, parts, classify, segment


def test_a_step_costs_at_most_15_percent_more_than_the_two_it_contains(case) -> None:
    """Seconds of this one thread, so that what else the machine does is not counted; the best of three."""
    classifier, segmenter, parts, classify, segment = case
    settings = mtp.Settings(rounds=2, alpha1=0.01, alpha2=0.01)

    def plain() -> None:
        for model, task in ((classifier, classify), (segmenter, segment)):
            finetune(model, task.loader, task.config, loss_fn=task.loss_fn)

    times: dict[str, float] = {}
    for _ in range(3):
        for name, work in (
            ("plain", plain),
            ("alternation", lambda: mtp.alternate(classifier, segmenter, parts, classify, segment, settings)),
        ):
            start = time.process_time()
            work()
            times[name] = min(times.get(name, 1e9), time.process_time() - start)
    print(f"{STEPS} + {STEPS} steps: {times}, x {times['alternation'] / times['plain']:.3f}")
    assert times["alternation"] <= 1.15 * times["plain"]


def test_memory_is_three_copies_of_the_backbone_and_no_more(case) -> None:
    """What lives beside the caller's networks, at the end of each round and on the way back: W1, W3 and E; momenta are
    the optimizers'.
    """
    classifier, segmenter, parts, classify, segment = case
    resident = [*classifier.state_dict().values(), *segmenter.state_dict().values()]
    live = _LiveBytes(resident)
    seen = []

    def look(*_: object) -> None:
        seen.append(live.live)
        live.peak = live.live  # from here on

    with live:
        done = mtp.alternate(classifier, segmenter, parts, classify, segment, mtp.Settings(rounds=2), on_round=look)
        returned = live.live
    size = {name: sum(t.nbytes for t in m.state_dict().values()) for name, m in (("1", classifier), ("2", segmenter))}
    momenta = sum(p.nbytes for m in (classifier, segmenter) for p in m.parameters())
    multipliers = sum(p.nbytes for p in classifier.get_submodule("backbone").parameters())
    expected = size["1"] + size["2"] + momenta + multipliers
    print(f"live after a round {[s / 1e6 for s in seen]} MB, W1, W2, W3, heads, momenta, E {expected / 1e6:.2f} MB")
    pictures = sum(t.nbytes for task in (classify, segment) for t in next(iter(task.loader)))
    spare = sum(t.nbytes for t in classifier.get_submodule("backbone").state_dict().values()) / 4
    assert expected <= max(seen) <= expected + pictures + spare, "there is a fourth copy"
    print(f"most on the way back {live.peak / 1e6:.2f} MB, then live {returned / 1e6:.2f} MB")
    assert live.peak <= max(seen) + spare, "there is a fourth copy on the way back"
    assert returned <= size["1"] + size["2"] + pictures + spare and done.history, "E or momenta outlive the run"


@pytest.mark.parametrize("alpha", [0.2])
def test_l1_by_a_proximal_step_and_by_a_subgradient(case, alpha: float) -> None:
    """The segmenter alone, 60 steps: loss, and how many scales are nearly 0. The reason for the proximal step."""
    _, segmenter, parts, _, segment = case
    groups = {**parts.backbone.table, **parts.decoder.table}
    both = find_groups(segmenter, torch.randn(1, 3, 64, 128)).only(groups)
    config = TrainConfig(60, 0.02, schedule="linear", device="cpu", quiet=True)
    pull = finetune(
        segmenter, segment.loader, config, penalty=lambda m: slimming.penalty(m, both, strength=alpha)
    ).model

    scales = parts.scales(segmenter)

    def prox(step, model) -> None:
        for name, p in model.named_parameters():
            if name in scales["backbone"] | scales["decoder"]:
                mtp.coupling.soft_threshold_(p, step.lr / (1 - config.momentum) * alpha)

    runs = {"subgradient": pull, "prox": finetune(segmenter, segment.loader, config, on_step=prox).model}
    zero, small = {}, {}
    for name, model in runs.items():
        gamma = torch.cat(list(mtp.score(model, parts).values()))
        shares = [(gamma <= limit).float().mean().item() for limit in (0.0, 1e-3, 1e-2)]
        print(f"alpha {alpha}, {name}: scales at 0 / below 1e-3 / 1e-2: {shares}, mean {gamma.mean():.3f}")
        zero[name], small[name] = shares[:2]
    assert zero["subgradient"] == 0 and zero["prox"] > 0.5, "only the proximal step reaches 0"
    assert small["subgradient"] < 0.05 and small["prox"] > 0.5, "nor does the subgradient come near"
