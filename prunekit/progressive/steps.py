"""Pruning in steps, for every criterion: watched training, then (cut -> certificate -> fine-tuning) again and again.

The overall pipeline of SIRFP (Wu et al., AAAI 2025, Algorithm 2): what is removed in small portions, with training in
between, costs less accuracy than one large cut. A criterion that gathers its statistics during training watches the
pre-training and every fine-tuning but the last, each with a fresh observer, since the channels have changed.

Everything is kept in one folder, and what is there is taken up: the same call again goes on where the last one ended.

    folder/run.json     what was started: model, criterion, targets, settings; anything else is refused
           dense/       checkpoints of the pre-training, observer included       dense.json   measure(dense)
           1/plan.json  who stays        1/cut.json    measure(after the cut)
           1/tuned/     checkpoints of the fine-tuning                           1/tuned.json measure(tuned)
           small/       the result, for `load_pruned`

Of several processes the first decides and writes, and all read; the folder must be on a disk that all of them see.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import InputError
from prunekit.plan import budget_plan, plan_macs, plan_params
from prunekit.progressive.store import Store, identity
from prunekit.surgery import Certificate, check_equivalence, find_groups, prune, save_pruned
from prunekit.train import Observer, TrainConfig, finetune, segmentation_loss, valid_labels

Metrics = Mapping[str, Any]  # what JSON holds


class ScoringObserver(Observer, Protocol):
    """An observer whose statistics are a criterion."""

    def scores(self, groups: Groups) -> Scores:
        """Group -> (U,), higher = keep. ScoreError before anything was observed."""
        ...


@dataclass(frozen=True)
class Training:
    """One stretch of training: what `finetune` takes. Pre-training and fine-tuning may differ in data and loss."""

    config: TrainConfig
    loader: Iterable[Any]
    loss_fn: Callable[[Any, Any], Tensor] = segmentation_loss
    count: Callable[[Any], int] = valid_labels


@dataclass(frozen=True)
class Cut:
    """One step. macs_ratio: fraction of the *dense* model's MACs that are gone after it. training: what follows."""

    macs_ratio: float
    training: Training


@dataclass(frozen=True)
class Stage:
    """What one step did. macs, params: after it. cut, tuned: the metrics right after the cut and after fine-tuning."""

    plan: PruningPlan
    certificate: Certificate
    macs: int
    params: int
    cut: Metrics
    tuned: Metrics


@dataclass(frozen=True)
class Progress:
    """What `progressive` returns; `print` it for a table. model: small and fine-tuned. dense: its metrics, MACs and
    parameters before anything was cut. stages: one a cut; their plans, in order, are what `save_pruned` takes.
    """

    model: nn.Module
    dense: Metrics
    macs: int
    params: int
    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        def row(name: str, macs: float, params: float, cut: Metrics, tuned: Metrics) -> str:
            cells = [(f"{cut[k]:.3f} -> " if k in cut else "") + f"{tuned[k]:.3f}" for k in shown]
            return f"{name:<8}{macs:>8.2f}{params:>8.2f}" + "".join(f"{cell:>20}" for cell in cells)

        shown = [k for k, v in self.dense.items() if isinstance(v, (int, float))]
        lines = [f"{'':<8}{'MACs':>8}{'params':>8}" + "".join(f"{k:>20}" for k in shown) + "   (cut -> tuned)"]
        lines.append(row("dense", 1.0, 1.0, {}, self.dense))
        for n, s in enumerate(self.stages, 1):
            lines.append(row(f"step {n}", s.macs / self.macs, s.params / self.params, s.cut, s.tuned))
        return "\n".join([*lines, *(str(stage.certificate) for stage in self.stages)])


