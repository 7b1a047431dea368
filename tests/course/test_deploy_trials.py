"""Claim E6's runs on a tiny network: rows, the control that must come out at 1, resuming, the judgement."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from prunekit.course import claims, ledger
from prunekit.course.claims.speed import E6
from prunekit.course.deploy import trials
from prunekit.course.deploy.trials import Network, Settings, candidate
from prunekit.errors import InputError
from prunekit.plan import Limits, budget_plan
from prunekit.surgery import find_groups


def tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 4, 1)
    )


TINY = Network("tiny", tiny, 0.5)
QUICK = Settings(size=48, batch=1, repeats=5)


def test_rows_and_the_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trials.run(["E6"], seeds=1, out=tmp_path, networks=[TINY], how=QUICK)
    found = {entry.method: entry for entry in ledger.load()}
    assert set(found) == {"tiny", "tiny −50 %", "tiny −50 %, any width"}
    assert 0.5 < found["tiny"].metrics["speedup"] < 2 and found["tiny"].metrics["macs_share"] == 1
    assert found["tiny −50 %"].metrics["macs_share"] <= 0.5 and found["tiny −50 %"].metrics["speedup"] > 1.2
    assert {entry.settings["runtime"] for entry in found.values()} == {"ort"}
    monkeypatch.setattr(trials, "measure", None)  # all is there: nothing is measured again
    trials.run(["E6"], seeds=1, out=tmp_path, networks=[TINY], how=QUICK)


def test_other_claims_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="runs for E6"):
        trials.run(["E5"], seeds=1, out=tmp_path)
    with pytest.raises(InputError, match="seeds"):
        trials.run(["E6"], seeds=0, out=tmp_path)


def test_a_seed_is_a_candidate_with_shares_of_its_own():
    model = timm.create_model(
        "deit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=6
    ).eval()
    groups = find_groups(model, torch.randn(1, 3, 32, 32))
    plans = [
        budget_plan(groups, candidate(groups, seed), macs_ratio=0.4, normalize="none", limits=Limits(max_ratio=0.9))
        for seed in (0, 1)
    ]
    assert {groups[name].kind for name in plans[0].keep} == {"head", "neuron"}  # the embedding stays
    shares = [[len(kept) / plan.sizes[name] for name, kept in plan.keep.items()] for plan in plans]
    assert shares[0] != shares[1] and max(shares[0]) - min(shares[0]) > 0.1


@pytest.mark.parametrize(("resnet", "word"), [(1.6, "reproduced"), (1.2, "partly")])
def test_a_printed_number_is_a_need(resnet: float, word: str):
    for method, value in (("ResNet50", resnet), ("MobileNetV1", 1.6), ("DeiT-Base", 1.6)):
        ratio = 40 if method == "DeiT-Base" else 50
        for seed in range(3):
            for name, speedup in ((method, 1.0), (f"{method} −{ratio} %", value)):
                ledger.record("E6", method=name, seed=seed, settings={}, metrics={"speedup": speedup}, seconds=1)
    (found,) = claims.outcomes(E6, ledger.load())
    assert found.word == word
    assert list(map(str, found.broken)) == ([] if word == "reproduced" else ["ResNet50 −50 % >= 1.37"])
