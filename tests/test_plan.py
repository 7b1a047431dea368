"""Plans keep the best, respect the limits and meet the budget, which is counted on the real pruned model."""

from __future__ import annotations

import pickle

import pytest
import timm
import torch

from prunekit.core import ChannelGroup, Groups, PruningPlan, Scores
from prunekit.errors import BudgetError, GroupError, InputError, ScoreError
from prunekit.methods import l1, random
from prunekit.models.deeplab import deeplabv3_mini
from prunekit.plan import Limits, budget_plan, global_plan, latency_of, plan_macs, plan_params, uniform_plan
from prunekit.profiling import count_macs, count_params
from prunekit.surgery import find_groups, prune


def toy() -> tuple[Groups, Scores]:
    groups = Groups({n: ChannelGroup(n, s, "channel", ()) for n, s in (("a", 4), ("b", 8))}, {"head": "returned"})
    return groups, {"a": torch.tensor([4.0, 1, 3, 2]), "b": torch.arange(8.0) * 100}


@pytest.fixture(scope="module")
def mini():
    torch.manual_seed(0)
    model, x = deeplabv3_mini().eval(), torch.randn(1, 3, 64, 128)
    return model, x, find_groups(model, x)


def test_uniform_keeps_the_best_of_every_group() -> None:
    groups, scores = toy()
    plan = uniform_plan(groups, scores, 0.5)
    assert plan.keep == {"a": (0, 2), "b": (4, 5, 6, 7)}
    assert plan.sizes == {"a": 4, "b": 8}


def test_global_compares_groups_after_normalising_them() -> None:
    groups, scores = toy()
    raw = global_plan(groups, scores, 0.25, normalize="none", limits=Limits(max_ratio=0.99))
    assert raw.keep == {"a": (0, 2), "b": tuple(range(1, 8))}  # 0, 1 and 2 are the lowest: two of 'a', one of 'b'
    fair = global_plan(groups, scores, 0.25, limits=Limits(max_ratio=0.99))
    # in units of each group's mean: a = 1.6 .4 1.2 .8, b = 0 .29 .57 .86 ...: lowest are b0, b1, a1
    assert fair.keep == {"a": (0, 2, 3), "b": tuple(range(2, 8))}


def test_ties_are_broken_the_same_way_every_time() -> None:
    groups, _ = toy()
    flat = {"a": torch.ones(4), "b": torch.ones(8)}
    assert uniform_plan(groups, flat, 0.5).keep == {"a": (0, 1), "b": (0, 1, 2, 3)}
    assert global_plan(groups, flat, 0.5) == global_plan(groups, flat, 0.5)


@pytest.mark.parametrize(
    ("limits", "ratio", "kept"),
    [
        (Limits(), 0.5, 8),
        (Limits(round_to=4), 0.4, 8),  # 9.6 wanted
        (Limits(round_to=8), 0.9, 8),
        (Limits(min_keep=5), 0.9, 5),
        (Limits(max_ratio=0.5), 0.9, 8),
        (Limits(max_ratio=0.5, round_to=5), 0.9, 10),  # the limit wins over the nearest multiple
        (Limits(round_to=32), 0.5, 16),  # a multiple larger than the group keeps it whole
        (Limits(max_ratio=0.9), 0.99, 2),
    ],
)
def test_limits(limits: Limits, ratio: float, kept: int) -> None:
    groups = Groups({"g": ChannelGroup("g", 16, "channel", ())})
    assert len(uniform_plan(groups, {"g": torch.arange(16.0)}, ratio, limits=limits).keep["g"]) == kept
    assert len(global_plan(groups, {"g": torch.arange(16.0)}, ratio, limits=limits).keep["g"]) == kept


def test_groups_without_scores_stay_whole() -> None:
    groups, scores = toy()
    del scores["b"]
    assert list(uniform_plan(groups, scores, 0.5).keep) == ["a"]


@pytest.mark.parametrize("how", ["uniform", "global"])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
def test_a_macs_budget_is_met_on_the_pruned_model(mini, how: str, ratio: float) -> None:
    model, x, groups = mini
    plan = budget_plan(groups, l1.score(model, groups), macs_ratio=ratio, how=how, limits=Limits(round_to=1))
    small = prune(model, groups, plan)
    removed = 1 - count_macs(small, x) / count_macs(model, x)
    assert ratio <= removed < ratio + 0.04
    assert count_macs(small, x) == plan_macs(groups, plan)
    assert count_params(small) == plan_params(groups, plan)


