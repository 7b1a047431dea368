"""The runs behind DynaSegFormer's claims at mini scale: gates and their rivals, with the same training around them.

    prunekit run claims D1 D2 D3 D4 D5 --record

All start from one trained network, the teacher, with the additive decoder, which changes nothing; all train for as many
steps on the same images in the same order for a seed. A run without the features' stage trains on labels for as long.

    D1        30 and 50 %, as printed, against the same network without gates; and 50 % with the penalty summed over a
              layer's gates, as printed, instead of their mean
    D2        50 %, as printed, and 75 %, over one domain of scenes (day); 75 % over five too (night, fog, snow, desert
              besides), where the teacher is the day's, trained on for 150 steps on all of them
    D3, D4    75 %
    D4        beside the paper's four: the static rival closed at once, since annealing costs gates so much here
    D5        the gate of the first block's queries and keys, of the 50 % run of D1

A seed draws the gates' predictors and the order of training; the teacher and the test scenes are the same for all.
Runs that claims share are made once. Stop it and start it again: it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from prunekit.course.dynasegformer.experiment import costs, gated, statistics, task_of, train
from prunekit.course.dynasegformer.preset import Dyna, GateKind, Penalty, preset_of
from prunekit.course.experiments import Row, adamw, carry_out, image_loader, runs_of, segmentation
from prunekit.course.tasks import Task
from prunekit.models import zoo
from prunekit.models.segformer import SegFormer
from prunekit.train import finetune

STEPS, BATCH = 120, 8
ABLATION = 0.75  # sparsity of D2 to D4
SEVERAL = 5  # domains
ADAPT = adamw(150, 8, 0.002)  # of the teacher of several domains
KEY_LAYER = "encoder.stages.0.blocks.0.attention.qk_gate"
KINDS = ("type I", "type II", "type III")


@dataclass(frozen=True)
class Way:
    """One run but for its seed; see preset.Dyna."""

    gate: GateKind = "dynamic"
    sparsity: float = ABLATION
    features: bool = True
    soft: bool = True
    annealing: bool = True
    penalty: Penalty = "mean"
    domains: int = 1


PLAIN = Way(features=False, soft=False)
TWO = {
    "dynamic": Way(),
    "static": Way("static"),
    "dynamic, no distillation": PLAIN,
    "static, no distillation": replace(PLAIN, gate="static"),
}
MANY = {name: replace(way, domains=SEVERAL) for name, way in TWO.items()}
HALVES = {name: replace(way, sparsity=0.5) for name, way in TWO.items()}
HALF = HALVES["dynamic"]
WAYS: dict[str, dict[str, Way]] = {  # claim -> method in the ledger -> run; D2 is asked three times, see `trials`
    "D1": {
        "dense": Way("dense", sparsity=0.0),
        "30 %": Way(sparsity=0.3),
        "50 %": HALF,
        "50 %, summed penalty": replace(HALF, penalty="sum"),
    },
    "D2": TWO,
    "D3": {
        "both stages": TWO["dynamic"],
        "stage 1": Way(soft=False),
        "stage 2": Way(features=False),
        "none": TWO["dynamic, no distillation"],
    },
    "D4": {
        "annealed": TWO["dynamic"],
        "at once": Way(annealing=False),
        "annealed, no distillation": TWO["dynamic, no distillation"],
        "at once, no distillation": replace(PLAIN, annealing=False),
        "static, at once": Way("static", annealing=False),
    },
    "D5": dict.fromkeys(KINDS, HALF),
}


def settings(claim: str, way: Way) -> dict[str, Any]:
    """What the runs of a comparison share."""
    preset = preset_of("mini")
    same = {"model": preset.model, "dataset": preset.dataset, "domains": way.domains, "steps": STEPS, "batch": BATCH}
    same |= {"lr": preset.train.lr, "reduction": preset.reduction, "gain": preset.gain, "lambda_m": preset.weight}
    same |= {"lambda_s": preset.soft_weight}
    if claim == "D1":
        return same
    return {**same, "sparsity": way.sparsity, **({"layer": KEY_LAYER} if claim == "D5" else {})}


def trials(claims: Iterable[str], seeds: int) -> dict[tuple[int, Way], list[Row]]:
    """(seed, run) -> the records that it is for, seed by seed. InputError for a claim without runs, or no seed."""
    claims = tuple(claims)
    todo = runs_of(claims, WAYS, seeds=seeds, settings=settings)
    if "D2" in claims:
        for ways in (HALVES, MANY):
            for key, rows in runs_of(("D2",), {"D2": ways}, seeds=seeds, settings=settings).items():
                todo.setdefault(key, []).extend(rows)
    return dict(sorted(todo.items(), key=lambda item: item[0][0]))


def run(claims: Iterable[str], *, seeds: int, out: Path) -> None:
    """Do what the ledger does not hold yet, one record for every claim that a run is for."""
    lab = Lab(out / "dynasegformer")
    carry_out(trials(claims, seeds), lambda one: lab.measure(*one), of=asked_of)


class Lab:
    """Pictures and teachers, made once. out: where the teacher of several domains is kept."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.task = lru_cache(None)(self._task)
        self.teacher = lru_cache(None)(self._teacher)
        self.teacher_miou = lru_cache(None)(self._teacher_miou)

    def preset(self, way: Way) -> Dyna:
        """The mini preset with a shorter training, since there are many."""
        mini = preset_of("mini")
        return replace(mini, train=replace(mini.train, steps=STEPS, batch=BATCH), **vars(way))

    def measure(self, seed: int, way: Way) -> dict[str, Any]:
        """Train and test one student."""
        student, task, preset = self.student(seed, way), self.task(way.domains), self.preset(way)
        teacher = self.teacher(way.domains)
        found = segmentation(student, task.test, len(task.classes))
        found |= {"miou_teacher": self.teacher_miou(way.domains), **costs(teacher, student, preset)}
        if way == HALF:
            counts = statistics(student, task)
            key = counts[KEY_LAYER]
            found |= {"on": key.on_U.tolist(), "kept": key.kept_U.tolist(), "images": key.images}
            found["kinds_all_layers"] = _kinds(each.types() for each in counts.values())
            found["choices_all_layers"] = _kinds(each.choices() for each in counts.values())
        return found

    def student(self, seed: int, way: Way) -> nn.Module:
        """Trained."""
        preset, teacher = self.preset(way), self.teacher(way.domains)
        return train(gated(teacher, preset, seed=seed), teacher, self.task(way.domains), preset, seed=seed, quiet=True)

    def _teacher_miou(self, domains: int) -> float:
        """Of the dense network that all start from."""
        task = self.task(domains)
        return segmentation(self.teacher(domains), task.test, len(task.classes))["miou"]

    def _task(self, domains: int) -> Task:
        return task_of(replace(preset_of("mini"), domains=domains), None)

    def _teacher(self, domains: int) -> SegFormer:
        stored = cast(SegFormer, zoo.load(preset_of("mini").model))
        if domains == 1:
            return stored
        task = self.task(domains)
        loader = image_loader(task.train, ADAPT.batch)
        folder = self.out / f"teacher-{domains}"
        return cast(
            SegFormer,
            finetune(stored, loader, ADAPT.config(seed=0, quiet=True), loss_fn=task.loss, checkpoint=folder).model,
        )


def asked_of(row: Row, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """D5 asks for the share of one kind among the key layer's neurons, by who is on (as the paper counts) and by who is
    kept; the others ask for everything.
    """
    if row.claim != "D5":
        return found
    images = found["images"]
    kind = {"type I": lambda n: n == images, "type III": lambda n: n == 0}.get(row.method, lambda n: 0 < n < images)
    share, choices = (sum(map(kind, found[name])) / len(found[name]) for name in ("on", "kept"))
    return {"share": share, "share_kept": choices, "on": found["on"], "kept": found["kept"], "images": images}


def _kinds(types: Iterable[Tensor]) -> list[int]:
    """How many neurons of the network are of type I, II and III."""
    return sum(types_U.bincount(minlength=4)[1:] for types_U in types).tolist()  # type: ignore[union-attr]
