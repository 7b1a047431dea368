"""The runs behind the claims of bi-level pruning at mini scale: ways to choose channels, with equal steps around them.

    prunekit run claims B1 B2 B3 B4 B5 --record

All start from one stored network and take as many steps on the same pictures, in the same order for a seed:

    bilevel    weights and masks together      cut   fine-tuning
    regrow     weights, units close and open   cut   the same      (in the manner of CHEX, by batch-norm scales)
    eagleeye   weights                         cut   the same      (best of some random strategies, by L1 norms)
    l1         weights                         cut   the same      (the same share of every layer)
    dense      weights                               the same

What the plans remove is equal to within a unit's work, so methods are compared at equal measured MACs. Runs that claims
share are made once, in out/bilevel-NETWORK-SEED; stop it and start it again: it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunekit.course.bilevel.lab import Budget, Lab, Way
from prunekit.course.experiments import Row, carry_out, runs_of
from prunekit.course.tasks import load_task
from prunekit.methods.bilevel import MaskConfig

MOBILENET = "deeplabv3plus_mini"
# 30 steps of masks at 0.1 move as far as the mini preset's 150 at 0.02
BUDGET = Budget(search=30, tune=15, batch=8, lr=0.002, mask_lr=0.1)
RIVALS = ("bilevel", "regrow", "eagleeye", "l1")
OURS, MOBILE = Way("bilevel"), Way("bilevel", MOBILENET, ratio=0.55)
BETA, LAM = MaskConfig.beta, MaskConfig.lam
WAYS: dict[str, dict[str, Way]] = {  # claim -> method in the ledger -> run
    "B1": {name: Way(name) for name in RIVALS},
    "B2": {"implicit": OURS, "without": Way("bilevel", implicit=False)},
    "B3": {
        "default": MOBILE,
        "beta / 10": replace(MOBILE, beta=BETA / 10),
        "beta x 10": replace(MOBILE, beta=BETA * 10),
        "lambda / 10": replace(MOBILE, lam=LAM / 10),
        "lambda x 10": replace(MOBILE, lam=LAM * 10),
    },
    "B4": {name: Way(name, speed=True) for name in RIVALS},
    "B5": {
        "dense": Way("dense", MOBILENET, ratio=0.0),
        "bilevel −20 %": Way("bilevel", MOBILENET, ratio=0.2),
        **{f"{name} −55 %": replace(MOBILE, method=name) for name in ("bilevel", "eagleeye", "l1")},
    },
}


def settings(claim: str, way: Way) -> dict[str, Any]:
    """What a claim's runs share."""
    same = {"model": way.network, "dataset": "scenes", "test_pictures": 100}
    if claim != "B5":  # its methods remove different shares
        same |= {"macs_ratio": way.ratio}
    if way.speed:
        return {
            **same,
            "image": list(BUDGET.image),
            "threads": 1,
            "device": "cpu",
            "clock": "cpu",
            "passes": BUDGET.passes,
        }
    steps = {"steps": [BUDGET.search, BUDGET.tune], "batch": BUDGET.batch, "lr": BUDGET.lr, "mask_lr": BUDGET.mask_lr}
    return {**same, **steps, "candidates": BUDGET.candidates}


def trials(claims: Iterable[str], seeds: int) -> dict[tuple[int, Way], list[Row]]:
    """(seed, run) -> the records that it is for, seed by seed. InputError for a claim without runs, or no seed."""
    return runs_of(claims, WAYS, seeds=seeds, settings=settings)


def run(claims: Iterable[str], *, seeds: int, out: Path) -> None:
    """Do what the ledger does not hold yet, one record for every claim that a run is for."""
    todo, task = trials(claims, seeds), load_task("scenes", test_count=100)

    def do(one: tuple[int, Way]) -> dict[str, Any]:
        seed, way = one
        lab = Lab(way.network, task, BUDGET, seed, out / f"bilevel-{way.network}-{seed}")
        return lab.speeds(WAYS["B4"])[way.method] if way.speed else lab.measure(way)

    carry_out(todo, do)
