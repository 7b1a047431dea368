"""ONNX export that is proved before it is kept.

The file is written to a hidden folder, checked by onnx, run by onnxruntime and compared with the model in float64, on
the given input and on noise of its shape. A float32 file cannot be exact, so it is measured against what float32 costs
the model itself:

    error(y) = max |y - y64| / max |y64|      kept if  error(onnx) <= tolerance * error(eager float32) + 1e-6

and if its argmax over classes agrees with float64 about as often as eager float32 does. Otherwise nothing is left.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunekit.errors import ExportError, InputError, MissingDependencyError
from prunekit.metrics import evaluating
from prunekit.profiling import check_input, run

FLOOR = 1e-6  # relative error that is always allowed: a few units in the last place of float32
AGREEMENT = 1e-3  # fraction of argmax decisions that may differ beyond those that eager float32 gets wrong
LIMIT_BYTES = 2 * 10**9  # of one ONNX file


@dataclass(frozen=True)
class OnnxExport:
    """A proved file. max_error, eager_error: of the file and of eager float32 against float64, relative to the largest
    output. argmax_agreement: fraction of class decisions equal to float64's (1.0 where there are no classes)."""

    path: Path
    max_error: float
    eager_error: float
    argmax_agreement: float
    bytes: int


def export_onnx(
    model: nn.Module,
    x: Tensor,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = False,
    meta: Mapping[str, Any] | None = None,
    tolerance: float = 10.0,
) -> OnnxExport:
    """Write `model` as one .onnx file for inputs of x's shape, proved, and <name>.export.json with the proof beside it.

    x: example input (B, ...), float, on the model's device. The file's input is "image", its outputs are "logits" or
    the keys of the model's dict. dynamic_batch: any batch size (proved at a second one). meta: what to store with the
    model (plan, class names, palette, where it comes from): texts, anything JSON can hold, tensors, or objects with
    to_json; read back with `onnx.load(path).metadata_props`, keys "prunekit.<key>". tolerance: see the module.

    Raises MissingDependencyError (onnx, onnxruntime, onnxscript), InputError (x, path), ExportError (the exporter
    gives up, or the file fails its proof). The model is left as it was, and a file that was there before stays.
    """
    onnx, onnxruntime = _need("onnx"), _need("onnxruntime")
    _need("onnxscript")
    check_input(model, x)
    if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        raise InputError(
            f"x is {x.dtype} {tuple(x.shape)}; a float batch such as torch.randn(1, 3, 64, 128) is needed."
        )
    texts = {f"prunekit.{key}": _as_text(key, value) for key, value in (meta or {}).items()}
    plain = copy.deepcopy(model).cpu().float().eval()
    if sum(t.numel() * t.element_size() for t in plain.state_dict().values()) >= LIMIT_BYTES:
        raise InputError("the model's weights exceed 2 GB, the most that one ONNX file can hold.")
    with _beside(Path(path)) as (target, folder):
        draft = folder / "model.onnx"
        x = x.detach().cpu().float()
        with _quiet():
            names = _write(plain, x, draft, dynamic_batch, texts)
            session = _session(onnx, onnxruntime, draft)
        result = _prove(plain, x, session, dynamic_batch, tolerance, target, draft.stat().st_size)
        card = {**asdict(result), "path": target.name, "input": list(x.shape), "outputs": names, "meta": texts}
        card |= {"dynamic_batch": dynamic_batch, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
        (folder / "card.json").write_text(json.dumps(card, indent=1))
        os.replace(folder / "card.json", target.with_suffix(".export.json"))
        os.replace(draft, target)
    return result


def _write(model: nn.Module, x: Tensor, draft: Path, dynamic_batch: bool, texts: dict[str, str]) -> list[str]:
    """Export to `draft`, without the paths and source lines the exporter notes on each node. Returns output names."""
    names = _output_names(model, x)
    shapes = None
    if dynamic_batch:
        x = torch.cat([x, x]) if len(x) == 1 else x  # torch.export takes a batch of 1 for a constant
        shapes = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                model,
                (x,),
                dynamo=True,
                verbose=False,
                input_names=["image"],
                output_names=names,
                dynamic_shapes=shapes,
            )
        assert program is not None
        program.model.metadata_props.update(texts)
        program.model.graph.metadata_props.clear()
        for node in program.model.graph:
            scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
            node.metadata_props.clear()
            if scopes is not None:
                node.metadata_props["pkg.torch.onnx.name_scopes"] = scopes
        program.save(draft, external_data=False)
    except Exception as err:  # the exporter raises whatever its many parts raise
        cause = err.__cause__ or err
        hint = " Is the batch size built into its code? Try dynamic_batch=False." if dynamic_batch else ""
        raise ExportError(f"{type(model).__name__} cannot be exported: {_first_line(cause)}.{hint}") from err
    return names


