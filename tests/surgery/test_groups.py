"""find_groups on networks small enough to know the answer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import Groups
from prunekit.errors import GroupError, InputError, TraceError
from prunekit.surgery import find_groups

X = torch.randn(2, 3, 8, 8)


def table(groups: Groups, name: str) -> dict[tuple[str, int], tuple[str, list[list[int]]]]:
    return {(m.tensor, m.dim): (m.role, m.index.tolist()) for m in groups[name].members}


def rows(*ranges: range) -> list[list[int]]:
    return [list(unit) for unit in zip(*ranges)]


def test_chain_ties_maker_norm_and_reader() -> None:
    groups = find_groups(nets.Chain(), X)
    assert list(groups) == ["a"]
    line = rows(range(8))
    assert table(groups, "a") == {
        ("a.weight", 0): ("producer", line),
        ("a.bias", 0): ("follower", line),
        ("bn.weight", 0): ("follower", line),
        ("bn.bias", 0): ("follower", line),
        ("bn.running_mean", 0): ("follower", line),
        ("bn.running_var", 0): ("follower", line),
        ("b.weight", 1): ("consumer", line),
    }
    assert groups.frozen == {"b": "the model returns it"}


def test_a_residual_sum_ties_its_makers() -> None:
    groups = find_groups(nets.Residual(), X)
    assert {name: g.size for name, g in groups.items()} == {"stem": 8, "inner": 6}
    assert [m.tensor for m in groups["stem"].producers()] == ["stem.weight", "back.weight"]
    assert [m.tensor for m in groups["stem"].consumers()] == ["inner.weight", "head.weight"]


def test_concat_gives_each_maker_its_own_positions() -> None:
    groups = find_groups(nets.Concat(), X)
    assert table(groups, "b")["head.weight", 1] == ("consumer", rows(range(6, 10)))
    assert table(groups, "b")["norm.weight", 0] == ("follower", rows(range(6, 10)))
    assert table(groups, "a")["head.weight", 1] == ("consumer", rows(range(6)))


def test_chunk_makes_two_groups_from_one_layer() -> None:
    groups = find_groups(nets.Chunk(), X)
    assert {name: g.size for name, g in groups.items()} == {"a": 6, "a#2": 6}
    assert table(groups, "a#2")["a.weight", 0] == ("producer", rows(range(6, 12)))
    assert [m.tensor for m in groups["a#2"].consumers()] == ["right.weight"]


def test_depthwise_multiplier_and_flatten_give_a_unit_many_positions() -> None:
    groups = find_groups(nets.DepthwiseFlatten(), X)
    members = table(groups, "a")
    assert members["dw.weight", 0] == ("follower", [[2 * i, 2 * i + 1] for i in range(6)])
    assert members["fc.weight", 1] == ("consumer", [list(range(32 * i, 32 * i + 32)) for i in range(6)])


def test_grouped_convolutions_lose_the_same_positions_in_every_group() -> None:
    groups = find_groups(nets.Grouped(), X)
    members = table(groups, "a")
    assert groups["a"].size == 3
    assert members["a.weight", 0] == ("producer", [[i, i + 3, i + 6, i + 9] for i in range(3)])
    assert members["g.weight", 1] == ("consumer", rows(range(3)))
    assert table(groups, "g")["b.weight", 1] == ("consumer", [[i, i + 2, i + 4, i + 6] for i in range(2)])


def test_squeeze_excite_ties_the_gate_to_the_channels() -> None:
    groups = find_groups(nets.SqueezeExcite(), X)
    assert {name: g.size for name, g in groups.items()} == {"a": 8, "down": 4}
    assert [m.tensor for m in groups["a"].producers()] == ["a.weight", "up.weight"]


def test_a_bare_parameter_follows() -> None:
    assert table(find_groups(nets.Scaled(), X), "a")["gamma", 0] == ("follower", rows(range(8)))


def test_returned_channels_stay() -> None:
    groups = find_groups(nets.TwoOutputs(), X)
    assert list(groups) == ["a"]
    assert groups.frozen == {"b": "the model returns it", "c": "the model returns it"}


def test_a_head_that_only_trains_still_reads() -> None:
    groups = find_groups(nets.Auxiliary(), X)
    assert [m.tensor for m in groups["a"].consumers()] == ["b.weight", "aux.weight"]
    assert not any("unused" in m.tensor for g in groups.values() for m in g.members)


def test_a_head_that_training_cannot_run_at_this_size_stays_whole() -> None:
    class Hungry(nets.Auxiliary):
        def forward(self, x: torch.Tensor) -> object:
            y = self.a(x).relu()
            return (self.b(y), self.aux(y[..., 8:].unfold(-1, 5, 5)[..., 0])) if self.training else self.b(y)

    model = Hungry()
    model.a = nn.Sequential(model.a, nn.BatchNorm2d(8))  # type: ignore[assignment]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = find_groups(model, X)  # eight pixels are enough for the rest
    assert list(groups) == ["a.0"]
    assert "only training could reach it" in groups.frozen["aux"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_unknown_op_freezes_with_its_name_and_place() -> None:
    groups = find_groups(nets.Rolled(), X)
    assert list(groups) == ["a"]
    assert groups.frozen["mix"] == "no rule for roll at the top of forward along channels"
    with pytest.raises(GroupError, match="must keep its size: no rule for roll"):
        groups["mix"]


def test_freeze_keeps_a_layer_and_refuses_unknown_names() -> None:
    groups = find_groups(nets.Residual(), X, freeze=["inner"])
    assert list(groups) == ["stem"]
    assert groups.frozen["inner"] == "asked to stay ('inner')"
    with pytest.raises(GroupError, match="'innner', but no layer there makes channels"):
        find_groups(nets.Residual(), X, freeze=["innner"])


def test_example_may_be_a_tuple_or_a_dict() -> None:
    model = nets.Chain()
    assert list(find_groups(model, (X,))) == list(find_groups(model, {"x": X})) == ["a"]


def test_training_flags_come_back_and_nothing_is_changed() -> None:
    model = nets.Auxiliary().train()
    model.b.eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    find_groups(model, X)
    assert model.training
    assert not model.b.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.randn(2, 5, 8, 8), r"an example of shape \[\(2, 5, 8, 8\)\] does not run through the model"),
        ("image", "holds no tensor"),
        (torch.empty(2, 3, 8, 8, device="meta"), "example is on meta, the model on cpu"),
    ],
)
def test_a_wrong_example_is_named(example: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_groups(nets.Chain(), example)


def test_control_flow_on_values_is_refused() -> None:
    with pytest.raises(TraceError, match=r"cannot follow LooksAtValues.forward"):
        find_groups(nets.LooksAtValues(), X)


def test_no_parameters_no_groups() -> None:
    with pytest.raises(InputError, match="no parameters"):
        find_groups(nn.ReLU(), X)
