"""Scales and what they mean: minutes of each lesson, and the settings of each experiment at mini, small and full.

mini: synthetic scenes, stored checkpoints, a laptop's CPU. small: real CamVid, one Colab T4. full: the papers' data,
model and length. A notebook and `prunekit run` read the same preset, so they cannot drift apart.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from prunekit.errors import InputError
from prunekit.plan import How

Scale = Literal["mini", "small", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)


@dataclass(frozen=True)
class Minutes:
    """Expected minutes: mini on 2 CPU cores, small on a Colab T4, full on one large GPU. None: no such run."""

    mini: float
    small: float | None = None
    full: float | None = None

    def at(self, scale: Scale) -> float | None:
        """Minutes at one scale."""
        return {"mini": self.mini, "small": self.small, "full": self.full}[scale]

    def __str__(self) -> str:
        where = {"mini": "2 CPU cores", "small": "Colab T4", "full": "one large GPU"}
        return " · ".join(f"{s}: {words(self.at(s))} ({where[s]})" for s in SCALES if self.at(s) is not None)


# The one place that says how long a lesson takes: notebooks, README and book are filled from here.
LESSONS: dict[str, Minutes] = {
    "00_quickstart": Minutes(mini=1.5, small=30),
    "01_segmentation_and_cost": Minutes(mini=1),
    "02_channel_surgery": Minutes(mini=0.75),
    "03_importance": Minutes(mini=2),
    "04_mtp": Minutes(mini=2),
    "05_sirfp": Minutes(mini=2),
    "06_bilevel": Minutes(mini=3),
    "07_dynasegformer": Minutes(mini=2),
    "08_eapruning": Minutes(mini=2.5),
    "09_deploy": Minutes(mini=2),
}


# What our own experiments in the ledger ask; the papers' claims are in course/claims.
CLAIMS: dict[str, str] = {
    "Q1": "lesson 00 on real streets: DeepLabV3 keeps its mIoU at half of its MACs",
    "sirfp": "prunekit run sirfp: the whole road, with pre-training and cuts in steps",
    "mtp": "prunekit run mtp: the whole road, with both tasks trained in turn",
    "bilevel": "prunekit run bilevel: the whole road, search and fine-tuning",
    "dynasegformer": "prunekit run dynasegformer: the whole road, gates and two-stage distillation",
    "eapruning": "prunekit run eapruning: the whole road, search and training of the chosen",
    "bench": "the fair bench: every criterion at equal work and equal fine-tuning",
}


@dataclass(frozen=True)
class Quickstart:
    """Lesson 00's settings. size: (height, width) of a training image or crop, pixels.

    train_steps: steps that make the dense model, 0 = the stored checkpoint. tune_steps: after pruning. batch: images a
    step. lr: AdamW's. macs_ratio: fraction of the work to remove. round_to: kept channels are a multiple of it.
    """

    dataset: str
    size: tuple[int, int]
    train_steps: int
    tune_steps: int
    batch: int
    lr: float
    macs_ratio: float = 0.5
    round_to: int = 8


QUICKSTART: dict[Scale, Quickstart] = {
    "mini": Quickstart("scenes", (64, 128), 0, 200, 8, 0.003),
    "small": Quickstart("camvid", (240, 320), 2000, 800, 8, 0.003),
    "full": Quickstart("camvid", (360, 480), 20000, 10000, 16, 0.003),
}


@dataclass(frozen=True)
class Bench:
    """What `prunekit run bench` compares: every method at every ratio with every seed 0 .. seeds - 1.

    training: data, dense network and fine-tuning, equal for all. model: a name from models/zoo.py. ratios: fractions
    of the MACs to remove. how: the planner, see plan.budget_plan. score_batches: batches of training images that a
    criterion may look at. methods: empty means all.
    """

    training: Quickstart
    model: str = "deeplabv3_mini"
    methods: tuple[str, ...] = ()
    ratios: tuple[float, ...] = (0.5, 0.75, 0.9)
    seeds: int = 3
    how: How = "uniform"
    score_batches: int = 4


BENCH: dict[Scale, Bench] = {
    "mini": Bench(replace(QUICKSTART["mini"], tune_steps=150, batch=16, round_to=4)),
    "small": Bench(QUICKSTART["small"]),
    "full": Bench(QUICKSTART["full"]),
}


def read_scale(name: str | None = None) -> Scale:
    """`name`, else the environment's PRUNEKIT_SCALE, else "mini". InputError for anything else."""
    given = name if name is not None else os.environ.get("PRUNEKIT_SCALE") or "mini"
    if given not in SCALES:
        source = "scale" if name is not None else "PRUNEKIT_SCALE"
        raise InputError(f"{source} is {given!r}; choose mini (a laptop), small (real data, one GPU) or full.")
    return cast(Scale, given)


def lesson_minutes(lesson: str) -> Minutes:
    """Expected minutes of a lesson by its file name; InputError with the known names otherwise."""
    if lesson not in LESSONS:
        raise InputError(f"no lesson {lesson!r}; known: {', '.join(LESSONS)}. Add it to prunekit/course/presets.py.")
    return LESSONS[lesson]


def words(minutes: float | None) -> str:
    """90 s, 2 min 30 s, 3 min, 12 h: a duration a person reads at a glance."""
    if minutes is None:
        return "-"
    if minutes < 2:
        return f"{round(minutes * 60)} s"
    if minutes < 10:
        whole, half = divmod(round(2 * minutes), 2)
        return f"{whole} min" + " 30 s" * half
    return f"{round(minutes)} min" if minutes < 120 else f"{round(minutes / 60)} h"
