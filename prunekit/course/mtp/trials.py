"""The runs behind MTP's claims at mini scale: five ways to choose channels, with the same training around them.

    prunekit run claims M1 M2 M3 M4 M5 M6 --record

All start from one classifier and one segmenter with its backbone, and take as many steps on each task, on the same
images in the same order for a seed:

    mtp         both tasks in turn, coupled and with a penalty on the scales     cut   classification, segmentation
    slimming    classification, then segmentation with that penalty              cut   the same
    the others  classification, then segmentation                                cut   the same
    dense       classification, then segmentation                                      the same

The same channels may go in all. mtp and slimming cut where scales are small, at two thresholds; uniform (by L1 norms),
thinet (with its repair) and fpgm take the same fraction of every layer; each until its share of the MACs is left. A
seed draws the order of training and the classifier's head. Runs that claims share are made once, in out/mtp-SEED; stop
it and start it again: it goes on where it was.

Read M1, M3, M5 and M6 with this in mind: in so few steps the penalty shrinks all scales alike and hardly reorders them,
so that mtp and slimming cut nearly the same channels and differ in the weights that stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunekit.course.experiments import Row, carry_out, runs_of
from prunekit.course.mtp import data
from prunekit.course.mtp.lab import STAGES, Lab, Way
from prunekit.course.mtp.preset import Mtp, preset_of
from prunekit.train import classification_loss

METHODS = ("mtp", "slimming", "uniform", "thinet", "fpgm")
RIVALS = {"dense": Way("dense"), **{f"{name} {kept:g}x": Way(name, kept) for kept in (0.75, 0.5) for name in METHODS}}
OURS, SLIM = Way("mtp", 0.5), Way("slimming", 0.5)
WAYS: dict[str, dict[str, Way]] = {  # claim -> method in the ledger -> run
    "M1": RIVALS,
    "M2": {
        "dense": RIVALS["dense"],
        "slimming with": SLIM,
        "slimming without": replace(SLIM, classify=0),
        "slimming without, as long": replace(SLIM, classify=0, segment=1.5),  # 30 steps of segmentation instead
        "mtp with": OURS,
        "mtp without": replace(OURS, classify=0),
    },
    "M3": {f"{w.method} {how}": replace(w, how=how) for w in (SLIM, OURS) for how in ("unified", "independent")},
    "M4": {
        "standard": OURS,
        "segmentation x0.5": replace(OURS, segment=0.5),
        "segmentation x2": replace(OURS, segment=2),
        "no classification": replace(OURS, classify=0),
        "classification x3": replace(OURS, classify=3),
    },
    "M5": RIVALS,
    "M6": {f"{part} {kept:g}x": Way("mtp", kept) for kept in (0.75, 0.5) for part in STAGES},
}


def preset() -> Mtp:
    """The mini preset with shorter trainings and half its batch of scenes, since there are many.

    alpha was chosen among 0.1, 0.13 and 0.2 on other scenes (seeds 50 and 51), by the mIoU right after a cut of half
    the channels: 0.41, 0.37 and 0.03, where scales had all gone to 0.
    """
    mini = preset_of("mini")
    return replace(
        mini,
        classify=replace(mini.classify, steps=60),
        segment=replace(mini.segment, steps=60, batch=8),
        tune_classify=replace(mini.tune_classify, steps=30),
        tune_segment=replace(mini.tune_segment, steps=60, batch=8),
        settings=replace(mini.settings, alpha1=0.1, alpha2=0.1),
    )


def settings(given: Mtp) -> dict[str, Any]:
    """What all runs share: of every training (steps, batch), in their order."""
    stretches = (given.pretrain, given.classify, given.segment, given.tune_classify, given.tune_segment)
    names = ("pretrain", "classify", "segment", "tune_classify", "tune_segment")
    alternation = {name: getattr(given.settings, name) for name in ("rounds", "alpha1", "alpha2", "mu", "rho")}
    return {
        "model": given.model,
        "dataset": given.dataset,
        **{name: [each.steps, each.batch] for name, each in zip(names, stretches, strict=True)},
        **alternation,
    }


def trials(claims: Iterable[str], seeds: int) -> dict[tuple[int, Way], list[Row]]:
    """(seed, run) -> the records that it is for, seed by seed. InputError for a claim without runs, or no seed."""
    same = settings(preset())
    return runs_of(claims, WAYS, seeds=seeds, settings=lambda claim, way: same)


def run(claims: Iterable[str], *, seeds: int, out: Path) -> None:
    """Do what the ledger does not hold yet, one record for every claim that a run is for."""
    given, todo = preset(), trials(claims, seeds)
    pictures, things = data.scenes(given, None), data.objects(given, None, classification_loss)

    def do(one: tuple[int, Way]) -> dict[str, Any]:
        seed, way = one
        return Lab(given, pictures, things, seed, out / f"mtp-{seed}").measure(way)

    carry_out(todo, do, of=kept)


def kept(row: Row, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """M6 asks for the share of channels that one part of the network keeps, the others for everything."""
    return {"kept": found["kept"][row.method.rsplit(" ", 1)[0]]} if row.claim == "M6" else found
