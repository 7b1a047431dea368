"""Sensitivity: what is lost when one group alone is cut (Li et al., ICLR 2017, section 3.2 and figure 2b).

    for each group, for each ratio: remove that share of its units, lowest scores first; nothing is trained

The removed units are masked, so all cells of the table share one network. Where a group is not exact (a stream through
LayerNorm) the masked network is not quite the pruned one: such groups carry a *.
Legend: U = units of a group, R = ratios.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from prunekit.core import Groups, Scores
from prunekit.errors import GroupError, InputError
from prunekit.metrics import evaluate
from prunekit.plan import Limits, plan_macs, uniform_plan
from prunekit.surgery import mask
from prunekit.viz import colors
from prunekit.widgets.live import Control, View, explore, percents, scores_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Sensitivity:
    """Each group cut alone. kept, miou, macs: group -> one value a ratio: units that stay, mIoU of the masked network,
    MACs of the whole network after the cut. inexact: groups for which masking is not quite removing.
    """

    ratios: tuple[float, ...]
    sizes: dict[str, int]
    kept: dict[str, tuple[int, ...]]
    miou: dict[str, tuple[float, ...]]
    macs: dict[str, tuple[int, ...]]
    dense_miou: float
    dense_macs: int
    inexact: frozenset[str] = frozenset()

    def at(self, group: str, ratio: float) -> int:
        """The ratio's number in the rows. GroupError or InputError for what is not in the table."""
        if group not in self.sizes:
            raise GroupError(f"the table has no group '{group}'. It has {len(self.sizes)}: {', '.join(self.sizes)}.")
        if ratio not in self.ratios:
            raise InputError(f"the table has no ratio {ratio!r}; it has {', '.join(f'{r:g}' for r in self.ratios)}.")
        return self.ratios.index(ratio)

    def saved(self, group: str, ratio: float) -> float:
        """Percent of the network's MACs that go."""
        return 100 * (1 - self.macs[group][self.at(group, ratio)] / self.dense_macs)


def sensitivity(
    model: nn.Module,
    groups: Groups,
    scores: Scores,
    loader: Iterable[Any],
    ratios: Sequence[float] = (0.25, 0.5, 0.75, 0.9),
    *,
    classes: int,
) -> Sensitivity:
    """Measure the mIoU and the MACs for every group and ratio; the model stays as it is.

    groups: those to cut, one at a time; use groups.only([...]) for some. scores: of all of them. loader: batches of
    (image (B, 3, H, W), mask (B, H, W)), read once and kept in memory; a hundred images are plenty. Ratio 0 is added.
    Takes one evaluation a cell, less where two ratios keep the same units. Raises InputError for a ratio outside
    [0, 1), ScoreError for a group without scores, and what `evaluate` raises.
    """
    table = tuple(sorted({0.0, *map(float, ratios)}))
    limits = Limits(max_ratio=table[-1])
    batches = list(loader)
    dense = evaluate(model, batches, classes).miou
    mine = {name: scores_of(groups, scores, name) for name in groups}
    plans = {name: [uniform_plan(groups, {name: mine[name]}, r, limits=limits) for r in table] for name in groups}
    kept = {name: tuple(len(plan.keep[name]) for plan in row) for name, row in plans.items()}
    miou = {}
    for name, row in plans.items():
        known = {groups[name].size: dense}
        for plan, count in zip(row, kept[name]):
            if count not in known:
                known[count] = evaluate(mask(model, groups, plan), batches, classes).miou
        miou[name] = tuple(known[count] for count in kept[name])
    macs = {name: tuple(plan_macs(groups, plan) for plan in row) for name, row in plans.items()}
    sizes = {name: group.size for name, group in groups.items()}
    inexact = frozenset(name for name, group in groups.items() if not group.exact)
    dense_macs = plan_macs(groups, uniform_plan(groups, mine, 0.0))
    return Sensitivity(table, sizes, kept, miou, macs, dense, dense_macs, inexact)


def sensitivity_view(table: Sensitivity, group: str, ratio: float) -> View:
    """Three panels: mIoU over ratio with this group's line in colour, mIoU of all groups and ratios, MACs that each
    group saves at this ratio. Raises GroupError or InputError for what is not in the table."""
    from matplotlib import pyplot as plt

    at, names = table.at(group, ratio), list(table.sizes)
    gone = table.sizes[group] - table.kept[group][at]
    said = (
        f"{gone} of {table.sizes[group]} units gone: mIoU {table.dense_miou:.3f} to {table.miou[group][at]:.3f}, "
        f"MACs -{table.saved(group, ratio):.1f} %"
    )
    fig = plt.figure(figsize=(7, 3.1 + 0.2 * len(names)), layout="constrained")
    grid = fig.add_gridspec(2, 2, height_ratios=(2.3, 0.4 + 0.2 * len(names)), width_ratios=(2, 1))
    _lines(fig.add_subplot(grid[0, :]), table, group, at)
    heat = fig.add_subplot(grid[1, 0])
    _heat(heat, table, names.index(group), at)
    _savings(fig.add_subplot(grid[1, 1], sharey=heat), table, names.index(group), ratio)
    fig.suptitle(f"{group}\n{said}", fontsize=10)
    return View(fig, f"{group}, {said}. Below, all groups at all ratios, and what each saves.")


def _lines(ax: Axes, table: Sensitivity, group: str, at: int) -> None:
    for row in table.miou.values():
        ax.plot(table.ratios, row, color="0.8", linewidth=1)
    ax.plot(table.ratios, table.miou[group], color=colors(1)[0], linewidth=2.5)
    ax.plot(table.ratios[at], table.miou[group][at], "o", color=colors(2)[1], markersize=9)
    ax.set_xlabel("ratio, fraction of the group removed")
    ax.set_ylabel("mIoU")
    ax.set_ylim(bottom=0)
    ax.spines[["top", "right"]].set_visible(False)


def _heat(ax: Axes, table: Sensitivity, row: int, at: int) -> None:
    from matplotlib.patches import Rectangle

    shown = ax.imshow(list(table.miou.values()), cmap="cividis", vmin=0, aspect="auto")
    ax.add_patch(Rectangle((at - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=colors(2)[1], linewidth=2.5))
    names = [f"{name} *" if name in table.inexact else name for name in table.sizes]
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set_xticks(range(len(table.ratios)), [f"{ratio:g}" for ratio in table.ratios], fontsize=8)
    ax.set_xlabel("ratio")
    ax.set_title("mIoU", fontsize=9)
    ax.figure.colorbar(shown, ax=ax, fraction=0.08)


def _savings(ax: Axes, table: Sensitivity, row: int, ratio: float) -> None:
    saved = [table.saved(name, ratio) for name in table.sizes]
    blue, orange = colors(2)
    ax.barh(range(len(saved)), saved, color=[orange if i == row else blue for i in range(len(saved))])
    ax.tick_params(axis="y", labelleft=False, length=0)
    ax.set_title(f"MACs saved at {ratio:g}, %", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def explore_sensitivity(table: Sensitivity, *, group: str | None = None, ratio: float | None = None) -> None:
    """Choose a group and a ratio. group, ratio: where it starts (the first group, the middle ratio)."""
    group = next(iter(table.sizes)) if group is None else group
    ratio = table.ratios[len(table.ratios) // 2] if ratio is None else ratio
    controls = {
        "group": Control({name: name for name in table.sizes}, group),
        "ratio": Control(percents(table.ratios), ratio, slide=True),
    }
    explore(partial(sensitivity_view, table), controls)