def test_without_limits_wide_groups_keep_multiples_of_eight_and_narrow_ones_any_number(mini) -> None:
    _, _, groups = mini
    scores = {name: torch.rand(group.size) for name, group in groups.items()}
    for plan in (
        uniform_plan(groups, scores, 0.4),
        global_plan(groups, scores, 0.4),
        uniform_plan(groups, scores, 0.7),
    ):
        wide = {name: len(kept) for name, kept in plan.keep.items() if groups[name].size >= 32}
        narrow = {name: len(kept) for name, kept in plan.keep.items() if groups[name].size < 32}
        assert wide and all(count % 8 == 0 for count in wide.values())
        assert any(count % 8 for count in narrow.values())
    assert Limits().kept(31, 15.2) == 15 and Limits().kept(32, 15.2) == 16 and Limits(round_to=1).kept(32, 15.2) == 15
    assert Limits().kept(12, 6.6, channels=64) == 7  # heads of 64 channels are round already
    assert Limits().kept(16, 7.0, channels=4) == 8  # two heads of 4 make one block


def test_a_params_budget_is_met(mini) -> None:
    model, _, groups = mini
    small = prune(model, groups, budget_plan(groups, l1.score(model, groups), params_ratio=0.6))
    assert 0.6 <= 1 - count_params(small) / count_params(model) < 0.64


def test_costs_are_exact_with_grouped_and_depthwise_convolutions() -> None:
    model, x = timm.create_model("resnext26ts").eval(), torch.randn(2, 3, 64, 64)
    groups = find_groups(model, x)
    plan = uniform_plan(groups, random.score(model, groups), 0.4)
    small = prune(model, groups, plan)
    assert plan_macs(groups, PruningPlan({}, {})) == count_macs(model, x)
    assert plan_macs(groups, plan) == count_macs(small, x)
    assert plan_params(groups, plan) == count_params(small)


def test_a_latency_budget_uses_what_was_measured(mini) -> None:
    """A stand-in clock: time is proportional to parameters, so the answer can be checked exactly."""
    model, _, groups = mini
    scores = l1.score(model, groups)
    measured: list[PruningPlan] = []

    def measure(plan: PruningPlan) -> float:
        measured.append(plan)
        return plan_params(groups, plan) / 1000

    plan = budget_plan(groups, scores, latency_ratio=0.5, latency=measure)
    assert plan.keep == budget_plan(groups, scores, params_ratio=0.5).keep
    assert len(measured) > 3


def test_latency_is_measured_against_the_dense_model(mini) -> None:
    model, x, groups = mini
    measure = latency_of(model, groups, x, repeats=7)
    tiny = uniform_plan(groups, l1.score(model, groups), 0.85)
    assert measure(tiny) < 1  # 2 % of the work: any machine sees that
    sent = pickle.loads(pickle.dumps(measure))
    assert sent(tiny) < 1 and sent.describe() == measure.describe()
    assert latency_of(model, groups, x, repeats=8).describe() != measure.describe()


def test_an_unreachable_budget_says_what_is_reachable(mini) -> None:
    model, _, groups = mini
    scores = l1.score(model, groups)
    with pytest.raises(BudgetError, match=r"of the macs, but within the limits \d\d\.\d% is the most") as err:
        budget_plan(groups, scores, macs_ratio=0.9, limits=Limits(max_ratio=0.3))
    assert "lower its round_to" in str(err.value)
    reachable = float(str(err.value).split("limits ")[1].split("%")[0]) / 100
    budget_plan(groups, scores, macs_ratio=reachable - 0.001, limits=Limits(max_ratio=0.3))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), "0.5"])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    groups, scores = toy()
    for make in (uniform_plan, global_plan):
        with pytest.raises(InputError, match="fraction to remove"):
            make(groups, scores, ratio)
    with pytest.raises(InputError, match="macs_ratio is the fraction to remove"):
        budget_plan(groups, scores, macs_ratio=ratio)


def test_bad_scores_are_refused() -> None:
    groups, scores = toy()
    with pytest.raises(ScoreError, match="score of unit 2 in 'a' is nan"):
        uniform_plan(groups, {**scores, "a": torch.tensor([1.0, 2, float("nan"), 3])}, 0.5)
    with pytest.raises(ScoreError, match=r"'a' has 4 units but its scores are \(5,\)"):
        uniform_plan(groups, {"a": torch.ones(5)}, 0.5)
    with pytest.raises(ScoreError, match="no scores"):
        uniform_plan(groups, {}, 0.5)
    with pytest.raises(GroupError, match="no group 'zzz'"):
        uniform_plan(groups, {"zzz": torch.ones(5)}, 0.5)
    with pytest.raises(GroupError, match="'head' must keep its size: returned"):
        uniform_plan(groups, {"head": torch.ones(5)}, 0.5)


def test_exactly_one_budget() -> None:
    groups, scores = toy()
    with pytest.raises(InputError, match="exactly one of"):
        budget_plan(groups, scores)
    with pytest.raises(InputError, match="exactly one of"):
        budget_plan(groups, scores, macs_ratio=0.5, params_ratio=0.5)
    with pytest.raises(InputError, match="go together"):
        budget_plan(groups, scores, latency_ratio=0.5)
