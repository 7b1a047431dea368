"""Is this machine ready? Python, packages, device, disk, data: what was found and what to do about it."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from prunekit.course import site
from prunekit.course.presets import read_scale
from prunekit.errors import InputError

EXTRAS = ("onnx", "openvino", "executorch", "quiz", "course")  # the optional parts that a learner meets
LOW_DISK_GIB = 5


@dataclass(frozen=True)
class Finding:
    """One line of the report. broken: prunekit cannot work; note: something optional is missing."""

    state: Literal["ok", "note", "broken"]
    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.state:6} {self.what:12} {self.detail}"


def examine() -> list[Finding]:
    """All checks, in the order a person would make them; never raises."""
    return [_python(), *_packages(), _vision_ops(), _device(), _scale(), _disk(), _checkout(), *_data()]


def _python() -> Finding:
    where = f"{platform.python_version()} at {sys.executable}"
    return Finding("ok" if sys.version_info >= (3, 10) else "broken", "python", where)


def _packages() -> list[Finding]:
    """Every package that prunekit's own metadata asks for, needed ones first, then the optional parts."""
    try:
        asked = [Requirement(line) for line in metadata.requires("prunekit") or []]
    except metadata.PackageNotFoundError:
        return [Finding("broken", "prunekit", "on the path but not installed: pip install -e . in the checkout")]
    needed = [r for r in asked if r.marker is None]
    optional = [(r, e) for e in EXTRAS for r in asked if r.marker and r.marker.evaluate({"extra": e}) and not r.extras]
    return [_package(r, "pip install -e .", "broken") for r in needed] + [
        _package(r, f"pip install 'prunekit[{extra}]'", "note") for r, extra in optional
    ]


def _package(asked: Requirement, remedy: str, otherwise: Literal["note", "broken"]) -> Finding:
    try:
        version = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        return Finding(otherwise, asked.name, f"not installed: {remedy}")
    if not asked.specifier.contains(version, prereleases=True):
        return Finding(otherwise, asked.name, f"{version}, needs {asked.specifier}: {remedy} --upgrade")
    return Finding("ok", asked.name, version)


def _vision_ops() -> Finding:
    """A torchvision built for another torch imports its operators only at use, and fails there."""
    try:
        import_module("torchvision").ops.nms  # noqa: B018
    except Exception as err:
        return Finding("broken", "torchvision", f"does not fit torch ({err}): install both from the same place")
    return Finding("ok", "operators", "torch and torchvision fit together")


def _device() -> Finding:
    try:
        from prunekit.course.setup import device_name, pick_device

        return Finding("ok", "device", device_name(pick_device()))
    except Exception as err:
        return Finding("broken", "device", str(err))


def _scale() -> Finding:
    try:
        return Finding("ok", "scale", read_scale())
    except InputError as err:
        return Finding("broken", "scale", str(err))


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    state = "ok" if free >= LOW_DISK_GIB else "note"
    return Finding(state, "disk", f"{free:.0f} GiB free in {Path.cwd()}")


def _checkout() -> Finding:
    root = site.checkout()
    if root is None:
        return Finding("note", "course", "library only; for lessons and data scripts clone the repository")
    return Finding("ok", "course", str(root))


def _data() -> list[Finding]:
    """Data sets below PRUNEKIT_DATA, or data/ of the checkout."""
    folder = site.data_folder()
    sets = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    if not sets:
        return [Finding("note", "data", f"none in {folder}; mini scale needs none, others: prunekit data")]
    return [Finding("ok", "data", f"{', '.join(sets)} in {folder}")]
