"""What every export shares: the model made ready, what travels with it, and a folder in which files become whole.

A file is written to a hidden folder beside its place and moved there only after its proof; <file>.export.json holds
the proof and the same texts that the file itself carries.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunekit.data.transforms import MEAN, STD
from prunekit.errors import ExportError, InputError, MissingDependencyError
from prunekit.metrics import evaluating
from prunekit.profiling import check_input, count_macs, count_params, run
from prunekit.surgery.rules import module_path

# What `prunekit.data.normalize` does, for whoever feeds the file: x = (pixel * scale - mean) / std, NCHW.
IMAGENET_INPUT = MappingProxyType({"order": "RGB", "scale": 1 / 255, "mean": MEAN, "std": STD})


@dataclass(frozen=True)
class Exported:
    """A proved file. max_error, eager_error: of the file and of eager float32 against float64, relative to the largest
    output. argmax_agreement: fraction of class decisions equal to float64's (1.0 where there are no classes). bytes:
    of the file, with what belongs to it."""

    path: Path
    max_error: float
    eager_error: float
    argmax_agreement: float
    bytes: int


@dataclass(frozen=True)
class Job:
    """A model ready to be written: a float32 copy on the CPU in eval mode, x likewise, and what goes with them."""

    model: nn.Module
    x: Tensor
    names: list[str]
    texts: dict[str, str]
    batch: bool = False
    size: bool = False

    def program(self) -> torch.export.ExportedProgram:
        """The model as torch.export sees it; ExportError when it cannot follow the code."""
        x, shapes = self.x, None
        if self.batch or self.size:
            x = torch.cat([x, x]) if self.batch and len(x) == 1 else x  # a batch of 1 is taken for a constant
            axes = [0] * self.batch + [2, 3] * self.size
            shapes = (dict.fromkeys(axes, torch.export.Dim.DYNAMIC),)
        try:
            with torch.no_grad(), quiet():
                return torch.export.export(self.model, (x,), dynamic_shapes=shapes)
        except Exception as err:  # torch.export raises whatever its many parts raise
            hint = " Is that size built into its code? Leave dynamic_batch and dynamic_size off." if shapes else ""
            raise ExportError(f"{type(self.model).__name__} cannot be exported: {first_line(err)}.{hint}") from err

    def inputs(self) -> list[Tensor]:
        """What the file is proved on: x, noise of its shape, and a second shape where shapes are open."""
        noise = torch.Generator().manual_seed(0)
        shape = list(self.x.shape)
        found = [self.x, torch.randn(shape, generator=noise)]
        if self.batch or self.size:
            shape[0] += self.batch
            if self.size:
                shape[2:] = [shape[2] + 32, shape[3] + 64]
            found.append(torch.randn(shape, generator=noise))
        return found


def prepare(
    model: nn.Module, x: Tensor, meta: Mapping[str, Any] | None, batch: bool = False, size: bool = False
) -> Job:
    """Check the arguments and make the Job. Raises InputError."""
    check_input(model, x)
    if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        raise InputError(
            f"x is {x.dtype} {tuple(x.shape)}; a float batch such as torch.randn(1, 3, 64, 128) is needed."
        )
    if size and x.ndim != 4:
        raise InputError(f"dynamic_size needs images (B, C, H, W), x is {tuple(x.shape)}.")
    texts = {f"prunekit.{key}": as_text(key, value) for key, value in (meta or {}).items()}
    plain = copy.deepcopy(model).cpu().float().eval()
    x = x.detach().cpu().float()
    with evaluating(plain):
        output = run(plain, x)
    names = _names(output)
    made_by = {"prunekit": metadata.version("prunekit"), "torch": torch.__version__, "model": type(model).__name__}
    about = {"made_by": made_by | {"params": count_params(plain), "macs": count_macs(plain, x)}}
    about["input"] = {"name": "image", "shape": list(x.shape), "dtype": "float32"}
    return Job(
        plain, x, names, {f"prunekit.{key}": json.dumps(value) for key, value in about.items()} | texts, batch, size
    )


def outputs_of(output: Any) -> list[Tensor]:
    """The Tensors of a model's output, in order."""
    leaves = tree_leaves(output)
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
        raise InputError("the model must return float Tensors (alone, in a dict or in a tuple) to be exported.")
    return leaves


