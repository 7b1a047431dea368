"""What the papers' experiments share: stretches of training, pictures, measurements, presets by name, claims' runs.

A paper's own folder (course/sirfp, course/mtp, ...) holds what is its own: its preset, its road from data to a small
network, the runs behind its claims.
"""

from prunekit.course.experiments.clock import Clock
from prunekit.course.experiments.folder import same_run
from prunekit.course.experiments.measured import costs, first_process, own_device, segmentation
from prunekit.course.experiments.presets import Stretch, adamw, check_numbers, choose, pick_model
from prunekit.course.experiments.rows import Row, carry_out, runs_of
from prunekit.course.experiments.streets import READERS, pictures, whole_pictures
from prunekit.course.experiments.training import fetched, image_loader, training

__all__ = [
    "READERS",
    "Clock",
    "Row",
    "Stretch",
    "adamw",
    "carry_out",
    "check_numbers",
    "choose",
    "costs",
    "fetched",
    "first_process",
    "image_loader",
    "own_device",
    "pick_model",
    "pictures",
    "runs_of",
    "same_run",
    "segmentation",
    "training",
    "whole_pictures",
]
