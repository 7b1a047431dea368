"""slim: the whole road in one call, on a segmenter and on somebody's timm model."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

import prunekit as pk
from prunekit.methods import random
from prunekit.models.deeplab import deeplabv3_mini


def test_it_returns_a_smaller_proven_model_and_a_report() -> None:
    model, x = deeplabv3_mini(), torch.randn(1, 3, 64, 128)
    before = copy.deepcopy(model.state_dict())
    result = pk.slim(model, x, macs_ratio=0.5)
    assert 0.46 < result.after.macs / result.before.macs <= 0.5
    assert result.certificate.max_error < 1e-9
    assert result.model.eval()(x).shape == (1, 12, 64, 128)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    text = str(result)
    for part in ("params (M)", "MACs (M)", "latency (ms)", "masked == pruned", "fine-tune"):
        assert part in text
    rebuilt = pk.prune(model, result.groups, pk.PruningPlan.from_json(result.plan.to_json()))
    assert all(torch.equal(t, result.model.state_dict()[n]) for n, t in rebuilt.state_dict().items())


def test_any_criterion_and_limits_fit_in() -> None:
    model, x = timm.create_model("mobilenetv2_100"), torch.randn(1, 3, 64, 64)
    limits = pk.Limits(round_to=8)
    result = pk.slim(model, x, macs_ratio=0.4, score=random.score, how="uniform", limits=limits, freeze=["conv_stem"])
    assert all(len(kept) % 8 == 0 for kept in result.plan.keep.values())
    assert result.model.conv_stem.out_channels == model.conv_stem.out_channels
    assert 1 - result.after.macs / result.before.macs >= 0.4


def test_impossible_wishes_are_refused() -> None:
    model, x = deeplabv3_mini(), torch.randn(1, 3, 64, 128)
    with pytest.raises(pk.errors.InputError, match="macs_ratio is the fraction to remove"):
        pk.slim(model, x, macs_ratio=1.2)
    with pytest.raises(pk.errors.BudgetError, match="is the most"):
        pk.slim(model, x, macs_ratio=0.999)
    with pytest.raises(pk.errors.InputError, match="does not run through the model"):
        pk.slim(model, torch.randn(1, 1, 64, 128))


def test_names_in_place_of_objects_are_answered_in_words() -> None:
    model, x = deeplabv3_mini(), torch.randn(1, 3, 64, 128)
    with pytest.raises(pk.errors.InputError, match=r"model is 'resnet50'; build it first"):
        pk.slim("resnet50", x)  # type: ignore[arg-type]
    with pytest.raises(pk.errors.InputError, match=r"score is 'l1'; pass a function"):
        pk.slim(model, x, score="l1")  # type: ignore[arg-type]
    with pytest.raises(pk.errors.InputError, match="how is 'uniform' or 'global', got 'golbal'"):
        pk.slim(model, x, how="golbal")  # type: ignore[arg-type]


def test_a_model_without_groups_says_why() -> None:
    with pytest.raises(pk.errors.ScoreError, match="'0' stays: the model returns it"):
        pk.slim(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), torch.randn(1, 3, 8, 8))
