"""A search for masks, watched: the work that is left after each update, and who is open when.

What decides is chosen by hand: beta pulls the work to its target, lambda holds open what the weights still learn from,
the threshold says how far a mask has to fall (Yang et al., CVPR 2023). A search is run for every choice, so it should
take a second or two; what was run once is kept.
Legend: T updates, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from prunekit.errors import InputError
from prunekit.viz import colors
from prunekit.widgets.live import Control, View, explore

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class SearchTrace:
    """One search. macs: share of the dense MACs after each update. masks_TU: bool, who is open, from the start on.
    result: a few words on what came of it, e.g. its accuracy.
    """

    macs: Sequence[float]
    masks_TU: Tensor
    result: str = ""

    def flips(self) -> int:
        """How often any unit opened or closed."""
        return int((self.masks_TU[1:] != self.masks_TU[:-1]).sum())

    def returned(self) -> int:
        """Units that were closed once and are open at the end."""
        return int((self.masks_TU[-1] & ~self.masks_TU.all(0)).sum())


@dataclass(frozen=True, eq=False)
class SearchStudy:
    """What `explore_search` is about. run(beta, lam, tau) searches. target: share of the MACs that is wanted.

    Raises InputError for a study in which there is nothing to choose.
    """

    run: Callable[[float, float, float], SearchTrace]
    target: float
    betas: Sequence[float] = (0.5, 5.0, 25.0, 250.0)
    lams: Sequence[float] = (0.0, 0.1, 1.0, 10.0)
    taus: Sequence[float] = (0.1, 0.5, 0.9)
    seen: dict[tuple[float, float, float], SearchTrace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.betas and self.lams and self.taus):
            raise InputError("there is nothing to choose from: give at least one beta, lambda and threshold.")

    def trace(self, beta: float, lam: float, tau: float) -> SearchTrace:
        """The search of this choice, made once."""
        key = (beta, lam, tau)
        if key not in self.seen:
            self.seen[key] = self.run(*key)
        return self.seen[key]


def search_view(study: SearchStudy, beta: float, lam: float, tau: float) -> View:
    """The work against the updates, above a row for each unit that is dark while the unit is open."""
    from matplotlib import pyplot as plt

    found = study.trace(beta, lam, tau)
    fig, (top, below) = plt.subplots(2, 1, figsize=(6, 5.6), height_ratios=(1, 1.3), sharex=True, layout="constrained")
    blue, orange = colors(2)
    top.plot(range(1, len(found.macs) + 1), found.macs, color=blue, lw=2)
    top.axhline(study.target, color=orange, lw=1.5, ls="--")
    top.text(1, study.target + 0.02, "target", color=orange, fontsize=11, va="bottom")  # the work starts far above
    top.set_ylim(0, 1.08)
    top.set_ylabel("share of the MACs", fontsize=11)
    top.spines[["top", "right"]].set_visible(False)
    draw_masks(below, found.masks_TU)
    setting = f"beta {beta:g}, lambda {lam:g}, threshold {tau:g}"
    said = f"ends at {found.macs[-1]:.0%} of the MACs, {found.flips()} flips, {found.returned()} units came back"
    fig.suptitle(f"{setting}\n{said}", fontsize=11)
    more = f"; {found.result}" if found.result else ""
    return View(fig, f"{setting}: the search {said}; the target is {study.target:.0%}{more}.")


def draw_masks(ax: Axes, masks_TU: Tensor) -> None:
    """Units from top to bottom, updates from left to right, dark = open."""
    ax.imshow(masks_TU.T.float().numpy(), aspect="auto", cmap="Blues", vmin=-0.15, vmax=1.3, interpolation="nearest")
    ax.set_xlabel("update", fontsize=11)
    ax.set_ylabel("unit, dark = open", fontsize=11)
    ax.set_yticks([])


def explore_search(
    study: SearchStudy, *, beta: float | None = None, lam: float | None = None, tau: float | None = None
) -> None:
    """Choose beta, lambda and the threshold. The arguments say where it starts (the middle of each list)."""
    start = {"beta": beta, "lam": lam, "tau": tau}
    lists = {"beta": study.betas, "lam": study.lams, "tau": study.taus}
    controls = {
        name: Control(
            {f"{value:g}": value for value in values},
            values[len(values) // 2] if start[name] is None else start[name],
            slide=True,
        )
        for name, values in lists.items()
    }
    explore(partial(search_view, study), controls)
