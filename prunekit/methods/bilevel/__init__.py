"""Bi-level pruning parameterization (Yang et al., Pruning Parameterization with Bi-level Optimization for Efficient
Semantic Segmentation on the Edge, CVPR 2023).

    min_s  L(w*, s) + beta L_reg(s),    w* = argmin_w L(w, s) + |w|^2 / (2 lambda)
    b = 1[s > tau], db/ds := 1          each channel times its b
    dL_m/ds = grad_s L + beta grad_s L_reg - lambda b sum (grad_w L)^2

Symbols: s = one number a unit, b = its mask, tau = threshold, L_reg = squared distance of the MACs from the target.
No sorting, no weight magnitudes; a closed unit keeps its weights, but for momentum and weight decay, and can open
again. Needs: training data and its loss.
Coupled layers share one mask, and it sits where the units are read: closed is then exactly removed, biases and norms
included (the paper puts a depth-wise layer behind the convolution, from where a batch norm's shift would leak).

Differs: MACs count surviving inputs too and are relative to the dense ones. beta and lambda are by default relative to
the size of the direct term, and the target comes down over the first part of the search: with a raw beta of 30 and the
target there at once, all masks of a network closed within a few steps and stayed so. (Nearly all close once even with
the ramp; they come back.) The ridge |w|^2 / (2 lambda) stays in the derivation: at the paper's lambda 0.1 it would be a
weight decay of 10. s starts at 1 and stays in [0, 1.5], moved by Adam; the paper does not say. A closing step brings
the plan to the target, and says how many units it moved. The square is summed over the weights that make a unit, and
over those alone: the paper masks every convolution, here a depth-wise one shares the mask of the layer before it. Its
kernels and the scales of a norm pass the unit on and are scaled by b as well, so the derivation has a square for them
too; without them lambda means the same for a layer with and without such followers.

    found = bilevel.learn_plan(model, groups, loader, TrainConfig(steps=150, ...), macs_ratio=0.5)
    small = prune(found.model, groups, found.plan)

Groups that are not exact (a residual stream through LayerNorm) are masked where they are read, the norm sees them all.

Files, in reading order: mask (the step), cost (MACs of a mask), hypergradient (the three terms), history (flips),
config (how masks move), masks (the second level, while finetune trains), closing (from masks to a plan).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import InputError
from prunekit.gates import Gated
from prunekit.methods.bilevel.closing import Closing, close
from prunekit.methods.bilevel.config import MaskConfig
from prunekit.methods.bilevel.history import History
from prunekit.methods.bilevel.mask import straight_through
from prunekit.methods.bilevel.masks import Masks
from prunekit.plan import Limits
from prunekit.train import TrainConfig, finetune, segmentation_loss, valid_labels

__all__ = ["Closing", "History", "Learned", "MaskConfig", "Masks", "learn_plan", "learn_scores", "straight_through"]


@dataclass(frozen=True)
class Learned:
    """What a search found. model: the network with the weights it learned meanwhile, whole, eval mode: prune this one.
    scores: s, higher = keep. held_open: group -> units that only the limits kept open when the search ended, before the
    closing step. steps, seconds, peak_bytes: what it cost, over all starts; peak_bytes: of the device that trained, see
    `watch_peak`. too_short: why masks could hardly close, "" when they could.
    """

    plan: PruningPlan
    model: nn.Module
    scores: Scores
    history: History
    closing: Closing
    held_open: dict[str, int]
    steps: int
    seconds: float
    peak_bytes: int | None
    too_short: str = ""

    def __str__(self) -> str:
        back = sum(len(units) for units in self.history.returned().values())
        lines = [f"{self.steps} steps, {self.seconds:.0f} s; {self.closing}; {back} units came back"]
        lines += [f"too short a search: {self.too_short}."] if self.too_short else []
        held = self.held_open.items()
        lines += [f"at its end only the limits held {count} units of '{name}' open" for name, count in held]
        return "\n".join(lines)


def learn_plan(
    model: nn.Module,
    groups: Groups,
    loader: Iterable[Any],
    config: TrainConfig,
    *,
    macs_ratio: float,
    masks: MaskConfig | None = None,
    limits: Limits | None = None,
    loss_fn: Callable[[Any, Any], Tensor] = segmentation_loss,
    count: Callable[[Any], int] = valid_labels,
    checkpoint: str | Path | None = None,
) -> Learned:
    """Train weights and masks together for config.steps, then plan; `model` itself is not changed.

    loader, config, loss_fn, count, checkpoint: as for `finetune`; on many GPUs and resumed, masks and history included.
    macs_ratio: fraction of the MACs to remove; the plan is at most one unit's work below the target. limits: what each
    group keeps at least; without them the masks' own widths stay, for a device give Limits(). Raises BudgetError with
    the reachable range, PlanError for groups of another model, GroupError for units that no layer reads, TrainingError
    for a gradient that is not finite, CheckpointError for a folder of another search, InputError. Warns when the search
    is too short for masks to close.
    """
    _check(config, loss_fn)
    watcher = Masks(groups, macs_ratio, config.steps, MaskConfig() if masks is None else masks, limits=limits)
    too_short = watcher.config.too_short(config.steps)
    if too_short:
        warnings.warn(f"bilevel: {too_short}.", RuntimeWarning, stacklevel=2)
    start = watcher.gated(model)
    run = finetune(start, loader, config, loss_fn=loss_fn, count=count, checkpoint=checkpoint, observer=watcher)
    gated = run.model
    assert isinstance(gated, Gated) and isinstance(gated.model, nn.Module)
    scores = {name: s_U.detach().cpu().clone() for name, s_U in zip(groups, gated.gates, strict=True)}
    goal = (1 - macs_ratio) * watcher.macs.dense
    plan, closing = close(groups, scores, watcher.masks(gated), watcher.macs, goal, watcher.limits)
    if too_short:
        plan = replace(plan, note=f"{plan.note}; too short a search: {too_short}")
    return Learned(
        plan=plan,
        model=gated.model,
        scores=scores,
        history=watcher.history,
        closing=closing,
        held_open=watcher.held_open(gated),
        steps=watcher.steps,
        seconds=watcher.seconds,
        peak_bytes=watcher.peak_bytes,
        too_short=too_short,
    )


def learn_scores(
    model: nn.Module, groups: Groups, loader: Iterable[Any], config: TrainConfig, *, macs_ratio: float, **more: Any
) -> Scores:
    """s of every unit, (U,), for a planner of your own. Arguments and errors as for `learn_plan`."""
    return learn_plan(model, groups, loader, config, macs_ratio=macs_ratio, **more).scores


def _check(config: TrainConfig, loss_fn: Callable[[Any, Any], Tensor]) -> None:
    if not isinstance(config, TrainConfig):
        raise InputError(f"config is a {type(config).__name__}; give a TrainConfig: it says how the weights train.")
    if not callable(loss_fn):
        raise InputError(
            f"loss_fn is a {type(loss_fn).__name__}; give a function loss_fn(output, target), such as F.cross_entropy."
        )
    if config.mixed_precision == "fp16" or config.ema is not None:
        raise InputError("masks need gradients without a loss scale and weights of their own: use bf16, and ema=None.")