def progressive(
    model: nn.Module,
    x: Any,
    cuts: Sequence[Cut],
    folder: str | Path,
    *,
    score: Callable[[nn.Module, Groups], Scores] | None = None,
    observe: Callable[[Groups], ScoringObserver] | None = None,
    pretrain: Training | None = None,
    plan: Callable[..., PruningPlan] = budget_plan,
    measure: Callable[[nn.Module], Metrics] | None = None,
    freeze: Iterable[str] = (),
) -> Progress:
    """Train the dense model, then cut and fine-tune as often as there are cuts; `model` itself is not changed.

    x: an example input, as for find_groups; MACs are counted at its size. Give one of score(model, groups), any
    criterion, and observe(groups), an observer that watches the training before each cut, e.g. sirfp.Observer.
    pretrain: None = the model comes trained. plan(groups, scores, macs_ratio=...): e.g. functools.partial(budget_plan,
    how="uniform", limits=...); the limits hold for each cut. measure(model): metrics, numbers or lists of them.
    freeze: layers that keep their size.

    Raises InputError for targets that do not rise and for no criterion or two, CheckpointError when the folder is of
    another run or damaged, and the errors of finetune, score, plan and check_equivalence.
    """
    _check(cuts)
    criterion = score or observe
    if criterion is None or (score and observe):
        raise InputError("give one of score=, e.g. l1.score, and observe=, e.g. sirfp.Observer.")
    trainings = ([pretrain] if pretrain else []) + [cut.training for cut in cuts]
    configs = [training.config for training in trainings]
    store, freeze = Store(Path(folder), configs[0]), tuple(freeze)
    groups = find_groups(model, x, freeze=freeze)
    observer = observe(groups) if observe else None  # what cannot begin leaves no folder
    more = {f"loss {number}": training.loss_fn for number, training in enumerate(trainings, 1)}
    more |= {"plan": plan, "freeze": list(freeze), "dense MACs": _costs(groups)[0]}
    store.refuse_another(identity(model, criterion, [cut.macs_ratio for cut in cuts], configs, **more))

    def measured(name: str, network: nn.Module) -> Metrics:
        return store.once(name, lambda: json.dumps(dict(measure(network)) if measure else {}), json.loads)

    if pretrain:
        model = _train(model, pretrain, store.folder / "dense", observer)
    dense, (macs, params) = measured("dense.json", model), _costs(groups)
    stages: list[Stage] = []
    for number, cut in enumerate(cuts, start=1):
        left = 1 - (1 - cut.macs_ratio) * macs / _costs(groups)[0]
        scores = partial(observer.scores, groups) if observer else partial(score, model, groups)  # type: ignore[arg-type]
        make = partial(_planned, plan, groups, scores, macs_ratio=left)
        chosen = store.once(f"{number}/plan.json", make, PruningPlan.from_json)
        small = prune(model, groups, chosen)
        certificate = check_equivalence(model, small, groups, chosen, x)
        before = measured(f"{number}/cut.json", small)
        groups = find_groups(small, x, freeze=freeze)
        observer = observe(groups) if observe and number < len(cuts) else None
        model = _train(small, cut.training, store.folder / f"{number}/tuned", observer)
        tuned = measured(f"{number}/tuned.json", model)
        stages.append(Stage(chosen, certificate, *_costs(groups), cut=before, tuned=tuned))
    store.by_one(lambda: save_pruned(store.folder / "small", model, [stage.plan for stage in stages]))
    return Progress(model, dense, macs, params, tuple(stages))


def _planned(
    plan: Callable[..., PruningPlan], groups: Groups, scores: Callable[[], Scores], *, macs_ratio: float
) -> str:
    return plan(groups, scores(), macs_ratio=macs_ratio).to_json()


def _train(model: nn.Module, training: Training, folder: Path, observer: Observer | None) -> nn.Module:
    t = training
    return finetune(
        model, t.loader, t.config, loss_fn=t.loss_fn, count=t.count, checkpoint=folder, observer=observer
    ).model


def _costs(groups: Groups) -> tuple[int, int]:
    """MACs and parameters of the model that the groups were found on."""
    whole = PruningPlan({}, {})
    return plan_macs(groups, whole), plan_params(groups, whole)


def _check(cuts: Sequence[Cut]) -> None:
    targets = [cut.macs_ratio for cut in cuts]
    rising = all(a < b for a, b in zip([0.0, *targets], [*targets, 1.0], strict=True))
    if not targets or not rising:
        raise InputError(
            f"the cuts remove {targets} of the dense model's MACs; give at least one, each more than the one before, "
            "between 0 and 1, e.g. 0.3 and 0.6."
        )
