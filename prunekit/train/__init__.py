"""Training: `finetune` and what it takes. One process, many GPUs or many machines, by Accelerate.

Files, in reading order: config (the settings, the schedule, the optimizer), loss (what is minimised), gsrl (another
loss, for class-balanced crops), batches (which samples step n sees), observer (who looks on), step (one step), loop
(all of them), checkpoint (how a run survives a crash), distill (a student and its teacher).
"""

from prunekit.train.config import TrainConfig, lr_at
from prunekit.train.distill import distill, soft_cross_entropy
from prunekit.train.gsrl import gsrl_loss
from prunekit.train.loop import Trained, finetune
from prunekit.train.loss import class_weights, classification_loss, segmentation_loss, valid_labels
from prunekit.train.observer import Observer
from prunekit.train.step import Step

__all__ = [
    "Observer",
    "Step",
    "TrainConfig",
    "Trained",
    "class_weights",
    "classification_loss",
    "distill",
    "finetune",
    "gsrl_loss",
    "lr_at",
    "segmentation_loss",
    "soft_cross_entropy",
    "valid_labels",
]
