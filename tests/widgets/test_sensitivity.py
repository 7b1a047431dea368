"""One group cut alone: against pruned networks, at the corners of the table, and as a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import prunekit as pk
from prunekit.core import ChannelGroup, Member
from prunekit.errors import DataError, GroupError, InputError, ScoreError
from prunekit.methods import l1
from prunekit.metrics import evaluate
from prunekit.profiling import count_macs
from prunekit.widgets import Sensitivity, sensitivity, sensitivity_view


class Net(nn.Module):
    """Three groups: 6 channels, 1 channel, 8 channels; two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 1, 1), nn.Conv2d(1, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.head(self.last(self.one(self.first(x_BCHW).relu()).relu()).relu())


def with_one(groups: pk.Groups) -> pk.Groups:
    """find_groups leaves out what is one channel wide; a group that was cut down to one may be met all the same."""
    ends = (("one.weight", 0, "producer"), ("one.bias", 0, "follower"), ("last.weight", 1, "consumer"))
    members = tuple(Member(name, dim, torch.zeros(1, 1, dtype=torch.long), role) for name, dim, role in ends)
    return replace(groups, table={**groups.table, "one": ChannelGroup("one", 1, "channel", members)})


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, pk.Groups, dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(1)
    net, x = Net().eval(), torch.randn(6, 3, 8, 8)
    with torch.no_grad():  # the dense network is right by definition
        batches = [(part, net(part).argmax(1)) for part in x.split(3)]
    groups = with_one(pk.find_groups(net, x[:1]))
    return net, groups, l1.score(net, groups), batches


@pytest.fixture(scope="module")
def table(case) -> Sensitivity:
    return sensitivity(*case, ratios=(0.5, 0.9), classes=2)


def test_every_cell_is_what_the_pruned_network_scores_and_costs(case, table: Sensitivity):
    net, groups, scores, batches = case
    x = batches[0][0][:1]
    for name in groups:
        for ratio, miou, macs, kept in zip(table.ratios, table.miou[name], table.macs[name], table.kept[name]):
            small = pk.prune(net, groups, pk.uniform_plan(groups, {name: scores[name]}, ratio))
            assert miou == pytest.approx(evaluate(small, batches, 2).miou, abs=1e-9)
            assert macs == count_macs(small, x)
            assert kept == small.get_submodule(name).out_channels
    assert len({value for row in table.miou.values() for value in row}) > 2, "cutting changed nothing: no test at all"


def test_corners_of_the_table(table: Sensitivity):
    assert table.ratios == (0.0, 0.5, 0.9) and table.dense_miou == 1.0
    assert list(table.sizes.items()) == [("first", 6), ("last", 8), ("one", 1)]
    assert table.kept == {"first": (6, 3, 1), "one": (1, 1, 1), "last": (8, 4, 1)}
    assert table.miou["one"] == (1.0, 1.0, 1.0), "a single channel cannot go"
    assert all(row[0] == table.dense_miou for row in table.miou.values())
    assert all(row[0] == table.dense_macs for row in table.macs.values())


def test_some_groups_of_a_model_and_a_loader_that_can_be_read_once(case, table: Sensitivity):
    net, groups, scores, batches = case
    part = sensitivity(net, groups.only(["last"]), scores, iter(batches), (0.5,), classes=2)
    assert part.miou == {"last": table.miou["last"][:2]} and part.macs == {"last": table.macs["last"][:2]}


def test_what_cannot_work_is_said(case):
    net, groups, scores, batches = case
    some = {name: score for name, score in scores.items() if name != "last"}
    with pytest.raises(ScoreError, match="'last' has no scores; score all 8 units of it"):
        sensitivity(net, groups, some, batches, classes=2)
    with pytest.raises(ScoreError, match="'last' has 8 units but its scores are"):
        sensitivity(net, groups, some | {"last": torch.ones(3)}, batches, classes=2)
    for ratio in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="fraction to remove|max_ratio"):
            sensitivity(net, groups, scores, batches, (ratio,), classes=2)
    with pytest.raises(DataError, match="no batch"):
        sensitivity(net, groups, scores, [], classes=2)


@pytest.mark.parametrize("group", ["first", "last", "one"])
@pytest.mark.parametrize("ratio", [0.0, 0.9])
def test_the_picture_shows_the_chosen_cell(table: Sensitivity, group: str, ratio: float):
    view = sensitivity_view(table, group, ratio)
    lines, heat, _, savings = view.fig.axes
    row, at = list(table.sizes).index(group), table.ratios.index(ratio)
    dot = lines.get_lines()[-1]
    assert [*dot.get_xdata(), *dot.get_ydata()] == [ratio, table.miou[group][at]]
    assert list(lines.get_lines()[-2].get_ydata()) == list(table.miou[group])
    assert heat.patches[0].get_xy() == (at - 0.5, row - 0.5)
    assert heat.images[0].get_array().shape == (3, 3)
    saved = [bar.get_width() for bar in savings.patches]
    assert saved == [pytest.approx(100 * (1 - macs[at] / table.dense_macs)) for macs in table.macs.values()]
    gone = table.sizes[group] - table.kept[group][at]
    assert view.alt.startswith(f"{group}, {gone} of {table.sizes[group]} units gone: mIoU 1.000 to")


def test_the_picture_refuses_what_is_not_in_the_table(table: Sensitivity):
    with pytest.raises(GroupError, match="no group 'nose'. It has 3: first, last, one"):
        sensitivity_view(table, "nose", 0.5)
    with pytest.raises(InputError, match="no ratio 0.7; it has 0, 0.5, 0.9"):
        sensitivity_view(table, "first", 0.7)


def test_a_group_whose_mask_is_not_quite_a_cut_carries_a_star(table: Sensitivity):
    heat = sensitivity_view(replace(table, inexact=frozenset(["one"])), "one", 0.5).fig.axes[1]
    assert [text.get_text() for text in heat.get_yticklabels()] == ["first", "last", "one *"]
