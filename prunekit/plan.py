"""From scores to a plan: how many units each group keeps, and which.

uniform_plan takes the same share from every group, global_plan ranks all units of the network together, budget_plan
searches the share that meets a target on MACs, parameters or measured latency. `ratio` is always the fraction removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prunekit.core import ChannelGroup, Groups, PruningPlan, Scores
from prunekit.errors import BudgetError, InputError, ScoreError
from prunekit.profiling import latency_ms
from prunekit.surgery import prune

How = Literal["uniform", "global"]
Normalize = Literal["mean", "none"]
BLOCK, WIDE = 8, 32  # channels: what kernels compute in, and from where on a plan keeps to it by itself


@dataclass(frozen=True)
class Limits:
    """What every plan must respect.

    round_to: kept channels are a multiple of it (of heads as many as make one). None: of 8 in groups of 32 channels and
    more, since that is what kernels compute in (the book's page on devices has MobileNetV1's times, rounded and not);
    narrower groups go channel by channel, they could hardly lose anything in 8s. 1: widths as they fall. min_keep:
    units that stay in each group at least. max_ratio: at most this fraction of a group goes.
    """

    round_to: int | None = None
    min_keep: int = 1
    max_ratio: float = 0.9

    def __post_init__(self) -> None:
        counts = (BLOCK if self.round_to is None else self.round_to, self.min_keep)
        if not all(type(count) is int and count >= 1 for count in counts):
            raise InputError(
                f"round_to and min_keep are whole numbers from 1 on, got {self.round_to!r} and {self.min_keep!r}."
            )
        _check_ratio("max_ratio", self.max_ratio)

    def step(self, size: int, channels: int = 1) -> int:
        """Units that go together in a group of `size`, each `channels` wide: of heads of 16 channels, single ones."""
        wide = BLOCK if size * channels >= WIDE else 1
        return math.ceil((self.round_to or wide) / channels)

    def kept(self, size: int, wanted: float, *, channels: int = 1) -> int:
        """The allowed number of units nearest to `wanted` out of `size`; each unit is `channels` wide."""
        floor, step = max(self.min_keep, math.ceil(size * (1 - self.max_ratio) - 1e-9)), self.step(size, channels)
        return min(size, max(round(wanted / step), math.ceil(floor / step)) * step)


@runtime_checkable
class LatencyModel(Protocol):
    """What knows its own best plan for a share of its time: `prunekit.latency.LatencyTable`."""

    def plan(self, groups: Groups, scores: Scores, ratio: float, limits: Limits | None = None) -> PruningPlan:
        """The plan that takes at least `ratio` off the time."""
        ...


def uniform_plan(groups: Groups, scores: Scores, ratio: float, *, limits: Limits | None = None) -> PruningPlan:
    """Remove the same fraction of every scored group, the lowest scores first.

    scores: group -> (U,), higher = keep; groups without scores stay whole. Raises InputError (ratio outside [0, 1)),
    ScoreError (NaN, wrong length) and GroupError (unknown or frozen group).
    """
    _check_ratio("ratio", ratio)
    limits = limits or Limits()
    scores = checked_scores(groups, scores)
    counts = {name: _kept(groups[name], limits, groups[name].size * (1 - ratio)) for name in scores}
    return keep_best(groups, scores, counts, f"uniform, ratio {ratio:g}")


def global_plan(
    groups: Groups, scores: Scores, ratio: float, *, normalize: Normalize = "mean", limits: Limits | None = None
) -> PruningPlan:
    """Remove this fraction of all scored units of the network, the lowest scores first wherever they are.

    normalize: "mean" divides each group's scores by their mean (where that is above 0), so that layers with large
    weights do not win by scale; "none" compares them as they are. Raises as uniform_plan does.
    """
    _check_ratio("ratio", ratio)
    limits = limits or Limits()
    scores = checked_scores(groups, scores)
    flat = torch.cat([_normalized(s, normalize) for s in scores.values()])
    owner = torch.cat([torch.full((len(s),), i) for i, s in enumerate(scores.values())])
    low = flat.argsort(stable=True)[: round(ratio * len(flat))]
    removed = torch.bincount(owner[low], minlength=len(scores)).tolist()
    counts = {n: _kept(groups[n], limits, groups[n].size - r) for n, r in zip(scores, removed, strict=True)}
    return keep_best(groups, scores, counts, f"global, ratio {ratio:g}")


def budget_plan(
    groups: Groups,
    scores: Scores,
    *,
    macs_ratio: float | None = None,
    params_ratio: float | None = None,
    latency_ratio: float | None = None,
    latency: Callable[[PruningPlan], float] | LatencyModel | None = None,
    how: How = "global",
    normalize: Normalize = "mean",
    limits: Limits | None = None,
) -> PruningPlan:
    """The gentlest uniform or global plan that removes at least the given fraction of one cost.

    Give exactly one of macs_ratio, params_ratio and latency_ratio. MACs (see plan_macs) and parameters are counted from
    `groups`. For latency pass latency(plan) -> time, e.g. `plan.latency_of(model, groups, x)`, or a table of layers
    (`prunekit.latency.latency_table`), which weighs importance against milliseconds by itself (how is not used then).
    normalize: of a global plan, see global_plan.
    Raises BudgetError with the reachable ratio when the limits do not allow the target; else as uniform_plan.
    """
    given = {"macs": macs_ratio, "params": params_ratio, "latency": latency_ratio}
    targets = {kind: ratio for kind, ratio in given.items() if ratio is not None}
    if len(targets) != 1:
        raise InputError(
            f"give exactly one of macs_ratio, params_ratio, latency_ratio; got {sorted(targets) or 'none'}."
        )
    makers = {"uniform": uniform_plan, "global": partial(global_plan, normalize=normalize)}
    if how not in makers:
        raise InputError(f"how is 'uniform' or 'global', got {how!r}.")
    (kind, target), make = targets.popitem(), makers[how]
    _check_ratio(f"{kind}_ratio", target)
    if (kind == "latency") != (latency is not None):
        raise InputError("latency_ratio and latency go together; latency is e.g. plan.latency_of(model, groups, x).")
    if isinstance(latency, LatencyModel):
        return latency.plan(groups, scores, target, limits)
    cost = {"macs": lambda p: plan_macs(groups, p), "params": lambda p: plan_params(groups, p), "latency": latency}[
        kind
    ]
    plan = _bisect(lambda ratio: make(groups, scores, ratio, limits=limits), cost, kind, target)
    return PruningPlan(plan.sizes, plan.keep, f"{how} plan for {target:.0%} of {kind} removed ({plan.note})")


def _bisect(
    make: Callable[[float], PruningPlan], cost: Callable[[PruningPlan], float], kind: str, target: float
) -> PruningPlan:
    """The smallest ratio whose plan meets the target, to a 4096th; a plan that meets it is always returned."""
    dense = cost(make(0.0))
    low, high, steps = 0.0, 1.0 - 2.0**-20, 12
    best = make(high)
    reachable = 1 - cost(best) / dense
    if reachable < target:
        raise BudgetError(
            f"asked to remove {target:.2%} of the {kind}, but within the limits {reachable:.1%} is the most. Ask for "
            "less, raise Limits(max_ratio=...), lower its round_to (narrow layers cannot lose 8), or score more groups."
        )
    for _ in range(steps):
        middle = (low + high) / 2
        plan = make(middle)
        if 1 - cost(plan) / dense >= target:
            best, high = plan, middle
        else:
            low = middle
    return best


def plan_macs(groups: Groups, plan: PruningPlan) -> int:
    """MACs after the plan, for the example input that `groups` was found with; no model needed.

    Exact for layers with weights and for products of whole heads. Products whose heads and inner size shrink in other
    ways (factorised attention) count as they were: measure such a model with `profiling.count_macs`.
    """
    shapes = plan_shapes(groups, plan)
    weights = sum(math.prod(shapes[w]) * p for w, p in groups.positions.items())
    kept = {name: len(plan.keep.get(name, range(groups[name].size))) for name in groups.unit_macs}
    return round(weights + sum(macs * kept[name] for name, macs in groups.unit_macs.items()) + groups.other_macs)


def plan_params(groups: Groups, plan: PruningPlan) -> int:
    """Parameters after the plan (buffers such as running statistics are not counted)."""
    shapes = plan_shapes(groups, plan)
    return sum(math.prod(shapes[name]) for name in groups.parameters)


def plan_shapes(groups: Groups, plan: PruningPlan) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape after the plan."""
    plan.check(groups)
    shapes = {name: list(shape) for name, shape in groups.shapes.items()}
    for name, keep in plan.keep.items():
        removed = groups[name].size - len(keep)
        for member in groups[name].members:
            shapes[member.tensor][member.dim] -= removed * member.index.shape[1]
    return {name: tuple(shape) for name, shape in shapes.items()}


