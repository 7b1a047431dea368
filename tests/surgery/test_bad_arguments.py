"""Arguments of the wrong kind are refused in our own words: which one, what it is, and what belongs there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

import prunekit as pk
from prunekit.core import PruningPlan
from prunekit.errors import InputError, PlanError, ScoreError
from prunekit.methods import l1

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

EXAMPLES: dict[str, tuple[Any, str]] = {
    "another device": (X.to("meta"), r"the example is on meta, the model on cpu; move one: example.to\('cpu'\)"),
    "another type": (
        X.double(),
        r"in 'a' .*The example is torch.float64, the model torch.float32: try example.to\(tor",
    ),
    "half": (X.half(), r"in 'a' .*The example is torch.float16, the model torch.float32"),
    "no tensor": (None, r"the example input holds no tensor \(NoneType\); pass e.g. torch.randn"),
    "an array": (X.numpy(), r"the example input holds no tensor \(ndarray\)"),
    "a file": ("image.png", r"the example input holds no tensor \(str\)"),
    "channels": (
        torch.randn(2, 4, 8, 8),
        r"an example of shape \[\(2, 4, 8, 8\)\] does not run through the model in 'a'",
    ),
    "no image": (torch.randn(0, 3, 8, 8), r"the example has the shape \(0, 3, 8, 8\): it is empty"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_that_do_not_fit_are_refused(name: str) -> None:
    x, message = EXAMPLES[name]
    with pytest.raises(InputError, match=message):
        pk.find_groups(nets.Chain(), x)


@pytest.fixture(scope="module")
def found() -> tuple[nn.Module, pk.Groups, Mapping[str, Tensor]]:
    model = nets.Chain()
    groups = pk.find_groups(model, X)
    return model, groups, l1.score(model, groups)


def test_what_is_no_plan_and_no_groups_is_refused(found: tuple[nn.Module, pk.Groups, Mapping[str, Tensor]]) -> None:
    model, groups, _ = found
    plan = PruningPlan({"a": 8}, {"a": (0, 1)})
    for wrong in (None, {"a": (0, 1)}, plan.to_json(), groups):
        for verb in (pk.prune, pk.mask):
            with pytest.raises(PlanError, match=f"plan is a {type(wrong).__name__}; make a PruningPlan, e.g."):
                verb(model, groups, wrong)  # type: ignore[arg-type]
        with pytest.raises(PlanError, match="plan is a"):
            pk.check_equivalence(model, model, groups, wrong, X)  # type: ignore[arg-type]
    for wrong in (None, dict(groups), plan):
        with pytest.raises(PlanError, match=f"groups is a {type(wrong).__name__}; give what find_groups"):
            pk.prune(model, wrong, plan)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "keep", "bad"),
    [
        (8, ("0", "1"), "'0' .str."),
        (8, (0, 1.5), "1.5 .float."),
        (8, (False, True), "False .bool."),
        (8, torch.tensor([0, 1]), r"tensor\(.0, 1.\) .Tensor."),
        (8, 4, "4 .int."),
        ("8", (0, 1), "'8' .str."),
    ],
)
def test_a_plan_holds_whole_numbers(size: Any, keep: Any, bad: str) -> None:
    with pytest.raises(PlanError, match=f"plan for 'a' has {bad} where whole numbers belong; keep is a tuple"):
        PruningPlan({"a": size}, {"a": keep})


def test_scores_that_are_no_tensors_are_refused(found: tuple[nn.Module, pk.Groups, Mapping[str, Tensor]]) -> None:
    _, groups, scores = found
    for wrong, kind in [
        ([1.0] * 8, "a list"),
        (scores["a"].numpy(), "a ndarray"),
        (scores["a"] * 1j, "torch.complex128"),
    ]:
        with pytest.raises(ScoreError, match=f"the scores of 'a' are {kind}; pass a tensor of 8 real numbers"):
            pk.uniform_plan(groups, {"a": wrong}, 0.5)  # type: ignore[dict-item]
    for make in (pk.uniform_plan, pk.global_plan):
        with pytest.raises(ScoreError, match="scores is a list, groups a Groups; .* a dict {group name: tensor"):
            make(groups, [1.0] * 8, 0.5)  # type: ignore[arg-type]
        with pytest.raises(ScoreError, match="scores is a dict, groups a dict"):
            make(dict(groups), scores, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [{"round_to": 8.5}, {"round_to": "8"}, {"min_keep": None}, {"min_keep": 0}])
def test_limits_are_whole_numbers(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="round_to and min_keep are whole numbers from 1 on, got"):
        pk.Limits(**limits)
