"""SIRFP (Wu et al., Structural Pruning via Spatial-aware Information Redundancy for Semantic Segmentation, AAAI 2025).

    r_ij = log 2 - JS(p_i, p_j)        p_i = the un-pooled map of channel i as a probability map       (Eq. 3)
    a_ij = running mean of 1 - r_ij    over training batches                                          (Eq. 4)
    keep the set of channels with the largest sum of a_ij inside it, greedily                         (Eq. 2, EHGP)

Symbols: r = redundancy, log 2 for equal maps and 0 for disjoint ones; a = edge weight of a graph whose vertices are a
layer's channels. Needs: batches, or an Observer during training; targets are not looked at. Maps are the signed output
of the batch norm (where there is none: of the layer itself), all positions of a head together.

Why greedily, one by one: of two identical channels the first to go takes the other's twin away, and from then on the
other is judged by what it shares with the rest alone. A criterion that measures all channels against all (FPGM) counts
the twin against both to the end.

Coupled layers: one clique a group. Where several norms or layers make the same channels, a_ij is the mean over them.

Differs: the paper does not say how a map becomes a probability map ("softmax" here, "sum" is the other reading), nor
how the running mean starts (here as a plain mean). Its rule across layers, "prune s > threshold", and its s (Eq. 6,
low s goes) contradict each other; in redundancies they agree, see clique.py. The authors' released code is another
method: inner products of signed maps (metric="dot") and an edge term.

    scores = sirfp.score(model, groups, batches)
    plan = budget_plan(groups, scores, macs_ratio=0.6)   # the paper's max_channel_sparsity is Limits(max_ratio=0.9)

The paper's one threshold compares scores over layers as they are: budget_plan(..., normalize="none"). Redundancies of
js, kl and dice are at least 0, so scores are at most 0 and the planner's default does the same; dot's are signed.

Files, in reading order: jensen_shannon (r for all pairs), redundancy (maps to r), clique (EHGP), observer (the running
mean), solvers (what EHGP is compared with).
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import nn

from prunekit.core import Groups, Scores
from prunekit.errors import InputError
from prunekit.methods.sirfp.clique import ScoreScale
from prunekit.methods.sirfp.observer import Observer
from prunekit.methods.sirfp.redundancy import Metric, Normalize, Resolution
from prunekit.observe import Batches, still
from prunekit.observe.passes import pairs

__all__ = ["Observer", "score"]


def score(
    model: nn.Module,
    groups: Groups,
    batches: Batches | None = None,
    *,
    metric: Metric = "js",
    normalize_map: Normalize = "softmax",
    resolution: Resolution = "full",
    tolerance: float = 2e-4,
    score_scale: ScoreScale = "sum",
) -> Scores:
    """How little each unit repeats those that outlive it, (U,), at most 0; edge weights are the mean over the batches.

    batches: (input, target) pairs, all are used. metric, normalize_map, resolution, tolerance: see `redundancy`;
    score_scale: see `clique`. Raises ScoreError without data, for activations that are not finite and for groups that
    cannot be seen where they are made; InputError for other names of the settings.
    """
    if score_scale not in get_args(ScoreScale):
        raise InputError(f"score_scale is 'sum' or 'mean', got {score_scale!r}.")
    # decay so close to 1 that the running mean stays the plain mean
    observer = Observer(
        groups,
        metric=metric,
        normalize_map=normalize_map,
        resolution=resolution,
        tolerance=tolerance,
        decay=1 - 1e-12,
    )
    with observer.watching(model), still(model, groups), torch.no_grad():
        for x, _ in pairs(batches, model, "sirfp"):
            model(x)
    return observer.scores(groups, score_scale=score_scale)
