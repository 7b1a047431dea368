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
seed draws the order of training and the classifier's head. Runs that claims share are made once, in
out/mtp-MODEL-SEED; stop it and start it again: it goes on where it was.

Two comparisons. DeepLabV3 with crops of objects: nearly all of them are named rightly, and in so few steps the penalty
shrinks all scales alike and hardly reorders them, so that mtp and slimming cut nearly the same channels and differ in
the weights that stay. BiSeNet with patches: a first task that is hard and knows worlds that the streets do not, and a
penalty that lasts until many scales are exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from prunekit.course import claims
from prunekit.course.experiments import Row, carry_out, runs_of
from prunekit.course.mtp import data
from prunekit.course.mtp.lab import STAGES, Lab, Way
from prunekit.course.mtp.preset import Mtp, preset_of
from prunekit.train import classification_loss

METHODS = ("mtp", "slimming", "uniform", "thinet", "fpgm")
RIVALS = {"dense": Way("dense"), **{f"{name} {kept:g}x": Way(name, kept) for kept in (0.75, 0.5) for name in METHODS}}
OURS, SLIM = Way("mtp", 0.5), Way("slimming", 0.5)
WAYS: dict[str, dict[str, Way]] = {  # claim -> method in the ledger -> run; M6 depends on the network
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
}


def presets() -> dict[str, Mtp]:
    """Network -> the mini preset with shorter trainings and small batches of scenes, since there are many runs.

    alpha was chosen on other pictures (seeds 50 and 51). Crops: among 0.1, 0.13 and 0.2, by the mIoU right after a cut
    of half the channels: 0.41, 0.37 and 0.03, where scales had all gone to 0. Patches: with 0.03 and 120 steps none of
    mtp's scales in the backbone was 0, with 0.05 72 % were; with 0.036 and 160 steps 14 % were, and of slimming's more
    than 70 % near 0, so that the two can differ.
    """
    deep, fast = preset_of("mini"), preset_of("mini", "scenes-bisenet")
    return {
        deep.model: replace(
            deep,
            objects="crops",
            pretrain=replace(deep.pretrain, steps=60, batch=64),
            classify=replace(deep.classify, steps=60, batch=64, lr=0.02),
            segment=replace(deep.segment, steps=60, batch=8, lr=0.02),
            tune_classify=replace(deep.tune_classify, steps=30),
            tune_segment=replace(deep.tune_segment, steps=60, batch=8),
            settings=replace(deep.settings, alpha1=0.1, alpha2=0.1),
        ),
        fast.model: replace(
            fast,
            segment=replace(fast.segment, batch=4),
            tune_classify=replace(fast.tune_classify, steps=20, batch=32),
            tune_segment=replace(fast.tune_segment, steps=40, batch=8),
        ),
    }


def settings(given: Mtp) -> dict[str, Any]:
    """What all runs share: every training's (steps, batch), their learning rates, the alternation's settings."""
    names = ("pretrain", "classify", "segment", "tune_classify", "tune_segment")
    stretches = [getattr(given, name) for name in names]
    return {
        "model": given.model,
        "dataset": given.dataset,
        "objects": given.objects,
        **{name: [each.steps, each.batch] for name, each in zip(names, stretches, strict=True)},
        "lr": [each.lr for each in stretches],
        **asdict(given.settings),
    }


def ways(given: Mtp) -> dict[str, dict[str, Way]]:
    """Claim -> method in the ledger -> run; M6 asks for the stages that the network has, and all but the DeepLabV3 make
    only the runs that a claim's relations need.
    """
    deep = "deeplab" in given.model
    there = [stage for stage in STAGES if deep or stage != "image pooling"]
    every = {**WAYS, "M6": {f"{part} {kept:g}x": Way("mtp", kept) for kept in (0.75, 0.5) for part in there}}
    return every if deep else {claim: {n: w for n, w in of.items() if n in asked(claim)} for claim, of in every.items()}


def asked(claim: str) -> set[str]:
    """The methods that a relation of the claim names."""
    return {name for need in claims.known(claim).needs for name in (need.left, need.right) if isinstance(name, str)}


def trials(given: Mtp, names: Iterable[str], seeds: int) -> dict[tuple[int, Way], list[Row]]:
    """(seed, run) -> the records that it is for, seed by seed. InputError for a claim without runs, or no seed."""
    same = settings(given)
    return runs_of(names, ways(given), seeds=seeds, settings=lambda claim, way: same)


def run(names: Iterable[str], *, seeds: int, out: Path) -> None:
    """Do what the ledger does not hold yet, one record for every claim that a run is for, network by network."""
    names = tuple(names)
    for given in presets().values():
        _run(given, trials(given, names, seeds), out)


def _run(given: Mtp, todo: Mapping[tuple[int, Way], list[Row]], out: Path) -> None:
    @cache
    def sources() -> tuple[data.Source, data.Source]:
        return data.scenes(given, None), data.objects(given, None, classification_loss)  # not drawn for nothing

    def do(one: tuple[int, Way]) -> dict[str, Any]:
        seed, way = one
        return Lab(given, *sources(), seed, out / f"mtp-{given.model}-{seed}").measure(way)

    carry_out(todo, do, of=kept)


def kept(row: Row, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """M6 asks for the share of channels that one part of the network keeps, the others for everything."""
    return {"kept": found["kept"][row.method.rsplit(" ", 1)[0]]} if row.claim == "M6" else found