def _names(output: Any) -> list[str]:
    leaves = outputs_of(output)
    if isinstance(output, dict) and len(output) == len(leaves):
        return [str(key) for key in output]
    return ["logits"] if len(leaves) == 1 else [f"output_{i}" for i in range(len(leaves))]


def as_text(key: str, value: Any) -> str:
    """One entry of `meta` as text; InputError for what cannot be."""
    if isinstance(value, str):
        return value
    if hasattr(value, "to_json"):
        return value.to_json()
    try:
        value = dict(value) if isinstance(value, Mapping) else value
        return json.dumps(value, default=lambda v: v.tolist())  # tensors and arrays
    except (TypeError, ValueError, AttributeError) as err:
        raise InputError(
            f"meta['{key}'] is of type {type(value).__name__}, which cannot be stored as text: {err}."
        ) from err


def keep(job: Job, drafts: Mapping[Path, Path], result: Exported, **more: Any) -> Exported:
    """Write the card and move all files to their places, the one that is asked for last. drafts: place -> draft.

    All or nothing: what was there before comes back if a move fails.
    """
    card = {**asdict(result), "path": result.path.name, "input": list(job.x.shape), "outputs": job.names}
    card |= {"dynamic_batch": job.batch, "dynamic_size": job.size, "machine": platform.machine(), **more}
    card["meta"] = job.texts
    folder = next(iter(drafts.values())).parent
    (folder / "card.json").write_text(json.dumps(card, indent=1))
    moves = {card_of(result.path): folder / "card.json", **drafts}
    before = {place: _copy(place, folder / f"before{i}") for i, place in enumerate(moves) if place.exists()}
    moved: list[Path] = []
    try:
        for place, draft in moves.items():
            os.replace(draft, place)
            moved.append(place)
    except OSError:
        for place in moved:
            os.replace(before[place], place) if place in before else place.unlink()
        raise
    return result


def _copy(file: Path, to: Path) -> Path:
    """A second name for the file; a copy where the file system has no hard links."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)
    return to


def card_of(path: Path) -> Path:
    """net.onnx -> net.onnx.export.json"""
    return path.with_name(f"{path.name}.export.json")


def need(package: str, extra: str) -> Any:
    """The imported package, or MissingDependencyError with the pip line."""
    try:
        return import_module(package)
    except ImportError as err:
        raise MissingDependencyError(f'export needs {package}: pip install "prunekit[{extra}]" ({err}).') from err


def first_line(err: BaseException) -> str:
    """The kind of error and the first line it says."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{type(err).__name__}: {lines[0]}".rstrip(".") if lines else type(err).__name__


def culprit(program: torch.export.ExportedProgram, err: BaseException) -> str:
    """The operator that an error speaks of and the module that calls it, as far as the graph tells: " (op in path)"."""
    texts, cause = [], err
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    for named in re.findall(r"(?:aten|torchvision|prims?)(?:::|\.)(\w+)", "\n".join(texts)):
        for node in program.graph.nodes:
            parts = str(node.target).split(".")  # aten.special_bessel_j0.default, which decomposes to prims.bessel_j0
            if node.op == "call_function" and len(parts) > 1 and f"_{parts[-2]}".endswith(f"_{named}"):
                return f" The operator is {node.target}, called in '{module_path(node) or 'the model itself'}'."
    return ""


@contextlib.contextmanager
def beside(path: str | os.PathLike[str], suffixes: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """(path, a hidden folder in the same place that is gone afterwards), so that a move puts files there whole."""
    path = Path(path)
    if path.is_dir() or not path.name:
        raise InputError(f"{path} is a folder; name a file in it, such as {path / f'model{suffixes[0]}'}.")
    if path.suffix not in suffixes:
        raise InputError(f"{path.name} must end in {' or '.join(suffixes)}: other tools read the kind off the name.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=path.parent))
    except OSError as err:
        raise InputError(f"cannot write to {path.parent} ({err.strerror}); create it, or choose another path.") from err
    try:
        yield path, folder
    except OSError as err:
        raise ExportError(f"cannot write {path} ({err.strerror or err}); free some space. Nothing was kept.") from err
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
