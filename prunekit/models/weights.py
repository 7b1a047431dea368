"""Weights from a file into a model whose names differ: read, rename, compare, load. Knows no architecture.

A renaming is a list of (regular expression, replacement) applied in turn to each name; a name that becomes empty is
left out on purpose. Nothing is loaded unless everything fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prunekit.errors import CheckpointError

Renaming = Sequence[tuple[str, str]]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch file, by name; what wraps them ("state_dict", ...) is undone.

    Torch files are read with weights_only=True: no code in them runs.
    Raises CheckpointError when the file cannot be read or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder: give the file in it" if path.is_dir() else "is not here: prunekit downloads no weights"
        raise CheckpointError(f"cannot read {path}, which {what}.")
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else _torch_file(path)
    except Exception as err:  # bytes that are no checkpoint fail anywhere in the unpickler, with any error
        raise CheckpointError(f"cannot read {path}: {_why(err)}") from err
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no named tensors; expected a state dict.")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _torch_file(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _why(err: Exception) -> str:
    """What went wrong, and what to do."""
    code = re.search(r"Unsupported global: GLOBAL (\S+)", str(err))
    if code:
        return (
            f"it holds Python objects ({code[1]}) beside the weights. If you trust where it comes from, keep the "
            "weights alone: torch.save(torch.load(path, weights_only=False)['state_dict'], 'weights.pth')."
        )
    reason = [*str(err).strip().splitlines(), ""][0]
    if " " not in reason:  # a byte's number, or nothing
        reason = f"it holds no checkpoint ({type(err).__name__})"
    return f"{reason.split('. ')[0]}; download it again, or is it another kind of file?"


def rename(state: Mapping[str, Tensor], rules: Renaming) -> dict[str, tuple[str, Tensor]]:
    """New name -> (name in the file, tensor)."""
    renamed = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new:
            renamed[new] = (name, tensor)
    return renamed


def load_renamed(
    model: nn.Module, state: Mapping[str, Tensor], rules: Renaming, *, source: object, fresh: Sequence[str] = ()
) -> None:
    """Fill all of `model` from `state`. fresh: prefixes of names in the model that keep their values.

    Raises CheckpointError naming the first weight that is missing, has another shape, or has no place; the model is
    then unchanged.
    """
    renamed = rename(state, rules)
    own = {n: t for n, t in model.state_dict().items() if not n.startswith(tuple(fresh))}
    renamed = {n: pair for n, pair in renamed.items() if not n.startswith(tuple(fresh))}
    for name, tensor in own.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in renamed:
            raise CheckpointError(f"{source} has nothing for '{name}': another architecture, size or decoder?")
        key, value = renamed[name]
        if value.shape != tensor.shape:
            raise CheckpointError(
                f"'{key}' in {source} is {tuple(value.shape)}, this model's '{name}' is {tuple(tensor.shape)}: "
                "choose the variant and the number of classes that the checkpoint was trained with."
            )
    for name, (key, _) in renamed.items():
        if name not in own:
            raise CheckpointError(f"'{key}' in {source} has no place in this model: another architecture or size?")
    model.load_state_dict({name: value for name, (_, value) in renamed.items()}, strict=False)
