"""`distill`: a student learns from a teacher in two stages, first its features, then its answers.

    stage 1    sum_i MSE(student feature_i, teacher feature_i)
    stage 2    task loss + soft_weight SCE(student logits, teacher logits)
               SCE = - sum_k softmax(teacher)_k log softmax(student)_k

The scheme of TinyBERT (Jiao et al., Findings of EMNLP 2020), on `finetune`: checkpoints, resuming, many GPUs are its.
SCE is a mean over all pixels, MSE over all elements of a feature. Legend: B images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, mse_loss

from prunekit.errors import InputError
from prunekit.metrics import logits_of
from prunekit.train.config import TrainConfig
from prunekit.train.loop import Trained, finetune
from prunekit.train.loss import segmentation_loss, valid_labels
from prunekit.train.observer import GradientObserver, Observer


def distill(
    student: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    features: tuple[Sequence[str], TrainConfig] | None,
    logits: TrainConfig | None,
    *,
    soft_weight: float = 0.5,
    loss_fn: Callable[[Any, Any], Tensor] = segmentation_loss,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    observer: Observer | None = None,
    checkpoint: str | Path | None = None,
    count: Callable[[Any], int] = valid_labels,
) -> Trained:
    """Train a copy of `student` on what `teacher` makes of the same inputs; neither is changed.

    features: stage 1, the names of the modules whose outputs are compared (in both networks) and its settings; None
    leaves it out. logits: stage 2's settings; None leaves it out. soft_weight: lambda_s; 0 is plain training, without
    the teacher. loader, loss_fn, penalty, observer, count: as for `finetune`; penalty and observer get the student, in
    both stages. checkpoint: a folder, which gets one for each stage. The history numbers each stage's steps from 0.

    Raises InputError, by name, for stages that one of them does not have, that give no single tensor or another shape
    than the teacher's, or that do not run; for a parameter that student and teacher share; before the first step, for
    answers that stage 2 could not compare; and the errors of `finetune`.
    """
    if features is None and logits is None:
        raise InputError("nothing to do: both stages are None.")
    if not isinstance(soft_weight, Real) or not soft_weight >= 0:
        raise InputError(f"soft_weight is {soft_weight!r}; give a number from 0 on.")
    _refuse_shared(student, teacher)
    inside = None if observer is None else _inside(observer)
    folder = None if checkpoint is None else Path(checkpoint)
    history = []
    for stage, config in (("features", features[1] if features else None), ("logits", logits)):
        if config is None:
            continue
        names = _names(features[0]) if features and stage == "features" else ()
        pair = _Pair(student, teacher, names, asks=logits is not None and soft_weight > 0)
        done = finetune(
            pair,
            loader,
            config,
            loss_fn=_Loss(names, soft_weight, loss_fn),
            penalty=None if penalty is None else _OfStudent(penalty),
            observer=inside,
            checkpoint=None if folder is None else folder / stage,
            count=count,
        )
        assert isinstance(done.model, _Pair)
        student, history = cast(nn.Module, done.model.student), [*history, *done.history]
    return Trained(student, tuple(history))


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"features are {names!r}; give the names of modules, such as ('encoder.stages.0',).")
    return tuple(names)


def _refuse_shared(student: nn.Module, teacher: nn.Module) -> None:
    """The teacher would learn with the student."""
    theirs = {id(parameter): name for name, parameter in teacher.named_parameters()}
    for name, parameter in student.named_parameters():
        if id(parameter) in theirs:
            raise InputError(
                f"the student's '{name}' is the teacher's '{theirs[id(parameter)]}', the very same parameter: the "
                "teacher would change with it. Give copy.deepcopy(teacher)."
            )


class _Pair(nn.Module):
    """Both networks on one input. The teacher is in eval mode and does not learn, but moves and is stored with it.

    asks: whether the second stage will compare answers; then they are held to one shape from the first step on. False
    and no names: there is no use for the teacher, which does not run.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, names: tuple[str, ...], *, asks: bool) -> None:
        super().__init__()
        self.names, self.asks = names, asks
        self.student = student
        self.teacher = teacher
        lacks = []
        for who, model in (("student", student), ("teacher", teacher)):
            known = dict(model.named_modules())
            missing = ", ".join(f"'{name}'" for name in names if name not in known)
            lacks += [f"the {who} ({type(model).__name__}) has no module {missing}"] if missing else []
        if lacks:
            raise InputError(f"{'; '.join(lacks)}: name stages that both have, see named_modules().")

    def forward(self, x: Any) -> dict[str, Any]:
        with torch.no_grad(), _outputs(self.teacher, self.names) as theirs:
            answer = self.teacher(x) if self.asks or self.names else None
        with _outputs(self.student, self.names) as ours:
            out = self.student(x)
        faults = [fault for name in self.names for fault in _faults(name, ours, theirs)]
        if faults:
            raise InputError(
                f"{'; '.join(faults)}. Name modules that run in every forward pass and give one tensor, of one shape "
                "in both, such as 'encoder.stages.0', or choose another teacher."
            )
        if self.asks:
            _need_same(logits_of(out), logits_of(answer))
        # by name: the two need not run their modules in the same order
        both = {"ours": [ours[name] for name in self.names], "theirs": [theirs[name] for name in self.names]}
        return {"out": out, "teacher": answer, **both}

    def train(self, mode: bool = True) -> _Pair:
        super().train(mode)
        self.teacher.eval()
        return self