def keep_best(groups: Groups, scores: Mapping[str, Tensor], counts: dict[str, int], note: str) -> PruningPlan:
    """The plan that keeps the `counts` highest scores of each group."""
    keep = {}
    for name, score in scores.items():
        best = score.argsort(descending=True, stable=True)[: counts[name]]
        keep[name] = tuple(sorted(best.tolist()))
    return PruningPlan({name: groups[name].size for name in keep}, keep, note)


def _kept(group: ChannelGroup, limits: Limits, wanted: float) -> int:
    return limits.kept(group.size, wanted, channels=group.channels())


def _normalized(score: Tensor, how: Normalize) -> Tensor:
    if how not in ("mean", "none"):
        raise InputError(f"normalize is 'mean' or 'none', got {how!r}.")
    mean = score.mean()
    return score / mean if how == "mean" and mean > 0 else score


def checked_scores(groups: Groups, scores: Scores) -> dict[str, Tensor]:
    """The scores in float64 on the CPU; ScoreError or GroupError when they do not fit the groups."""
    if not isinstance(scores, Mapping) or not isinstance(groups, Groups):
        raise ScoreError(
            f"scores is a {type(scores).__name__}, groups a {type(groups).__name__}; pass what find_groups(model, x) "
            "returned, and then a dict {group name: tensor (units,)}, e.g. l1.score(model, groups)."
        )
    if not scores:
        why = "; ".join(f"'{name}' stays: {reason}" for name, reason in list(groups.frozen.items())[:3])
        raise ScoreError(f"no scores: nothing to rank. The model has {len(groups)} groups. {why}".strip())
    out = {}
    for name, score in scores.items():
        size = groups[name].size  # GroupError when unknown or frozen
        if not isinstance(score, Tensor) or score.is_complex():
            what = score.dtype if isinstance(score, Tensor) else f"a {type(score).__name__}"
            raise ScoreError(f"the scores of '{name}' are {what}; pass a tensor of {size} real numbers.")
        if tuple(score.shape) != (size,):
            raise ScoreError(
                f"'{name}' has {size} units but its scores are {tuple(score.shape)}; give one number a unit."
            )
        if not torch.isfinite(score).all():
            bad = int((~torch.isfinite(score)).nonzero()[0])
            raise ScoreError(
                f"the score of unit {bad} in '{name}' is {score[bad].item()}: are there NaN weights or inputs?"
            )
        out[name] = score.detach().cpu().double()
    return out


