"""Figures say what they were given: colours, order, values; read off matplotlib's objects, not off pixels."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from prunekit import viz
from prunekit.core import PruningPlan
from prunekit.data.scenes import PALETTE
from prunekit.data.transforms import denormalize, normalize
from prunekit.errors import InputError

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def no_figures_left_open():
    yield
    plt.close("all")


def lengths(container) -> list[float]:
    """Of horizontal bars."""
    return [bar.get_width() for bar in container if isinstance(bar, Rectangle)]


def test_colors_are_distinct():
    assert len(set(viz.colors(8))) == 8


def test_paint_gives_each_label_its_colour_and_ignored_pixels_white():
    mask = torch.tensor([[0, 3], [11, 255]])
    picture = viz.paint(mask, PALETTE)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[list(PALETTE[0]), list(PALETTE[3])], [list(PALETTE[11]), [255, 255, 255]]]


def test_paint_takes_another_ignore_label_and_an_unlabelled_mask():
    assert viz.paint(torch.tensor([[9]]), PALETTE[:2], ignore=9).tolist() == [[[255, 255, 255]]]
    with pytest.raises(InputError, match="label 9 has no colour: the palette has 2"):
        viz.paint(torch.tensor([[9]]), PALETTE[:2])


def test_mask_grid_has_a_row_per_image_and_a_column_per_mask():
    masks = torch.zeros(2, 4, 8, dtype=torch.long)
    fig = viz.mask_grid(torch.zeros(2, 3, 4, 8), {"truth": masks, "guess": masks + 1}, PALETTE, ("a", "b"))
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == ["image", "truth", "guess", "", "", ""]
    shown = [np.asarray(ax.images[0].get_array()) for ax in fig.axes]
    assert (shown[1] == PALETTE[0]).all() and (shown[5] == PALETTE[1]).all()
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["a", "b"]


def test_iou_bars_are_ordered_by_the_first_model_without_absent_classes():
    fig = viz.iou_bars({"dense": [0.2, float("nan"), 0.9], "pruned": [0.1, 0.5, 0.8]}, ("pole", "moon", "road"))
    ax = fig.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["road", "pole"] and ax.yaxis_inverted()
    assert [lengths(c) for c in ax.containers] == [[0.9, 0.2], [0.8, 0.1]]


def test_plan_bars_add_up_to_each_groups_size():
    plan = PruningPlan({"a": 8, "b": 4}, {"a": (0, 1, 5), "b": (0, 1, 2, 3)})
    kept, gone = viz.plan_bars(plan).axes[0].containers
    assert lengths(kept) == [3, 4] and lengths(gone) == [5, 0]


def test_bars_write_every_value_beside_its_name():
    fig = viz.bars({"mini": [10, 2.5], "paper": [4, 96.0]}, ("stem", "ASPP"), label="share, %", digits=2)
    ax = fig.axes[0]
    assert [lengths(c) for c in ax.containers] == [[10, 2.5], [4, 96]]
    assert [text.get_text() for text in ax.texts] == ["10.00", "2.50", "4.00", "96.00"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["stem", "ASPP"]
    assert ax.yaxis_inverted() and ax.get_xlabel() == "share, %"  # the first name is on top
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["mini", "paper"]


def test_bars_of_one_series_need_no_legend_and_can_be_logarithmic():
    fig = viz.bars({"": [1, 1000]}, ("a", "b"), label="ms", log=True)
    assert fig.legends == [] and fig.axes[0].get_xscale() == "log"
    assert viz.bars({"": [1, 2]}, ("a", "b"), label="ms").axes[0].get_xscale() == "linear"


def test_bars_refuse_values_without_a_name():
    with pytest.raises(InputError, match="2 names, but 'mini' has 3 values"):
        viz.bars({"mini": [1, 2, 3]}, ("stem", "ASPP"), label="ms")


TRUTH = torch.tensor([[1, 1, 0, 255]])
GUESS = torch.tensor([[1, 0, 1, 1]])
IMAGE = normalize(torch.full((3, 1, 4), 0.5))


def test_overlap_colours_right_missed_and_false_and_leaves_ignored_pixels_alone():
    right, missed, false, ignored = viz.overlap(IMAGE, TRUTH, GUESS, 1)[0].tolist()
    assert (right, missed, false) == tuple(list(viz.OVERLAP[kind]) for kind in ("right", "missed", "false"))
    assert len(set(ignored)) == 1, "an ignored pixel stays grey"


def test_overlap_shows_the_image_where_the_class_is_not():
    stripes = torch.tensor([0.1, 0.4, 0.7, 1.0]).expand(3, 1, 4)
    grey = viz.overlap(normalize(stripes), torch.zeros(1, 4), torch.zeros(1, 4), 1)[0, :, 0].astype(int)
    assert (np.diff(grey) > 0).all() and grey.max() < 255
    assert torch.allclose(denormalize(normalize(stripes)), stripes, atol=1e-6)


def test_overlap_grid_titles_each_image_with_its_iou():
    truths = torch.stack([TRUTH, torch.zeros_like(TRUTH), TRUTH])
    guesses = torch.stack([GUESS, torch.zeros_like(GUESS), TRUTH.clamp(max=1)])
    fig = viz.overlap_grid(IMAGE.expand(3, 3, 1, 4), truths, guesses, 1, classes=2)
    assert [ax.get_title() for ax in fig.axes] == ["IoU 0.33", "-", "IoU 1.00", ""]
    colours = [to_rgb(patch.get_facecolor()) for patch in fig.legends[0].get_patches()]
    assert np.allclose(np.array(colours) * 255, list(viz.OVERLAP.values()))
