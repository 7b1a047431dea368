"""Two thresholds on batch-norm scales, one for each part of a network: who stays, at what cost, how good before tuning.

Chosen is the fraction of a part's channels that go; the threshold is the largest scale among those that do (MTP, Chen
et al., arXiv 2007.08386, section 3). Above, the scales of both parts; below, the widths that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import InputError
from prunekit.metrics import evaluate
from prunekit.plan import plan_macs
from prunekit.surgery import prune
from prunekit.viz import colors
from prunekit.widgets.live import Control, View, explore, percents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRACTIONS = (0.0, 0.25, 0.5, 0.75)
SHORT = 24  # letters of a group's name beside its bar


@dataclass(frozen=True, eq=False)
class ThresholdStudy:
    """What `explore_thresholds` is about. parts: two names -> the scores of the groups in that part. plan(first,
    second): the plan without these fractions of either part's channels. batches: (images, masks) to measure mIoU on.

    Raises InputError unless there are two parts whose groups the network has.
    """

    model: nn.Module
    groups: Groups
    parts: Mapping[str, Scores]
    plan: Callable[[float, float], PruningPlan]
    batches: Iterable[Any]
    classes: int
    measured: dict[tuple[float, float], float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        strange = [name for scores in self.parts.values() for name in scores if name not in self.groups]
        if len(self.parts) != 2 or not all(self.parts.values()) or strange:
            raise InputError(
                f"parts are {', '.join(self.parts) or 'missing'}"
                + (f", with '{strange[0]}' that the network has not" if strange else "")
                + '; give two, as {"backbone": scores, "decoder": scores}.'
            )

    def miou(self, first: float, second: float) -> float:
        """mIoU of the cut network, not tuned; measured once for each pair."""
        if (first, second) not in self.measured:
            small = prune(self.model, self.groups, self.plan(first, second))
            self.measured[first, second] = evaluate(small, self.batches, self.classes).miou
        return self.measured[first, second]


def taus(study: ThresholdStudy, plan: PruningPlan) -> tuple[float, float]:
    """For each part the largest scale that goes, 0 where none does."""
    found = [_gone(scores, plan) for scores in study.parts.values()]
    first, second = (float(gone.max()) if len(gone) else 0.0 for gone in found)
    return first, second


def thresholds_view(study: ThresholdStudy, first: float, second: float) -> View:
    """Scales with both thresholds, and the widths that are left; above it MACs and mIoU.

    first, second: fractions of channels that go. Raises what the study's plan does.
    """
    from matplotlib import pyplot as plt

    plan = study.plan(first, second)
    names = [name for scores in study.parts.values() for name in scores]
    pair = taus(study, plan)
    dense = plan_macs(study.groups, PruningPlan({}, {}))
    share, miou = plan_macs(study.groups, plan) / dense, study.miou(first, second)
    height = 3.0 + 0.26 * len(names)
    fig, (top, bottom) = plt.subplots(
        2, 1, figsize=(6, height), height_ratios=(2.2, 0.26 * len(names)), layout="constrained"
    )
    _scales(top, study, pair)
    _widths(bottom, study, plan, names)
    said = f"{share:.0%} of the MACs, mIoU {miou:.2f} before tuning"
    fig.suptitle(said, fontsize=12)
    goes = ", ".join(
        f"{name} {fraction:.0%} gone, threshold {tau:.3f}"
        for name, fraction, tau in zip(study.parts, (first, second), pair, strict=True)
    )
    return View(fig, f"{goes}: {said}. Histograms of scales with a line at each threshold; widths of all layers.")


def _gone(scores: Scores, plan: PruningPlan) -> Tensor:
    """Scales of the channels that go."""
    left = [s.new_ones(len(s), dtype=torch.bool) for s in scores.values()]
    for mask_U, name in zip(left, scores, strict=True):
        mask_U[list(plan.keep[name]) if name in plan.keep else slice(None)] = False
    return torch.cat([s[mask_U] for s, mask_U in zip(scores.values(), left, strict=True)])


def _scales(ax: Axes, study: ThresholdStudy, pair: tuple[float, float]) -> None:
    """One histogram over the other, each with its threshold."""
    every = [torch.cat(list(scores.values())) for scores in study.parts.values()]
    edges = torch.linspace(0, float(torch.cat(every).max()) or 1.0, 33).tolist()
    for name, scale_N, tau, color in zip(study.parts, every, pair, colors(2), strict=True):
        ax.hist(scale_N.tolist(), edges, color=color, alpha=0.5, label=f"{name}, threshold {tau:.3f}")
        ax.axvline(tau, ymax=0.69, color=color, lw=2)
    ax.set_xlabel("scale of a channel", fontsize=11)
    ax.set_ylabel("channels", fontsize=11)
    ax.set_ylim(top=1.45 * ax.get_ylim()[1])  # room for the legend
    ax.legend(frameon=False, fontsize=10, loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)


def _widths(ax: Axes, study: ThresholdStudy, plan: PruningPlan, names: list[str]) -> None:
    """What each layer keeps of what it had, in its part's colour."""
    full = [study.groups[name].size for name in names]
    kept = [len(plan.keep[name]) if name in plan.keep else size for name, size in zip(names, full, strict=True)]
    part = [c for scores, c in zip(study.parts.values(), colors(2), strict=True) for _ in scores]
    ax.barh(range(len(names)), full, color="0.9")
    ax.barh(range(len(names)), kept, color=part)
    for row, width in enumerate(kept):
        ax.text(full[row], row, f" {width}", va="center", fontsize=10)
    ax.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel("channels that stay", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)


def _short(name: str) -> str:
    """Without its first parts, where it is long: "context.backbone.body.layer1.0.conv1" -> "body.layer1.0.conv1"."""
    while len(name) > SHORT and "." in name:
        name = name.partition(".")[2]
    return name


def explore_thresholds(study: ThresholdStudy, *, start: tuple[float, float] = (0.5, 0.5)) -> None:
    """Choose the fraction that goes from either part. start: where the sliders stand at first, of FRACTIONS."""
    controls = {
        slider: Control(percents(FRACTIONS), value, slide=True)
        for slider, value in zip(("first", "second"), start, strict=True)
    }
    explore(partial(thresholds_view, study), controls)