def _check_ratio(name: str, ratio: float) -> None:
    if not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
        raise InputError(f"{name} is the fraction to remove, from 0 up to but not 1; got {ratio!r}.")


def latency_of(model: nn.Module, groups: Groups, x: Tensor, *, repeats: int = 15) -> Latency:
    """latency(plan) for `budget_plan(latency_ratio=...)`: prunes for real and times it against the dense model.

    It returns the median time of the pruned model relative to the dense one, the two timed in turns, so that a machine
    that slows down slows both. Noisy by nature: two calls differ by a few percent.
    """
    return Latency(model, groups, x, repeats)


@dataclass(frozen=True, eq=False, repr=False)
class Latency:
    """plan -> relative time, see latency_of."""

    model: nn.Module
    groups: Groups
    x: Tensor
    repeats: int = 15

    def __call__(self, plan: PruningPlan) -> float:
        pair = {"dense": self.model, "pruned": prune(self.model, self.groups, plan)}
        times = latency_ms(pair, self.x, repeats=self.repeats)
        return times["pruned"] / times["dense"]

    def describe(self) -> str:
        """The same text for what is measured alike; the times still differ."""
        kind, size = type(self.model).__name__, "x".join(map(str, self.x.shape))
        how = f"{str(self.x.dtype).removeprefix('torch.')} on {self.x.device.type}, {torch.get_num_threads()} threads"
        return f"latency of {kind} for {size} {how}, median of {self.repeats}"
