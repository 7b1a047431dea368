"""Sparse training of both tasks in turn (Algorithm 1, steps 1 to 7).

    a round:  some steps of SGD on cls(W1), then on lambda seg(W3, W2), each followed by Coupling.pull_first / _third;
              gamma2 is soft-thresholded alike; at its end E += mu (W1 - W3), mu *= rho

Both optimizers live as long as the alternation, momentum and all; learning rates follow their schedules over all
rounds. Memory, to the end: the two networks, their momenta and E, beside the caller's own two; gradients of one network
at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from prunekit.errors import InputError
from prunekit.methods.mtp.parts import Parts, backbone_of, check_backbones, submodule
from prunekit.methods.mtp.state import Round, Settings, State, learning
from prunekit.progressive import Training
from prunekit.train import checkpoint as store
from prunekit.train.batches import describe
from prunekit.train.runtime import interrupt_waits, one_accelerator, own_dice, progress
from prunekit.train.step import Run, batches_to_come, start


@dataclass(frozen=True)
class Sparse:
    """What `alternate` returns. classifier: W1 and its head. segmenter: W3 and W2. history: one Round a round."""

    classifier: nn.Module
    segmenter: nn.Module
    history: tuple[Round, ...]


def alternate(
    classifier: nn.Module,
    segmenter: nn.Module,
    parts: Parts,
    classify: Training,
    segment: Training,
    settings: Settings,
    *,
    checkpoint: str | Path | None = None,
    on_round: Callable[[Round, nn.Module, nn.Module], None] | None = None,
) -> Sparse:
    """Train copies of both networks to agree on one sparse backbone; the networks themselves are not changed.

    classifier: its module `backbone` is the segmenter's `parts.path` once more; it returns logits (B, K). classify,
    segment: data, loss and TrainConfig (SGD) of either task; their config.steps are for all rounds together.
    on_round(round, classifier, segmenter): called after each round with the networks in training. checkpoint: a folder,
    written after each round, after every save_every steps of a task (each by its own config), and on Ctrl-C, between
    two steps; with the same arguments the run goes on from there and ends with the same weights, bit for bit, as an
    unbroken one. Several processes: `accelerate launch`.

    Raises InputError when the backbones differ (naming the first tensor) and for settings that cannot work,
    TrainingError when a loss is not finite, before weights are touched, or a network is not at the end of a round or
    where it would be saved (the folder keeps the last checkpoint, whose networks are), DataError for
    labels that the heads do not have (see classification_loss), CheckpointError as finetune does.
    """
    _check(classifier, segmenter, parts, classify, segment, settings)
    networks = nn.ModuleDict({"classifier": classifier, "segmenter": segmenter})
    identity = _identity(networks, parts, classify, segment, settings)
    folder = Path(checkpoint) if checkpoint is not None else None
    with one_accelerator(classify.config) as accelerator, own_dice(accelerator.device):
        first, second = start(classifier, classify.config, accelerator), start(segmenter, segment.config, accelerator)
        state = State(first, second, parts, settings, folder)
        if folder is not None:
            state.resume(folder, identity)
        total, done = classify.config.steps + segment.config.steps, len(first.history) + len(second.history)
        with (
            interrupt_waits(folder is not None) as interrupted,
            closing(batches_to_come(first, classify.loader)) as objects,
            closing(batches_to_come(second, segment.loader)) as scenes,
            progress(total, done, classify.config.quiet or not accelerator.is_main_process) as bar,
        ):
            while len(state.rounds) < settings.rounds:
                for run, task, source in ((first, classify, objects), (second, segment, scenes)):
                    while state.due(run) and not interrupted.is_set():
                        state.step(run, task, [next(source) for _ in range(run.config.accumulate)])
                        bar.update()
                        if folder is not None and len(run.history) % run.config.save_every == 0:
                            state.save(folder, identity)
                if not interrupted.is_set():
                    ended = state.end_round()
                    if on_round is not None:
                        on_round(ended, first.bare, second.bare)
                if folder is not None:
                    state.save(folder, identity)
                if interrupted.is_set():
                    raise KeyboardInterrupt
        return Sparse(_unwrapped(classifier, first), _unwrapped(segmenter, second), tuple(state.rounds))


def _unwrapped(model: nn.Module, run: Run) -> nn.Module:
    """The caller's model around the trained tensors, since Accelerate has wrapped the run's: no further copy of them,
    unless they go back to another device.
    """
    state = run.bare.state_dict(keep_vars=True)
    own = {name: t for name, t in model.state_dict(keep_vars=True).items() if t.device == state[name].device}
    trained = copy.deepcopy(model, {id(t): state[name] for name, t in own.items()})
    trained.load_state_dict(run.bare.state_dict())
    trained.zero_grad()
    return trained.eval()


def _check(
    classifier: nn.Module,
    segmenter: nn.Module,
    parts: Parts,
    classify: Training,
    segment: Training,
    settings: Settings,
) -> None:
    check_backbones(classifier, segmenter, parts.path, "Build both with the same arguments.")
    if list(learning(submodule(segmenter, parts.path))) != list(learning(backbone_of(classifier))):
        raise InputError("the backbones differ in what requires a gradient; freeze the same parameters in both.")
    for task, name in ((classify, "classify"), (segment, "segment")):
        config = task.config
        if config.optimizer != "sgd" or config.ema is not None:
            raise InputError(f"{name}.config needs optimizer='sgd' and no ema: the proximal step is SGD's.")
        if config.steps % settings.rounds:
            raise InputError(f"{name}.config.steps is {config.steps}, no multiple of {settings.rounds} rounds.")
    for key in ("mixed_precision", "device"):
        if getattr(classify.config, key) != getattr(segment.config, key):
            raise InputError(f"classify and segment differ in {key}; one process trains both: set it alike.")
    if classify.config.mixed_precision == "fp16":
        raise InputError(
            "mixed_precision='fp16' leaves out steps whose gradients overflow, and the pull between the backbones "
            "would go on without them; use 'bf16' or 'no'."
        )


def _identity(
    networks: nn.Module, parts: Parts, classify: Training, segment: Training, settings: Settings
) -> dict[str, Any]:
    """What must be the same for a folder to be gone on with."""
    config, data = {**asdict(settings), "backbone": parts.path}, {}
    config |= {f"the part of '{name}'": part for part in ("backbone", "decoder") for name in getattr(parts, part)}
    for name, task in (("classify", classify), ("segment", segment)):
        own = {k: v for k, v in asdict(task.config).items() if k not in ("quiet", "save_every", "device")}
        config |= {f"{name}.{key}": value for key, value in own.items()}
        data |= {f"{name}.{key}": value for key, value in describe(task.loader).items()}
    return {"config": config, "data": data, "start": store.weights_hash(networks)}
