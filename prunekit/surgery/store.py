"""A pruned model on disk: model.safetensors beside plan.json; no code, no config, nothing pickled.

The constructor of the dense model and the plans are all it takes to rebuild the small one: its groups are found again,
it is pruned by one plan after another, and the stored tensors are filled in. plan.json is what `PruningPlan.save`
writes, or a list of such plans for a model that was pruned several times.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prunekit.core import PruningPlan
from prunekit.errors import CheckpointError, InputError, PlanError
from prunekit.surgery.cut import prune
from prunekit.surgery.groups import find_groups
from prunekit.surgery.trace import first_names

WEIGHTS, PLAN = "model.safetensors", "plan.json"


def save_pruned(folder: str | os.PathLike[str], small: nn.Module, plans: PruningPlan | Sequence[PruningPlan]) -> Path:
    """Write folder/model.safetensors and folder/plan.json; returns the folder.

    plans: the plan that made `small`, or all of them in the order they were applied. A tensor with several names is
    stored once, under its first. Both files are written beside their places and then moved there. The weights know of
    the plans, so that what does not belong together is noticed.
    Raises PlanError (no plan), InputError (no model) and CheckpointError (it cannot be written).
    """
    plans = [plans] if isinstance(plans, PruningPlan) else plans
    if not isinstance(plans, Sequence) or not plans or not all(isinstance(plan, PruningPlan) for plan in plans):
        raise PlanError(f"plans is {plans!r}; give the PruningPlan that made the small model, or the list of them.")
    if not isinstance(small, nn.Module):
        raise InputError(f"small is {small!r}; give the model that prune returned.")
    small = getattr(small, "_orig_mod", small)  # a compiled model is stored as what was compiled
    extra = [name for name, value in small.state_dict().items() if not isinstance(value, Tensor)]
    if extra:
        raise CheckpointError(f"'{extra[0]}' is no tensor, and only tensors are stored; keep it in a file of its own.")
    # a copy of each: safetensors refuses tensors that share memory, and views
    tensors = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in _saved(small).items()}
    texts = [plan.to_json().rstrip() for plan in plans]
    text = texts[0] if len(texts) == 1 else "[\n" + ",\n".join(texts) + "\n]"
    folder = Path(folder)
    parts = {name: folder / f".{name}.part" for name in (WEIGHTS, PLAN)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, parts[WEIGHTS], {"plan": _fingerprint(plans)})
        parts[PLAN].write_text(text + "\n")
        for name, part in parts.items():
            part.replace(folder / name)
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"cannot write a pruned model to {folder} ({err}). Free space, or give another.") from err
    finally:
        for part in filter(Path.exists, parts.values()):
            part.unlink()
    return folder


def load_pruned(folder: str | os.PathLike[str], dense: nn.Module, example: Any, **found: Any) -> nn.Module:
    """The small model that `save_pruned` stored, rebuilt from the dense one, whose weights do not matter.

    dense: built as it was for pruning; it is left untouched. example, found: as for `find_groups` then (freeze=...);
    whether heads or their dimensions went, each plan knows.
    The result has the stored types, and the device and train or eval mode of `dense`.
    Raises CheckpointError (files missing, damaged, or not of this architecture), PlanError (plan.json is damaged or
    speaks of another model) and the errors of find_groups.
    """
    folder = Path(folder)
    plans = _read_plans(folder)
    stored = _read_tensors(folder, plans)
    small = dense
    for plan in plans:
        heads = "dimension" if any(name.endswith("#dim") for name in plan.sizes) else "number"
        small = prune(small, find_groups(small, example, **{"heads": heads, **found}), plan)
    _check_names(small, stored, folder)
    _fill(small, stored)
    return small


def _saved(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the state dict, each once, under its first name."""
    first = first_names(model)
    return {name: t for name, t in model.state_dict(keep_vars=True).items() if first.get(name) == name}


def _fingerprint(plans: Sequence[PruningPlan]) -> str:
    """Of what the plans cut; a note may be edited."""
    bare = [PruningPlan(plan.sizes, plan.keep).to_json() for plan in plans]
    return hashlib.sha256("".join(bare).encode()).hexdigest()


def _read_plans(folder: Path) -> list[PruningPlan]:
    file = folder / PLAN
    try:
        raw = json.loads(file.read_text())
        plans = [PruningPlan.from_json(json.dumps(plan)) for plan in (raw if isinstance(raw, list) else [raw])]
    except OSError as err:
        raise CheckpointError(f"cannot read {file} ({err.strerror}); was {folder} written by save_pruned?") from err
    except ValueError as err:  # PlanError is one
        raise PlanError(f"{file} is damaged or no plan ({err}); restore it from a copy.") from err
    if not plans:
        raise PlanError(f"{file} holds no plan; restore it from a copy.")
    return plans


def _read_tensors(folder: Path, plans: Sequence[PruningPlan]) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; was {folder} written by save_pruned?")
    try:
        with safe_open(file, "pt") as reader:
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 (it is no dict)
            metadata = reader.metadata() or {}
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{file} is truncated or damaged ({err}); restore it from a copy.") from err
    if metadata.get("plan", _fingerprint(plans)) != _fingerprint(plans):  # others that write safetensors say nothing
        raise CheckpointError(f"{file} was stored with another {PLAN} than the one beside it; restore that one.")
    return tensors


def _check_names(small: nn.Module, stored: Mapping[str, Tensor], folder: Path) -> None:
    """CheckpointError unless the rebuilt model has exactly the stored tensors, in the stored shapes."""
    own = _saved(small)
    for name in [*own, *stored]:
        here = tuple(own[name].shape) if name in own else "missing"
        there = tuple(stored[name].shape) if name in stored else "missing"
        if here != there:
            raise CheckpointError(
                f"'{name}' is {there} in {folder / WEIGHTS}, {here} in the pruned {type(small).__name__}. Build "
                "the dense model with the arguments it had (classes, tied weights), and give find_groups' (freeze=...)."
            )


def _fill(small: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Copy values and types in. What is tied stays tied, and memory formats and devices stay."""
    floats = {t.dtype for t in stored.values() if t.is_floating_point()}
    if len(floats) == 1:  # tensors that are not stored (a table made in the constructor) follow
        small.to(floats.pop())
    state = small.state_dict(keep_vars=True)
    for name, first in first_names(small).items():
        if first in stored:
            state[name].data = state[name].data.to(stored[first].dtype)
            state[name].data.copy_(stored[first])
