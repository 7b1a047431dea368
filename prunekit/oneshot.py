"""slim: the whole road in one call, for people in a hurry. groups -> score -> plan -> cut -> certificate -> report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from prunekit.core import Groups, Profile, PruningPlan, Scores
from prunekit.errors import InputError
from prunekit.methods import l1
from prunekit.plan import How, Limits, budget_plan
from prunekit.profiling import latency_ms, profile
from prunekit.surgery import Certificate, check_equivalence, find_groups, prune


@dataclass(frozen=True)
class Slimmed:
    """What `slim` returns; `print` it for the report.

    model: the small network, not yet fine-tuned. plan: who stays (save it: with the dense model it rebuilds the small
    one). groups: what the plan speaks about. certificate: proof that the cut was exact. before, after: the costs.
    """

    model: nn.Module
    plan: PruningPlan
    groups: Groups
    certificate: Certificate
    before: Profile
    after: Profile

    def __str__(self) -> str:
        a, b = self.before, self.after
        lines = [
            f"{'':<12}{'before':>12}{'after':>12}{'after/before':>14}",
            f"{'params (M)':<12}{a.params / 1e6:>12.3f}{b.params / 1e6:>12.3f}{b.params / a.params:>14.2f}",
            f"{'MACs (M)':<12}{a.macs / 1e6:>12.1f}{b.macs / 1e6:>12.1f}{b.macs / a.macs:>14.2f}",
        ]
        if a.latency_ms and b.latency_ms:
            ratio = b.latency_ms / a.latency_ms
            lines.append(f"{'latency (ms)':<12}{a.latency_ms:>12.2f}{b.latency_ms:>12.2f}{ratio:>14.2f}")
        cut = sum(len(kept) < self.plan.sizes[name] for name, kept in self.plan.keep.items())
        lines += [f"{cut} of {len(self.groups)} groups cut on {a.device}", str(self.certificate)]
        return "\n".join([*lines, "next: fine-tune it (prunekit.train.finetune), then measure its accuracy."])


def slim(
    model: nn.Module,
    x: Tensor,
    *,
    macs_ratio: float = 0.5,
    score: Callable[[nn.Module, Groups], Scores] = l1.score,
    how: How = "uniform",
    limits: Limits | None = None,
    freeze: Iterable[str] = (),
) -> Slimmed:
    """Remove `macs_ratio` of a model's multiply-accumulates, and prove that nothing else changed.

    x: an example batch, e.g. (1, 3, H, W), on the model's device. score: any criterion with the signature
    (model, groups) -> Scores. how, limits: as in budget_plan; left alone, every group gives the same share and widths
    are multiples of 8, which devices like. freeze: layers that must keep their size. The model is
    left untouched. Raises the errors of find_groups, budget_plan, prune and check_equivalence.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {model!r}; build it first, e.g. timm.create_model('resnet50').")
    if not callable(score):
        raise InputError(f"score is {score!r}; pass a function, e.g. `from prunekit.methods import l1` and l1.score.")
    groups = find_groups(model, x, freeze=freeze)
    plan = budget_plan(
        groups, score(model, groups), macs_ratio=macs_ratio, how=how, limits=limits or Limits(round_to=8)
    )
    small = prune(model, groups, plan)
    certificate = check_equivalence(model, small, groups, plan, x)
    times = latency_ms({"before": model, "after": small}, x)
    before, after = (
        Profile(p.params, p.macs, p.peak_bytes, times[name], p.device, p.input_shape)
        for name, p in (("before", profile(model, x, latency=False)), ("after", profile(small, x, latency=False)))
    )
    return Slimmed(small, plan, groups, certificate, before, after)