def _need_same(logits: Tensor, teacher: Tensor) -> None:
    """Answers are compared one by one."""
    if logits.shape == teacher.shape:
        return
    counts = [answer.shape[1] for answer in (logits, teacher) if answer.ndim > 1]
    classes = ": {} classes and {}".format(*counts) if len(set(counts)) == 2 else ""
    raise InputError(
        f"the student answers {tuple(logits.shape)}, the teacher {tuple(teacher.shape)}{classes}. Give a teacher of "
        "the same classes and size, or soft_weight=0: then its answers have no part."
    )


def _faults(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Why the outputs of a stage cannot be compared."""
    both = {"student": ours, "teacher": theirs}
    faults = [f"stage '{name}' did not run in the {who}" for who, found in both.items() if name not in found]
    faults += [
        f"stage '{name}' gives a {type(found[name]).__name__} in the {who}"
        for who, found in both.items()
        if name in found and not isinstance(found[name], Tensor)
    ]
    if faults:
        return faults
    mine, wanted = tuple(ours[name].shape), tuple(theirs[name].shape)
    return [] if mine == wanted else [f"stage '{name}' is {mine} in the student and {wanted} in the teacher"]


class _OfStudent:
    """A penalty of the student, for a run that trains the pair."""

    def __init__(self, penalty: Callable[[nn.Module], Tensor]) -> None:
        self.penalty = penalty

    def __call__(self, both: Any) -> Tensor:
        return self.penalty(both.student)


class _Loss:
    """What a stage minimises; without names it is the second."""

    def __init__(self, names: tuple[str, ...], soft_weight: float, loss_fn: Callable[[Any, Any], Tensor]) -> None:
        self.names, self.soft_weight, self.loss_fn = names, soft_weight, loss_fn

    def __call__(self, both: dict[str, Any], target: Any) -> Tensor:
        if self.names:
            pairs = zip(both["ours"], both["theirs"], strict=True)
            return torch.stack([mse_loss(mine, wanted) for mine, wanted in pairs]).sum()
        loss = self.loss_fn(both["out"], target)
        if self.soft_weight:
            loss = loss + self.soft_weight * soft_cross_entropy(logits_of(both["out"]), logits_of(both["teacher"]))
        return loss


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """SCE, a scalar: the mean over positions of - sum_k softmax(teacher)_k log softmax(logits)_k. Both (B, K, ...)."""
    _need_same(logits, teacher)
    return -(teacher.detach().softmax(1) * log_softmax(logits, 1)).sum(1).mean()


@contextmanager
def _outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the named modules give meanwhile."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(
                model.get_submodule(name).register_forward_hook(
                    lambda _module, _args, y, name=name: found.__setitem__(name, y)
                )
            )
        yield found


class _Inside:
    """An observer of the student, for a run that trains the pair."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer

    def watching(self, model: Any) -> Any:
        """Meanwhile look on at the student."""
        return self.observer.watching(model.student)

    def state_dict(self) -> dict[str, Tensor]:
        """The observer's."""
        return self.observer.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The observer's."""
        self.observer.load_state_dict(state)


class _InsideGradients(_Inside):
    """The same for an observer that looks at gradients too."""

    def on_gradients(self, model: Any) -> None:
        """Those of the student."""
        assert isinstance(self.observer, GradientObserver)
        self.observer.on_gradients(model.student)


def _inside(observer: Observer) -> Observer:
    return (_InsideGradients if isinstance(observer, GradientObserver) else _Inside)(observer)
