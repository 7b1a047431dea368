"""Networks against each other on the runtimes people deploy to: `prunekit bench`, `compare`, bench.csv.

Each runtime gets a process of its own; in it the networks take turns, one pass each, and the median counts. CPU time
stands beside wall time: where other programs run too, wall time is theirs as well.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from prunekit.errors import InputError, MissingDependencyError, RuntimeFailure
from prunekit.export import card_of, export
from prunekit.runtimes import READS, Runtime, check_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = {".onnx": "onnx", ".pte": "executorch", ".pt2": "torch"}  # what compare exports for a suffix


@dataclass(frozen=True)
class Row:
    """One network on one runtime. wall_ms, cpu_ms: medians of a pass. speedup, cpu_speedup: the first network's time
    divided by this one's. macs_ratio: the first network's MACs divided by this one's, the speed-up to hope for."""

    runtime: str
    version: str
    threads: int
    model: str
    macs: int
    macs_ratio: float
    wall_ms: float
    cpu_ms: float
    speedup: float
    cpu_speedup: float


@dataclass(frozen=True)
class Missed:
    """A runtime that gave no times, and why."""

    runtime: str
    why: str


def bench_files(
    files: Mapping[str, str | os.PathLike[str]],
    runtimes: Sequence[str],
    *,
    threads: int = 1,
    repeats: int = 30,
    warmup: int = 5,
) -> tuple[list[Row], list[Missed]]:
    """Time exported files on each runtime. The first is what the others are compared with.

    files: name -> path, of which the suffix is replaced by the one that a runtime reads: net.onnx stands for net.pte
    and net.pt2 beside it too. Each needs its <file>.export.json, where its input shape and MACs are.
    A runtime that is missing, refuses a file or dies is among the Missed; the others go on. Raises InputError when
    there is nothing to compare: fewer than two files, an unknown runtime, or inputs of different shapes.
    """
    unknown = [name for name in runtimes if name not in READS]
    if unknown or len(files) < 2:
        raise InputError(
            f"no runtime '{unknown[0]}'; there are {', '.join(READS)}." if unknown else "give at least two networks."
        )
    for path in files.values():
        if Path(path).suffix:
            check_file(Path(path))
    rows: list[Row] = []
    missed: list[Missed] = []
    for name in runtimes:
        try:
            rows += _on(name, {title: Path(path) for title, path in files.items()}, threads, repeats, warmup)
        except (InputError, MissingDependencyError, RuntimeFailure) as err:
            missed.append(Missed(name, str(err)))
    return rows, missed


def compare(
    models: Mapping[str, nn.Module], x: Tensor, runtimes: Sequence[str] = ("ort",), **how: int
) -> tuple[list[Row], list[Missed]]:
    """`bench_files` for models in memory, which are exported, proved and thrown away. how: threads, repeats, warmup."""
    with tempfile.TemporaryDirectory(prefix="prunekit-") as folder:
        files = {name: Path(folder) / f"{i}" for i, name in enumerate(models)}
        missed = []
        for suffix in sorted({suffix for name in runtimes for suffix in READS[name] if suffix in TARGETS}):
            for name, model in models.items():
                try:
                    export(model, x, files[name].with_suffix(suffix), TARGETS[suffix])
                except MissingDependencyError as err:
                    missed += [Missed(r, str(err)) for r in runtimes if suffix in READS[r]]
                    break
        left = [name for name in runtimes if name not in {m.runtime for m in missed}]
        rows, more = bench_files(files, left, **how)
        return rows, [*missed, *more]


def _on(runtime: str, files: Mapping[str, Path], threads: int, repeats: int, warmup: int) -> list[Row]:
    found = {name: _file_for(runtime, path) for name, path in files.items()}
    cards = {name: read_card(path) for name, path in found.items()}
    shapes = {card["input"] for card in cards.values()}
    if len(shapes) > 1:
        raise InputError(f"the networks take inputs of different shapes, {sorted(shapes)}: that compares nothing.")
    macs = {name: card["macs"] for name, card in cards.items()}
    x = np.random.default_rng(0).standard_normal(shapes.pop(), dtype=np.float32)
    with Runtime(runtime, threads=threads) as process:
        for name, path in found.items():
            process.load(name, path)
        times = process.time({name: x for name in found}, repeats=repeats, warmup=warmup)  # noqa: C420 (typed)
        version = process.version
    first = next(iter(times))
    return [
        Row(
            runtime,
            version,
            threads,
            name,
            macs[name],
            macs[first] / macs[name],
            timing.wall(),
            timing.cpu(),
            times[first].wall() / timing.wall(),
            times[first].cpu() / timing.cpu(),
        )
        for name, timing in times.items()
    ]


def _file_for(runtime: str, path: Path) -> Path:
    if path.suffix in READS[runtime]:
        return path
    for suffix in READS[runtime]:
        if path.with_suffix(suffix).exists():
            return path.with_suffix(suffix)
    wanted = " or ".join(f"{path.with_suffix(suffix).name}" for suffix in READS[runtime])
    raise InputError(f"{runtime} needs {wanted} in {path.parent.absolute()}: export it first.")


def read_card(path: Path) -> dict[str, Any]:
    """What <file>.export.json says about an exported file, with "input" a shape and "macs" at it."""
    card = card_of(path)
    try:
        found = json.loads(card.read_text())
        return {
            **found,
            "input": tuple(found["input"]),
            "macs": int(json.loads(found["meta"]["prunekit.made_by"])["macs"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise InputError(f"{card} is missing or damaged ({err}); prunekit.export writes it beside each file.") from err


def report(rows: Sequence[Row]) -> str:
    """The rows for people."""
    titles = ("MACs (M)", "wall ms", "cpu ms", "speed-up")
    head = f"{'runtime':<10}{'network':<16}" + "".join(f"{t:>10}" for t in titles) + f"{'by CPU':>8}{'ideal':>8}"
    return "\n".join(
        [
            head,
            *(
                f"{r.runtime:<10}{r.model:<16}{r.macs / 1e6:>10.1f}{r.wall_ms:>10.2f}{r.cpu_ms:>10.2f}"
                f"{r.speedup:>10.2f}{r.cpu_speedup:>8.2f}{r.macs_ratio:>8.2f}"
                for r in rows
            ),
        ]
    )


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """bench.csv: one line a row, in one step."""
    with _whole(Path(path)) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def write_picture(figure: Figure, path: str | os.PathLike[str]) -> None:
    """bench.png, in one step."""
    with _whole(Path(path)) as part:
        figure.savefig(part, dpi=120, format=Path(path).suffix[1:])


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside the path that becomes the path in the end; InputError, and nothing left, when it cannot."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    except OSError as err:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path} ({err.strerror}); create its folder, free some space, or choose another."
        ) from err
