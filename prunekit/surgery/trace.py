"""From a model and an example input to a graph of ATen ops, with torch.export; and what can go wrong on the way."""

from __future__ import annotations

import io
import linecache
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from prunekit.errors import InputError, TraceError


@contextmanager
def training_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Switch to train() or eval(), and give every submodule its own flag back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tensor, a tuple of arguments or a dict of keyword arguments, as (args, kwargs)."""
    if isinstance(example, dict):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


def export(
    model: nn.Module, example: Any, *, training: bool = False, free_batch: bool = False
) -> torch.export.ExportedProgram:
    """The model's forward as a graph. The model is not changed and nothing is computed.

    free_batch: leave the first axis of every input open, as far as the code allows.

    Raises InputError when the example does not run through the model at all, TraceError when it runs but
    torch.export cannot follow the Python code.
    """
    args, kwargs = as_call(example)
    check_inputs(model, example)
    if training:  # batch norm needs two values per channel, and 1x1 maps have one per image
        args, kwargs = pytree.tree_map_only(Tensor, _twice, (args, kwargs))
    with quiet(), training_mode(model, training), torch.no_grad():
        try:
            shapes = _free_batch(args, kwargs) if free_batch else None
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception as err:
            raise _explain(model, args, kwargs, err) from err
    program.graph.eliminate_dead_code()  # what nobody reads (attention weights, averaged over heads) ties nothing
    return program


def check_inputs(model: nn.Module, example: Any) -> None:
    """InputError unless the example holds tensors with something in them, on the model's device."""
    check_kind(model)
    tensors = [t for t in pytree.tree_leaves(example) if isinstance(t, Tensor)]
    if not tensors:
        raise InputError(
            f"the example input holds no tensor ({type(example).__name__}); pass e.g. torch.randn(1, 3, 64, 64)."
        )
    weight = next(iter(model.parameters()), None)
    if weight is None:
        raise InputError(f"{type(model).__name__} has no parameters: nothing to prune.")
    for tensor in tensors:
        if tensor.device != weight.device:
            raise InputError(
                f"the example is on {tensor.device}, the model on {weight.device}; "
                f"move one: example.to('{weight.device}')."
            )
        if not tensor.numel():
            raise InputError(f"the example has the shape {tuple(tensor.shape)}: it is empty; give one image at least.")


@contextmanager
def quiet() -> Iterator[None]:
    """torch logs or prints whole graphs before it raises, and warns of what is meant; our error says it better."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_kind(model: nn.Module) -> None:
    """InputError when a part of the model is not ordinary PyTorch, whose tensors can be replaced one by one."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {model!r}, not an nn.Module; build it first, e.g. timm.create_model('resnet50').")
    for name, module in model.named_modules():
        at, kind = f"'{name}'" if name else "the model", type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(f"{at} is a TorchScript module ({kind}); prune the Python model it was made from.")
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise InputError(
                f"{at} is compiled ({kind}); prune the model before torch.compile, and compile the result."
            )
        forward = vars(module).get("forward")
        if isinstance(forward, FunctionType) and forward.__closure__:  # deepcopy does not look into it
            raise InputError(
                f"the forward of {at} was replaced by a function (compiled?) that would go on reading this model's "
                f"weights in the small one; give the plain {kind}, and wrap the result."
            )
        if "train" in vars(module):
            raise InputError(f"{at} is an exported program ({kind}); prune the Python model it was made from.")
        if type(module).__module__.startswith(("torch.ao.nn", "torch.ao.quantization", "torch.nn.quantized")):
            raise InputError(f"{at} is quantized ({kind}); prune the float model, and quantize the result.")
        _check_parameters(module, at, kind)


def _check_parameters(module: nn.Module, at: str, kind: str) -> None:
    """InputError unless the module's own parameters are plain tensors of real numbers with something in them."""
    for own, tensor in module.named_parameters(recurse=False):
        if is_lazy(tensor):
            raise InputError(f"{at} is a lazy layer ({kind}) without weights yet; run the model once.")
        if not tensor.numel():
            raise InputError(f"'{own}' of {at} has the shape {tuple(tensor.shape)}: no channels; remove the layer.")
        if tensor.is_complex():
            raise InputError(
                f"'{own}' of {at} is complex ({tensor.dtype}), and surgery knows real numbers only: store it as "
                "torch.view_as_real gives it, or prune the part of the model without it."
            )
        if tensor.is_quantized or is_traceable_wrapper_subclass(tensor):
            raise InputError(
                f"'{own}' of {at} is a {type(tensor).__name__}, not a plain tensor: quantized or sharded? "
                "Prune the plain float model, then quantize or shard the result."
            )


@contextmanager
def plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention step by step; its fused fast path counts as nothing and checks no shapes."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each tensor once: of a shared one only the first name counts."""
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in all_names(model).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[name] = tensor
    return named


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor."""
    first = {id(tensor): name for name, tensor in tensors_of(model).items()}
    return {name: first[id(tensor)] for name, tensor in all_names(model).items()}


def all_names(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, then the buffers that are not saved (tables that the constructor makes)."""
    saved = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}  # it may hold others
    return {**saved, **dict(model.named_buffers(remove_duplicate=False))}


def _free_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    free = pytree.tree_map(
        lambda t: {0: torch.export.Dim.AUTO} if isinstance(t, Tensor) and t.dim() else None, kwargs or args
    )
    return free


def _twice(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor]) if tensor.dim() and tensor.shape[0] == 1 else tensor


def _explain(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], err: Exception) -> Exception:
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    shapes = [tuple(t.shape) for t in tensors]
    try:
        with _buffers_kept(model):
            model(*args, **kwargs)
    except Exception as eager:
        want = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        have = next((t.dtype for t in tensors if t.is_floating_point() and t.dtype != want), want)
        hint = f" The example is {have}, the model {want}: try example.to({want})." if have != want else ""
        return InputError(
            f"an example of shape {shapes} does not run through the model{failing_place(model, eager)}: "
            f"{first_line(eager)}{hint}"
        )
    return TraceError(
        f"torch.export cannot follow {type(model).__name__}.forward{failing_place(model, err)}: {first_line(err)} "
        "Control flow that looks at tensor values, as box selection does, is the usual cause; prune the part of the "
        "model without it, e.g. find_groups(model.backbone, x)."
    )


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """What a run in training mode moves (batch-norm statistics, counters) is put back."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.detach().copy_(value)


def failing_place(model: nn.Module, err: Exception) -> str:
    """Where in the model an error came up: " in 'head' (forward, net.py line 12: y = x.view(-1))"; "" when unknown."""
    names = {id(module): name for name, module in model.named_modules()}
    path, line = None, ""
    for frame, number in traceback.walk_tb(err.__traceback__):
        path = names.get(id(frame.f_locals.get("self")), path)
        code = frame.f_code
        if path is not None and not code.co_filename.startswith(_TORCH):
            text = linecache.getline(code.co_filename, number).strip()
            line = f" ({code.co_name}, {Path(code.co_filename).name} line {number}: {text})"
    return f" in '{path}'{line}" if path else line


_TORCH = str(Path(torch.__file__).parent) + os.sep


def first_line(err: Exception) -> str:
    """The error's type and the first line that it says."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{type(err).__name__}: {lines[0] if lines else 'no message'}"
