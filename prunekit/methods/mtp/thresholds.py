"""From scales to a plan: |gamma| of each channel, the thresholds tau1 and tau2, who stays (section 3 of the paper).

Scales of backbone and decoder were trained in turn, on unlike losses, so one threshold for both would cut one part to
pieces and spare the other: each has its own, at the same percentage ("independent"; Table 4 compares with "unified").
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import InputError, ScoreError
from prunekit.methods.mtp.parts import Parts, check_backbones
from prunekit.observe import mean_over, norm_scales, of_units
from prunekit.plan import Limits, checked_scores, global_plan

How = Literal["independent", "unified"]
Percentage = float | tuple[float, float]  # fraction of channels that go, of the two parts where they differ


class Thresholds(NamedTuple):
    """tau1 and tau2: channels with scales up to it go."""

    backbone: float
    decoder: float


def score(segmenter: nn.Module, parts: Parts, *, classifier: nn.Module | None = None) -> Scores:
    """|gamma| of each channel, (U,): the decoder's gamma2, and gamma1 of the classifier's backbone.

    Without a classifier the segmenter's own backbone says (network slimming with MTP's thresholds, "Slimming-Ind").
    Where several norms follow one channel it is the mean of theirs. Raises ScoreError for a group without batch norm,
    or where all scales are equal, as initialised; InputError when the backbones differ.
    """
    if classifier is not None:
        check_backbones(classifier, segmenter, parts.path, "Take the two networks that were trained together.")
    state, scores = segmenter.state_dict(), Scores()
    theirs = classifier.state_dict() if classifier is not None else {}
    for groups in (parts.backbone, parts.decoder):
        for name in groups:
            members = norm_scales(segmenter, groups, name, "mtp")
            gamma = [
                of_units(theirs.get(f"backbone{tensor.removeprefix(parts.path)}", state[tensor]), member)
                for tensor, member in members.items()
            ]
            if groups[name].size > 1 and all(bool((g == g.flatten()[0]).all()) and bool(g.any()) for g in gamma):
                raise ScoreError(
                    f"all scales in '{next(iter(members))}' are {gamma[0].flatten()[0].item():g}, as initialised: "
                    "train the network first."
                )
            scores[name] = mean_over(g_UK.abs().mean(1) for g_UK in gamma)
    return scores


def thresholds(parts: Parts, scores: Scores, percentage: Percentage, *, how: How = "independent") -> Thresholds:
    """The scales at which this fraction of a part's channels is gone: the largest of them that goes, 0 if none does."""
    first, second = _fractions(percentage, how)
    scores = _of_parts(parts, scores)
    backbone, decoder = (
        torch.cat([scores[name] for name in groups]) if groups else torch.zeros(0)
        for groups in (parts.backbone, parts.decoder)
    )
    if how == "unified":
        tau = _quantile(torch.cat([backbone, decoder]), first)
        return Thresholds(tau, tau)
    return Thresholds(_quantile(backbone, first), _quantile(decoder, second))


def plan(
    parts: Parts,
    scores: Scores,
    percentage: Percentage,
    *,
    how: How = "independent",
    limits: Limits | None = None,
) -> PruningPlan:
    """Remove this fraction of the channels of each part, those with the smallest scales wherever they are.

    percentage: in [0, 1); a pair sets backbone and decoder apart. how="unified": one threshold for both parts together.
    limits: what each group keeps whatever its scales. Without them the thresholds cut where they fall, as in the paper:
    for a device give Limits(). Of equal scales (zeros) the first go first. The plan's note names the groups that the
    limits saved, and those that stay whole. Raises InputError and the errors of global_plan.
    """
    first, second = _fractions(percentage, how)
    limits, tau = limits or Limits(round_to=1), thresholds(parts, scores, percentage, how=how)
    both = _both(parts)
    ranked = [(both, first)] if how == "unified" else [(parts.backbone, first), (parts.decoder, second)]
    sizes, keep, saved = {}, {}, []
    for groups, ratio in ranked:
        if groups:
            mine = {name: scores[name] for name in groups}
            one = global_plan(groups, mine, ratio, normalize="none", limits=limits)
            sizes.update(one.sizes)
            keep.update(one.keep)
            left = _left(mine, ratio)
            saved += [f"{n} ({len(k)}, not {left[n]})" for n, k in one.keep.items() if len(k) > left[n]]
    note = f"mtp, {how}, ratio {first:g} / {second:g}, tau1 {tau.backbone:.3g}, tau2 {tau.decoder:.3g}"
    stay = [] if parts.decoder else ["nothing of the decoder may go"]
    stay += [f"{name} stays whole: {why}" for name, why in parts.whole.items()]
    note += f"; the limits kept more of {', '.join(saved)}" if saved else ""
    return PruningPlan(sizes, keep, "; ".join([note, *stay]))


def _both(parts: Parts) -> Groups:
    return Groups({**parts.backbone.table, **parts.decoder.table})


def _of_parts(parts: Parts, scores: Scores) -> Scores:
    """Those of the parts' groups, on the CPU. ScoreError for one that is missing or does not fit."""
    both = _both(parts)
    missing = [name for name in both if name not in scores]
    if missing:
        raise ScoreError(f"no scores of '{missing[0]}', {len(missing)} missing; take mtp.score(segmenter, parts).")
    return Scores(checked_scores(both, {name: scores[name] for name in both}))


def _left(scores: Scores, ratio: float) -> dict[str, int]:
    """How many channels of each group are above the threshold."""
    owner_N = torch.cat([torch.full((len(s),), i) for i, s in enumerate(scores.values())])
    order_N = torch.cat(list(scores.values())).argsort(stable=True)
    stays_N = owner_N[order_N[round(ratio * len(order_N)) :]]
    return dict(zip(scores, torch.bincount(stays_N, minlength=len(scores)).tolist(), strict=True))


def _quantile(score_N: torch.Tensor, ratio: float) -> float:
    count = round(ratio * len(score_N))
    return float(score_N.sort().values[count - 1]) if count else 0.0


def _fractions(percentage: Percentage, how: How) -> tuple[float, float]:
    if how not in ("independent", "unified"):
        raise InputError(f"how is 'independent' or 'unified', got {how!r}.")
    pair = percentage if isinstance(percentage, tuple) else (percentage, percentage)
    if len(pair) != 2 or not all(isinstance(p, (int, float)) and 0 <= p < 1 for p in pair):
        raise InputError(f"percentage is {percentage!r}; give the fraction to remove, in [0, 1), or a pair of them.")
    if how == "unified" and pair[0] != pair[1]:
        raise InputError(f"one threshold for both parts takes one percentage, got {percentage!r}.")
    return pair
