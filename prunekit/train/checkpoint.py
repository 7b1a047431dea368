"""How a run survives a crash: a folder that always holds one whole checkpoint.

    folder/step-00000500/  model.safetensors  [ema.safetensors]  optimizer.safetensors  state.json

A new step is written to a hidden folder, flushed to the disk, renamed, and only then is the old one removed: whenever
the process or the machine dies, one complete step is left. state.json holds the step, the settings, the history, the
sha256 of each file and what the run was started from, so that a damaged file, another model or other settings are
refused. Nothing is unpickled. With several machines the folder must be on a disk that all of them see.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunekit.errors import CheckpointError

FORMAT = "prunekit-train-1"
STATE = "state.json"


@dataclass(frozen=True)
class Saved:
    """One checkpoint, read and verified. tensors: file stem -> name -> tensor. state: what state.json holds."""

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write folder/step-NNNNNNNN in one move, then remove older steps. Raises CheckpointError when it cannot."""
    target, part = folder / f"step-{step:08d}", folder / f".part-{step:08d}"
    if target.exists():
        return target  # the same run at the same step: the same content
    try:
        for leftover in folder.glob(".part-*"):
            shutil.rmtree(leftover)
        part.mkdir(parents=True)
        sums = {}
        for stem, table in tensors.items():
            file = part / f"{stem}.safetensors"
            # a copy of each: safetensors refuses tensors that share memory, such as tied weights
            save_file({n: t.detach().to("cpu", copy=True).contiguous() for n, t in table.items()}, file)
            sums[file.name] = _sha256(file)
            _to_disk(file)
        (part / STATE).write_text(json.dumps({"format": FORMAT, "step": step, "files": sums, **state}, indent=1))
        _to_disk(part / STATE)
        _to_disk(part)
        os.rename(part, target)
        _to_disk(folder)
        for old in _steps(folder):
            if old != target:
                shutil.rmtree(old)
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"cannot write a checkpoint to {folder} ({err}). Free space, or give another.") from err
    return target


def load_latest(folder: Path) -> Saved | None:
    """The newest checkpoint in the folder, every file checked; None when the folder is new or empty."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; checkpoint must name a folder.")
    steps = _steps(folder)
    if not steps:
        foreign = sorted(p.name for p in folder.glob("*") if not p.name.startswith(".")) if folder.exists() else []
        if foreign:
            raise CheckpointError(
                f"{folder} holds '{foreign[0]}' but no checkpoint of finetune (step-NNNNNNNN); give an empty folder."
            )
        return None
    newest = steps[-1]
    state = _read_state(newest)
    tensors = {}
    for name, checksum in state["files"].items():
        file = newest / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing. {_advice(newest)}")
        if _sha256(file) != checksum:
            raise CheckpointError(f"{file} is truncated or damaged: its sha256 is not the recorded. {_advice(newest)}")
        try:
            tensors[file.stem] = load_file(file)
        except (SafetensorError, OSError) as err:
            raise CheckpointError(f"{file} cannot be read ({err}). {_advice(newest)}") from err
    return Saved(newest, tensors, state)


def check_same_run(saved: Saved, identity: Mapping[str, Any], model: nn.Module) -> None:
    """Raise CheckpointError, naming what differs, unless the checkpoint belongs to this model and these settings."""
    there, here = saved.tensors.get("model", {}), model.state_dict()
    for name in [*here, *there]:
        have = tuple(here[name].shape) if name in here else "nothing"
        want = tuple(there[name].shape) if name in there else "nothing"
        if have != want:
            raise CheckpointError(
                f"{saved.folder} is of another model: '{name}' is {want} there, {have} here. {_OTHER}"
            )
    for part in ("config", "data"):
        old, new = saved.state.get(part, {}), identity[part]
        for key in [*new, *(k for k in old if k not in new)]:
            if old.get(key) != new.get(key):
                raise CheckpointError(
                    f"{saved.folder} was written with {key}={old.get(key)!r}, now {key}={new.get(key)!r}. {_OTHER}"
                )
    started = saved.state.get("start")
    if started is not None and started != identity["start"]:
        raise CheckpointError(
            f"{saved.folder} was started from other weights of the same shapes (another plan or seed?). {_OTHER} "
            f'If it is your run all the same, set "start" to null in {saved.folder / STATE} and run again.'
        )


def weights_hash(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its state as "parameter number.key" -> tensor; learning rates are not state, they follow from the step."""
    state = optimizer.state_dict()["state"]
    return {f"{n}.{key}": value for n, entry in state.items() for key, value in entry.items() if value is not None}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


_OTHER = "Use the settings it was written with, or another folder for another run."


def _advice(step_folder: Path) -> str:
    return f"Restore it from a copy, or delete {step_folder} to start over."


def _read_state(step_folder: Path) -> dict[str, Any]:
    file = step_folder / STATE
    try:
        state = json.loads(file.read_text())
    except (OSError, ValueError) as err:
        raise CheckpointError(f"{file} is missing or truncated ({err}). {_advice(step_folder)}") from err
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{file} has the format {found!r}, not {FORMAT!r}. {_advice(step_folder)}")
    missing = [key for key in ("step", "files", "history") if key not in state]
    if missing:
        raise CheckpointError(f"{file} has no '{missing[0]}'. {_advice(step_folder)}")
    return state


def _steps(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir() and p.name[5:].isdigit())


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    """Flush a file or a folder's entries to the disk (folders only where the system can)."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
