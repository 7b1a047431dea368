"""Feature maps by score: the maps are what the reader sees, the order is the scores', the corners hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

import prunekit as pk
from prunekit.core import ChannelGroup, Member
from prunekit.data.transforms import normalize
from prunekit.errors import GroupError, InputError, ScoreError
from prunekit.widgets import channels_view
from prunekit.widgets.channels import feature_maps


class Net(nn.Module):
    """Groups of 12, 1 and 4 units; the last is read after pooling, where there is no picture any more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.one = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Conv2d(12, 1, 1)
        self.last, self.head = nn.Conv2d(1, 4, 1), nn.Linear(4, 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.one(self.norm(self.first(x_BCHW)).relu()).relu()
        return self.head(self.last(x_BCHW).mean((2, 3)))


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
def case() -> tuple[Net, pk.Groups, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    net, images = Net().eval(), normalize(torch.rand(3, 3, 6, 10))
    groups = with_one(pk.find_groups(net, images[:1]))
    return net, groups, {"first": torch.randperm(12).double(), "one": torch.ones(1), "last": torch.ones(4)}, images


def test_maps_are_what_the_reader_sees_after_norm_and_activation(case):
    net, groups, _, images = case
    with torch.no_grad():
        wanted = net.norm(net.first(images[2:])).relu()[0]
    assert torch.equal(feature_maps(net, groups, "first", images[2]), wanted)
    assert not torch.equal(feature_maps(net, groups, "first", images[0]), wanted)


@pytest.mark.parametrize("order", ["highest first", "lowest first"])
def test_the_eight_best_or_worst_are_shown_with_their_scores(case, order: str):
    net, groups, scores, images = case
    view = channels_view(*case, group="first", image=2, order=order)
    ranked = sorted(range(12), key=lambda u: -scores["first"][u] if order == "highest first" else scores["first"][u])
    maps = feature_maps(net, groups, "first", images[2])
    shown = [ax for ax in view.fig.axes if ax.images and ax.get_title() != "image"]
    assert [ax.get_title() for ax in shown] == [f"unit {u}, score {scores['first'][u]:.3g}" for u in ranked[:8]]
    for ax, unit in zip(shown, ranked):
        assert np.array_equal(ax.images[0].get_array(), maps[unit])
    assert len({ax.images[0].get_clim() for ax in shown}) == 1, "one scale for all"
    assert view.alt.startswith(f"Image 2 and 8 of the 12 feature maps of first, {order}: from unit {ranked[0]}, ")


def test_a_group_of_one_channel_is_one_map(case):
    view = channels_view(*case, group="one", image=0, order="lowest first")
    assert [ax.get_title() for ax in view.fig.axes if ax.images] == ["image", "unit 0, score 1"]


def test_dead_channels_are_dark_not_an_error(case):
    net, groups, scores, images = case
    dead = Net().eval()
    dead.load_state_dict(net.state_dict())
    dead.norm.weight.data.zero_()
    dead.norm.bias.data.zero_()
    view = channels_view(dead, groups, scores, images, group="first", image=0, order="highest first")
    low, high = view.fig.axes[1].images[0].get_clim()
    assert low == 0 and high > low


class Tokens(nn.Module):
    """An embedding that is read as tokens (B, N, C), as in a transformer; `thin`: N has no picture's shape."""

    def __init__(self, thin: bool) -> None:
        super().__init__()
        self.embed, self.head, self.thin = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(4, 2), thin

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BNC = self.embed(x_BCHW).flatten(2).transpose(1, 2)
        return self.head(x_BNC[:, :13] if self.thin else x_BNC)


def test_tokens_are_laid_out_as_the_image_is():
    net, image = Tokens(thin=False).eval(), torch.randn(3, 6, 10)
    groups = pk.find_groups(net, image[None])
    with torch.no_grad():
        assert torch.equal(feature_maps(net, groups, "embed", image), net.embed(image[None])[0])


def test_what_is_no_picture_is_refused(case):
    net, groups, scores, images = case
    with pytest.raises(InputError, match=r"'last' are \(1, 4, 1\), which is no picture of the image"):
        feature_maps(net, groups, "last", images[0])
    thin = Tokens(thin=True).eval()
    with pytest.raises(InputError, match=r"\(1, 4, 1, 13\), which is no picture"):
        feature_maps(thin, pk.find_groups(thin, images[:1]), "embed", images[0])


def test_what_cannot_work_is_said(case):
    net, groups, scores, images = case

    def view(**changes: object) -> None:
        given = {"scores": scores, "group": "first", "image": 0, "order": "highest first"} | changes
        channels_view(net, groups, given.pop("scores"), images, **given)

    for image in (-1, 3):
        with pytest.raises(InputError, match=f"no image {image}; they are numbered from 0 to 2"):
            view(image=image)
    with pytest.raises(InputError, match="order is one of 'highest first', 'lowest first', got 'best'"):
        view(order="best")
    with pytest.raises(GroupError, match="no group 'nose'"):
        view(group="nose")
    with pytest.raises(ScoreError, match="'first' has no scores; score all 12 units of it"):
        view(scores={"one": torch.ones(1)})
    with pytest.raises(ScoreError, match="'first' has 12 units but its scores are"):
        view(scores={"first": torch.ones(3)})
    with pytest.raises(ScoreError, match="score of unit 0 in 'first' is nan"):
        view(scores={"first": torch.full((12,), torch.nan)})
