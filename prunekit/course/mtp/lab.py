"""One seed's runs from the dense networks to a tuned small one, every training kept in a folder and made once.

Rivals take the road of Eqs. 1 and 2, classification, then segmentation, so their backbone is the segmenter's; MTP has
two copies that agree.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.course.experiments import Stretch
from prunekit.course.mtp import data
from prunekit.course.mtp.choices import chosen, kept_share, score_batches
from prunekit.course.mtp.experiment import measured, trained, training
from prunekit.course.mtp.networks import backbone_path, classifier_of, segmenter_of
from prunekit.course.mtp.preset import Mtp
from prunekit.methods import mtp, slimming
from prunekit.methods.mtp.thresholds import How
from prunekit.plan import plan_macs
from prunekit.progressive import Training
from prunekit.reconstruct import reconstruct
from prunekit.surgery import find_groups, prune
from prunekit.train import finetune

STAGES = {
    "last stage": r"layer4",
    "other stages": r"layer[123]",
    "image pooling": r"branches\.4",
}  # patterns of groups' names


@dataclass(frozen=True)
class Way:
    """One run but for its seed. kept: share of the MACs. classify, segment: fine-tuning, times the preset's steps."""

    method: str
    kept: float = 1.0
    how: How = "independent"
    classify: float = 1.0
    segment: float = 1.0


@dataclass(frozen=True)
class Lab:
    """One seed's data and trainings. folder: their checkpoints."""

    preset: Mtp
    pictures: data.Source
    things: data.Source
    seed: int
    folder: Path

    def learn(self, stretch: Stretch, source: data.Source) -> Training:
        return training(stretch, source, seed=self.seed, precision="no", workers=0)

    def measure(self, way: Way) -> dict[str, Any]:
        """All of a run: what the small networks can do, and what is left of the dense ones."""
        classifier, segmenter = self.sparse(way.method)
        groups, parts = split(segmenter, self.preset)
        batches = score_batches(self.pictures.train, self.seed)
        plan = chosen(way.method, classifier, segmenter, groups, parts, batches, kept=way.kept, how=way.how)
        small = self.cut(way.method, classifier, segmenter, groups, parts, plan, batches)
        before, after = self.look(*small), self.look(*self.tune(way, *small))
        macs, dense = plan_macs(groups, plan), plan_macs(groups, PruningPlan({}, {}))
        return {
            **after,
            **{f"{name}_before_tuning": before[name] for name in ("miou", "top1")},
            "macs": macs,
            "macs_share": macs / dense,
            "widths": {name: len(keep) for name, keep in plan.keep.items()},
            "near_zero": near_zero(mtp.score(segmenter, parts, classifier=classifier), parts),
            "kept": {stage: kept_share(plan, pattern) for stage, pattern in stages(groups).items()},
        }

    def start(self) -> tuple[nn.Module, nn.Module]:
        """A classifier that has learnt to classify, and the stored segmenter with its backbone."""
        segmenter = segmenter_of(self.preset, self.pictures.classes, seed=self.seed)
        classifier = classifier_of(self.preset, segmenter, self.things.classes, seed=self.seed)
        task = self.learn(self.preset.pretrain, self.things)
        learnt = trained(classifier, task, self.folder / "pretrain")
        return learnt, mtp.with_backbone(segmenter, learnt, backbone_path(segmenter))

    def sparse(self, method: str) -> tuple[nn.Module, nn.Module]:
        """Both networks before the cut."""
        classifier, segmenter = self.start()
        classify, segment = (
            self.learn(self.preset.classify, self.things),
            self.learn(self.preset.segment, self.pictures),
        )
        groups, parts = split(segmenter, self.preset)
        if method == "mtp":
            folder = self.folder / "mtp"
            found = mtp.alternate(
                classifier, segmenter, parts, classify, segment, self.preset.settings, checkpoint=folder
            )
            return found.classifier, found.segmenter
        classifier = trained(classifier, classify, self.folder / "classify")
        segmenter = mtp.with_backbone(segmenter, classifier, parts.path)
        may_go = groups.only([*parts.backbone, *parts.decoder])
        penalty = partial(slimming.penalty, groups=may_go, strength=self.preset.settings.alpha2)
        segmenter = finetune(
            segmenter,
            segment.loader,
            segment.config,
            loss_fn=segment.loss_fn,
            penalty=penalty if method == "slimming" else None,
            checkpoint=self.folder / ("slimming" if method == "slimming" else "segment"),
        ).model
        return with_body(classifier, segmenter, parts.path), segmenter

    def cut(
        self,
        method: str,
        classifier: nn.Module,
        segmenter: nn.Module,
        groups: Groups,
        parts: mtp.Parts,
        plan: PruningPlan,
        batches: list[Any],
    ) -> tuple[nn.Module, nn.Module]:
        """Both networks without the plan's channels; only MTP's have backbones of their own."""
        side = self.preset.side
        own = find_groups(classifier, torch.zeros(1, 3, side, side))
        first = prune(classifier, own, mtp.classifier_plan(plan, parts))
        second = prune(segmenter, groups, plan)
        if method == "thinet":
            second = reconstruct(segmenter, second, groups, plan, batches)
        return (first if method == "mtp" else with_body(first, second, parts.path)), second

    def tune(self, way: Way, classifier: nn.Module, segmenter: nn.Module) -> tuple[nn.Module, nn.Module]:
        """Classification, then segmentation, as `mtp.retrain` does, either for longer or not at all."""
        first, second = self.preset.tune_classify, self.preset.tune_segment
        folder = self.folder / f"{way.method}-{way.kept:g}-{way.how}-{way.classify:g}-{way.segment:g}"
        if way.classify:
            task = self.learn(replace(first, steps=round(way.classify * first.steps)), self.things)
            classifier = trained(classifier, task, folder / "classifier")
            segmenter = mtp.with_backbone(segmenter, classifier, backbone_path(segmenter))
        task = self.learn(replace(second, steps=round(way.segment * second.steps)), self.pictures)
        return classifier, trained(segmenter, task, folder / "segmenter")

    def look(self, classifier: nn.Module, segmenter: nn.Module) -> dict[str, Any]:
        """mIoU and top-1 on test images."""
        return measured(
            classifier, segmenter, preset=self.preset, pictures=self.pictures, things=self.things, workers=0
        )


def near_zero(scores: Scores, parts: mtp.Parts) -> dict[str, float]:
    """Which fraction of a part's scales is below 0.001 before the cut."""
    both = {"backbone": parts.backbone, "decoder": parts.decoder}
    return {
        part: (torch.cat([scores[name] for name in groups]) < 1e-3).float().mean().item()
        for part, groups in both.items()
    }


def stages(groups: Groups) -> dict[str, str]:
    """Those of STAGES that the network has."""
    return {stage: pattern for stage, pattern in STAGES.items() if any(re.search(pattern, name) for name in groups)}


def split(segmenter: nn.Module, given: Mtp) -> tuple[Groups, mtp.Parts]:
    """The segmenter's groups, and those that may go."""
    groups = find_groups(segmenter, torch.zeros(1, 3, *given.size))
    return groups, mtp.split(segmenter, groups, backbone_path(segmenter))


def with_body(classifier: nn.Module, segmenter: nn.Module, path: str) -> nn.Module:
    """A copy of the classifier with the segmenter's backbone: `mtp.with_backbone` the other way round."""
    new = copy.deepcopy(classifier)
    new.get_submodule("backbone").load_state_dict(segmenter.get_submodule(path).state_dict())
    return new
