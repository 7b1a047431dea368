"""The core types refuse nonsense, and a plan survives the trip through a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from prunekit.core import ChannelGroup, Groups, Member, PruningPlan
from prunekit.errors import GroupError, InputError, PlanError, PrunekitError

PLAN = PruningPlan({"a": 4, "b": 3}, {"a": (0, 3), "b": (1,)}, note='half of "a"')


def test_a_plan_survives_a_file(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == PLAN
    assert [f.name for f in tmp_path.iterdir()] == ["plan.json"]  # nothing half written is left


def test_an_empty_plan_survives_too() -> None:
    assert PruningPlan.from_json(PruningPlan({}, {}).to_json()) == PruningPlan({}, {})


def test_one_group_a_line_so_that_diffs_read_well() -> None:
    lines = PLAN.to_json().splitlines()
    assert '    "a": [0,3],' in lines
    assert '    "b": [1]' in lines


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", "{}", '{"format": "prunekit-plan-1"}', PLAN.to_json()[:40], PLAN.to_json().replace("[1]", '["x"]')],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="not a pruning plan"):
        PruningPlan.from_json(text)


def test_a_plan_of_another_format_is_refused() -> None:
    with pytest.raises(PlanError, match="'prunekit-plan-9', this version reads 'prunekit-plan-1'"):
        PruningPlan.from_json(PLAN.to_json().replace("plan-1", "plan-9"))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"a": ()}, "removes all 4 units of 'a'"),
        ({"a": (3, 0)}, "ascending"),
        ({"a": (0, 0)}, "distinct"),
        ({"a": (0, 4)}, "from 0 to 3"),
        ({"a": (-1, 2)}, "from 0 to 3"),
        ({"c": (0,)}, "does not say how many"),
    ],
)
def test_an_impossible_plan_cannot_be_made(keep: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PruningPlan({"a": 4}, keep)


def test_ratio_is_the_fraction_removed() -> None:
    assert (PLAN.ratio("a"), PLAN.ratio("elsewhere")) == (0.5, 0.0)


def test_only_keeps_some_groups_and_the_count_of_macs() -> None:
    table = {name: ChannelGroup(name, 4, "head", ()) for name in "ab"}
    groups = Groups(table, {"c": "why"}, unit_macs={"a": 2.0, "b": 3.0}, other_macs=1.0, positional=frozenset("ab"))
    some = groups.only(["b"])
    assert (list(some), some.frozen["c"], some.positional) == (["b"], "why", frozenset("b"))
    assert (some.unit_macs, some.other_macs) == ({"b": 3.0}, 9.0)
    with pytest.raises(GroupError, match="left out by only"):
        some["a"]
    with pytest.raises(GroupError, match="no group 'x'"):
        groups.only(["x"])
    with pytest.raises(InputError, match=r"write only\(\['b'\]\)"):
        groups.only("b")


def test_groups_name_what_is_unknown_and_why_the_rest_stays() -> None:
    groups = Groups({"a": ChannelGroup("a", 4, "channel", ())}, {"head": "the model returns it"})
    assert (list(groups), len(groups), "a" in groups, "head" in groups) == (["a"], 1, True, False)
    with pytest.raises(GroupError, match="no group 'x'. This model has 1 groups: a"):
        groups["x"]
    with pytest.raises(GroupError, match="'head' must keep its size: the model returns it"):
        groups["head"]


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.note = "other"  # type: ignore[misc]


def test_every_error_is_ours_and_a_builtin_where_one_fits() -> None:
    assert issubclass(PlanError, PrunekitError)
    assert issubclass(PlanError, ValueError)
    assert issubclass(GroupError, KeyError)


def test_groups_print_as_a_table_and_not_as_tensors() -> None:
    index = torch.arange(4)[:, None]
    made, read = Member("a.weight", 0, index, "producer"), Member("b.weight", 1, index, "consumer")
    groups = Groups({"a": ChannelGroup("a", 4, "channel", (made, read), exact=False)}, {"b": "the model returns it"})
    assert str(groups).splitlines() == [
        "group  units  kind       makers  readers",
        "a      4      channel *  1       1",
        "* not exact: removing one changes a norm's statistics",
        "frozen: b (the model returns it)",
    ]
    assert repr(groups) == "Groups(1 groups with 4 units, frozen layers: 1)"
    assert repr(groups["a"]) == "ChannelGroup(a: 4 x channel, 1 make, 1 read, not exact)"
    assert repr(made) == "Member(a.weight, axis 0, producer, index (4, 1))"