def _session(onnx: Any, onnxruntime: Any, draft: Path) -> Any:
    try:
        onnx.checker.check_model(os.fspath(draft), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(os.fspath(draft), options, providers=["CPUExecutionProvider"])
    except Exception as err:
        raise ExportError(f"the exported file is refused by {type(err).__module__}: {_first_line(err)}") from err


def _prove(
    model: nn.Module, x: Tensor, session: Any, dynamic_batch: bool, tolerance: float, path: Path, size: int
) -> OnnxExport:
    """Compare the file with float64 eager on x, on noise, and at a second batch size; raise ExportError or report."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    inputs = [x, noise, *([torch.cat([x, noise[:1]])] if dynamic_batch else [])]
    exact = copy.deepcopy(model).double()
    worst, eager_worst, agreement = 0.0, 0.0, 1.0
    for given in inputs:
        with evaluating(model), evaluating(exact):
            truth = _outputs(run(exact, given.double()))
            eager = _outputs(run(model, given))
        found = [torch.from_numpy(y) for y in session.run(None, {"image": given.numpy()})]
        error, eager_error = _error(found, truth), _error(eager, truth)
        same, eager_same = _agreement(found, truth), _agreement(eager, truth)
        allowed = tolerance * eager_error + FLOOR
        where = f"on a batch of {tuple(given.shape)}"
        if not error <= allowed:  # nan is a failure too
            raise ExportError(
                f"the exported file is off by {error:.2e} of the largest output {where}, {allowed:.2e} is allowed "
                f"(eager float32: {eager_error:.2e}). Nothing was kept. Raise tolerance only if you know the reason."
            )
        if same < eager_same - AGREEMENT:
            raise ExportError(f"the exported file chooses another class for {1 - same:.2%} of outputs {where}.")
        worst, eager_worst, agreement = max(worst, error), max(eager_worst, eager_error), min(agreement, same)
    return OnnxExport(path, worst, eager_worst, agreement, size)


def _error(found: list[Tensor], truth: list[Tensor]) -> float:
    if [y.shape for y in found] != [t.shape for t in truth]:
        return float("inf")
    scale = max(t.abs().max().item() for t in truth)
    return max((y.double() - t).abs().max().item() for y, t in zip(found, truth, strict=True)) / (scale or 1.0)


def _agreement(found: list[Tensor], truth: list[Tensor]) -> float:
    """Over the first output: class scores (B, K, ...)."""
    if truth[0].ndim < 2 or found[0].shape != truth[0].shape:
        return 1.0
    return (found[0].argmax(1) == truth[0].argmax(1)).double().mean().item()


def _outputs(output: Any) -> list[Tensor]:
    leaves = tree_leaves(output)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
        raise InputError("the model must return float Tensors (alone, in a dict or in a tuple) to be exported.")
    return leaves


def _output_names(model: nn.Module, x: Tensor) -> list[str]:
    with evaluating(model):
        output = run(model, x)
    leaves = _outputs(output)
    if isinstance(output, dict) and len(output) == len(leaves):
        return [str(key) for key in output]
    return ["logits"] if len(leaves) == 1 else [f"output_{i}" for i in range(len(leaves))]


def _as_text(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if hasattr(value, "to_json"):
        return value.to_json()
    try:
        return json.dumps(value, default=lambda v: v.tolist())  # tensors and arrays
    except (TypeError, ValueError, AttributeError) as err:
        raise InputError(
            f"meta['{key}'] is of type {type(value).__name__}, which cannot be stored as text: {err}."
        ) from err


def _need(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as err:
        raise MissingDependencyError(f'export needs {package}: pip install "prunekit[onnx]" ({err}).') from err


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{type(err).__name__}: {lines[0]}".rstrip(".") if lines else type(err).__name__


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """(path, a hidden folder in the same place that is gone afterwards), so that a move puts the file there whole."""
    if path.is_dir() or not path.name:
        raise InputError(f"{path} is a folder; name a file in it, such as {path / 'model.onnx'}.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))
    except OSError as err:
        raise InputError(f"cannot write to {path.parent} ({err.strerror}); create it, or choose another path.") from err
    try:
        yield path, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress, warnings and logs; what goes wrong comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)
