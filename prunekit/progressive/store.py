"""The folder of a run: what it is a run of, and what was decided or measured on the way, each made once.

Files are JSON, written in one move by the first process and read by all, so that all go on with the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from prunekit.errors import CheckpointError
from prunekit.plan import Limits
from prunekit.train import TrainConfig
from prunekit.train.checkpoint import weights_hash
from prunekit.train.runtime import one_accelerator

Read = TypeVar("Read")


@dataclass(frozen=True)
class Store:
    """folder: on a disk that all processes see. config: of any training of the run; tells what processes there are."""

    folder: Path
    config: TrainConfig

    def by_one(self, work: Callable[[], object]) -> None:
        """The first process does it, the others wait."""
        with one_accelerator(self.config) as accelerator:
            if accelerator.is_main_process:
                work()
            accelerator.wait_for_everyone()

    def once(self, name: str, make: Callable[[], str], read: Callable[[str], Read]) -> Read:
        """What the file says; made first, in one move, if it is not there."""
        file = self.folder / name
        self.by_one(lambda: file.exists() or _write(file, make()))
        try:
            text = file.read_text()
        except OSError as err:
            raise CheckpointError(f"cannot read {file} ({err}); do all processes see this disk?") from err
        try:
            return read(text)
        except ValueError as err:  # PlanError is one
            raise CheckpointError(
                f"{file} is damaged ({err}); delete it, and what comes after it, to redo it."
            ) from err

    def refuse_settings(self, here: Mapping[str, Any]) -> None:
        """CheckpointError, naming what differs, unless the folder is new or began with these settings."""
        there = self.once("settings.json", lambda: json.dumps(here, indent=1), json.loads)
        here = json.loads(json.dumps(here))  # as it looks after storing
        for key in sorted({*here, *there}):
            if there.get(key) != here.get(key):
                raise CheckpointError(f"{self.folder} was started with {_difference(key, there, here)}. {_OTHER}")

    def refuse_another(self, here: dict[str, Any]) -> None:
        """CheckpointError, naming what differs, unless the folder is new or of this very run."""
        there = self.once("run.json", lambda: json.dumps(here, indent=1), json.loads)
        here = json.loads(json.dumps(here))  # as it looks after storing
        shapes, ours = there.get("shapes", {}), here["shapes"]
        for name in [*ours, *shapes]:
            if shapes.get(name) != ours.get(name):
                raise CheckpointError(
                    f"{self.folder} is of another model: '{name}' is {shapes.get(name, 'nothing')} there, "
                    f"{ours.get(name, 'nothing')} here. {_OTHER}"
                )
        for key in here:
            if key not in ("shapes", "start") and there.get(key) != here[key]:
                raise CheckpointError(f"{self.folder} was started with {_difference(key, there, here)}. {_OTHER}")
        if there.get("start") != here["start"]:
            raise CheckpointError(f"{self.folder} was started from other weights of the same shapes. {_OTHER}")


def _write(file: Path, text: str) -> None:
    """In one move: a reader sees all of it or nothing."""
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        part.replace(file)
    except OSError as err:
        raise CheckpointError(f"cannot write {file} ({err}); free space, or give another folder.") from err


_OTHER = "Use what it was started with, or another folder for another run."


def _difference(key: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    old: Any = there.get(key)
    new: Any = here.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next(name for name in {**old, **new} if old.get(name) != new.get(name))
        return f"{key}.{_difference(inner, old, new)}"
    if key == "settings" and isinstance(old, list) and len(old) == len(new):
        for stretch, (a, b) in enumerate(zip(old, new, strict=True), start=1):
            for name in b:
                if a.get(name) != b[name]:
                    return f"{name}={a.get(name)!r} in training {stretch}, now {name}={b[name]!r}"
    return f"{key}={old!r}, now {new!r}"


def identity(
    model: nn.Module,
    criterion: Callable[..., Any],
    macs_ratio: Sequence[float],
    configs: Sequence[TrainConfig],
    **more: Any,
) -> dict[str, Any]:
    """What must be the same for a folder to be gone on with. more: values that JSON holds, and functions."""
    own = ("quiet", "save_every", "device")
    return {
        "criterion": _name(criterion),
        "macs_ratio": list(macs_ratio),
        **{name: _name(value) if callable(value) else value for name, value in more.items()},
        "settings": [{k: v for k, v in asdict(config).items() if k not in own} for config in configs],
        "start": weights_hash(model),
        "shapes": {n: list(t.shape) for n, t in model.state_dict().items() if isinstance(t, Tensor)},
    }


def _name(criterion: Callable[..., Any]) -> str:
    """prunekit.methods.l1.score, with the plain arguments that a partial fixes, Limits among them."""
    if isinstance(criterion, partial):
        plain = (str, int, float, Limits)
        fixed = {k: v for k, v in criterion.keywords.items() if isinstance(v, plain)}
        return f"{_name(criterion.func)}({', '.join(f'{k}={v}' for k, v in sorted(fixed.items()))})"
    return f"{getattr(criterion, '__module__', '')}.{getattr(criterion, '__qualname__', type(criterion).__qualname__)}"
