"""Figures of the bench: accuracy against work, and every seed of every method. Each returns a matplotlib Figure.

Methods are written beside their lines and dots, so no colour has to be matched with a legend; the few that a page
speaks about are coloured, from seaborn's colour-blind palette, the others are grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from prunekit.course.verdict import Standing
from prunekit.viz import colors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "0.55"


def pareto(tables: Iterable[Sequence[Standing]], *, dense: tuple[float, float], bold: Sequence[str] = ()) -> Figure:
    """mIoU (± spread over seeds) against MACs in millions, one line a method from the dense network on.

    tables: standings, one for each ratio. dense: (MACs, mIoU) of the network that all start from. bold: methods in
    colour. Labels stand at each line's cheapest point, moved apart where they would meet.
    """
    from matplotlib import pyplot as plt

    points: dict[str, list[Standing]] = {}
    for row in sorted((row for table in tables for row in table), key=lambda row: -row.macs):
        points.setdefault(row.method, []).append(row)
    fig, ax = plt.subplots(figsize=(6, 6), layout="constrained")
    paint, ends = _paint(points, bold), {}
    for name, rows in points.items():
        x, y = [row.macs / 1e6 for row in rows], [row.miou for row in rows]
        spread = [0.0 if row.spread != row.spread else row.spread for row in rows]  # nan with one seed
        front = {"color": paint[name], "zorder": 3 if name in bold else 2}
        ax.plot([dense[0] / 1e6, *x], [dense[1], *y], lw=1, alpha=0.6, **front)
        ax.errorbar(x, y, spread, fmt="o", ms=4, capsize=2, lw=1, **front)
        ends[name] = (x[-1], y[-1])
    ax.plot(dense[0] / 1e6, dense[1], "ks", ms=6)
    ax.annotate("dense", (dense[0] / 1e6, dense[1]), (0, 8), textcoords="offset points", ha="center", fontsize=11)
    low, high = ax.get_ylim()
    places = apart([y for _, y in ends.values()], (high - low) / 26)
    left, right = min(x for x, _ in ends.values()), dense[0] / 1e6
    at = left - 0.06 * (right - left)
    for (name, (x, y)), place in zip(ends.items(), places):
        ax.plot([at, x], [place, y], lw=0.5, color=paint[name], zorder=1)
        ax.text(
            at, place, f"{name} ", ha="right", va="center", fontsize=11, color=paint[name] if name in bold else "0.3"
        )
    ax.set_xlim(left - 0.48 * (right - left), right + 0.06 * (right - left))
    ax.set_ylim(min(low, *places), high + 0.04 * (high - low))
    ax.set_xticks(sorted({round(row.macs / 1e6) for rows in points.values() for row in rows} | {round(right)}))
    ax.set_xlabel("MACs (millions)", fontsize=11)
    ax.set_ylabel("mIoU", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    return fig


def strips(
    runs: Mapping[str, Sequence[float]],
    *,
    label: str,
    band: tuple[float, float] | None = None,
    bold: Sequence[str] = (),
) -> Figure:
    """One row a method: a dot for each seed, a bar at their mean. band: what counts as equal, drawn in grey."""
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(5.4, 0.9 + 0.3 * len(runs)), layout="constrained")
    if band is not None:
        ax.axvspan(*band, color="0.9", lw=0)
    paint = _paint(runs, bold)
    for i, (name, values) in enumerate(runs.items()):
        ax.plot(values, [i] * len(values), "o", ms=6, mew=0, alpha=0.6, color=paint[name])
        ax.plot([mean(values)] * 2, [i - 0.32, i + 0.32], lw=2.5, color=paint[name])
    ax.set_yticks(range(len(runs)), list(runs), fontsize=11)
    ax.invert_yaxis()
    ax.set_xlabel(label, fontsize=11)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return fig


def apart(places: Sequence[float], gap: float) -> list[float]:
    """The places moved as little as needed so that neighbours are `gap` apart; their order stays."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[int]] = []  # neighbours that touch, spread evenly around the mean of where they want to be
    for i in order:
        blocks.append([i])
        while (
            len(blocks) > 1
            and _middle(blocks[-1], places) - _middle(blocks[-2], places)
            < gap * (len(blocks[-1]) + len(blocks[-2])) / 2 - 1e-12
        ):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = [0.0] * len(places)
    for block in blocks:
        for k, i in enumerate(block):
            moved[i] = _middle(block, places) + (k - (len(block) - 1) / 2) * gap
    return moved


def _middle(block: Sequence[int], places: Sequence[float]) -> float:
    return mean(places[i] for i in block)


def _paint(names: Iterable[str], bold: Sequence[str]) -> dict[str, object]:
    chosen = dict(zip(bold, colors(max(len(bold), 1))))
    return {name: chosen.get(name, GREY) for name in names}
