"""After the cut: the small backbone learns to classify, then the small network to segment (Algorithm 1, step 11).

Table 1 of the paper is why: a pruned backbone has forgotten part of its pre-training, and the segmentation set is too
small to teach it again.
"""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from prunekit.core import PruningPlan
from prunekit.methods.mtp.parts import Parts, backbone_of, check_backbones, submodule
from prunekit.progressive import Training
from prunekit.train import finetune

ALIKE = "Build both with the same arguments, and cut both: the classifier with classifier_plan(plan, parts)."


def classifier_plan(plan: PruningPlan, parts: Parts) -> PruningPlan:
    """The plan's part for the backbone, in the names of the classifier: prune(classifier, its groups, this)."""
    names = {name: f"backbone{name.removeprefix(parts.path)}" for name in parts.backbone if name in plan.keep}
    return PruningPlan(
        {names[n]: plan.sizes[n] for n in names},
        {names[n]: plan.keep[n] for n in names},
        f"the backbone of: {plan.note}",
    )


def with_backbone(segmenter: nn.Module, classifier: nn.Module, path: str = "backbone") -> nn.Module:
    """A copy of the segmenter with the weights and statistics of the classifier's backbone.

    Raises InputError when the backbones differ in names, shapes or types.
    """
    check_backbones(classifier, segmenter, path, ALIKE)
    new = copy.deepcopy(segmenter)
    submodule(new, path).load_state_dict(backbone_of(classifier).state_dict())
    return new


def retrain(
    classifier: nn.Module,
    segmenter: nn.Module,
    classify: Training,
    segment: Training,
    *,
    path: str = "backbone",
    folder: str | Path | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Fine-tune the small classifier, put its backbone into the small segmenter, fine-tune that. Returns both.

    folder: for checkpoints; there, the same call goes on where it was. Raises InputError when the backbones differ,
    before anything is trained, and the errors of finetune.
    """
    check_backbones(classifier, segmenter, path, ALIKE)
    folders = [Path(folder) / name if folder is not None else None for name in ("classifier", "segmenter")]
    small = finetune(
        classifier,
        classify.loader,
        classify.config,
        loss_fn=classify.loss_fn,
        count=classify.count,
        checkpoint=folders[0],
    ).model
    whole = with_backbone(segmenter, small, path)
    tuned = finetune(
        whole,
        segment.loader,
        segment.config,
        loss_fn=segment.loss_fn,
        count=segment.count,
        checkpoint=folders[1],
    ).model
    return small, tuned
