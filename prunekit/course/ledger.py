"""The results ledger: one JSON file per run in book/results, and the tables drawn from it.

A file is named by what was run (claim, scale, method, seed, settings), so running the same thing again replaces its
record instead of counting a seed twice. Nothing is typed in by hand: notebooks and book draw their tables from here.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from prunekit.course import site
from prunekit.course.presets import read_scale
from prunekit.course.setup import commit, device_name, pick_device, versions
from prunekit.errors import DataError, InputError

ENOUGH_SEEDS = 3  # fewer runs than this and a claim stays open


@dataclass(frozen=True)
class Record:
    """One run. metrics: name -> number, or list of numbers (per class); None where a value does not exist."""

    claim: str
    scale: str
    method: str
    seed: int
    settings: dict[str, Any]
    metrics: dict[str, Any]
    seconds: float
    device: str
    versions: dict[str, str]
    commit: str

    def file_name(self) -> str:
        """Same run, same name."""
        settings = json.dumps(self.settings, sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        words = "_".join([self.claim, self.scale, self.method, f"s{self.seed}", digest])
        return re.sub(r"[^A-Za-z0-9_.+-]+", "-", words) + ".json"


def record(
    claim: str,
    *,
    method: str,
    seed: int,
    metrics: Mapping[str, Any],
    seconds: float,
    settings: Mapping[str, Any] | None = None,
    scale: str | None = None,
) -> Path:
    """Write one run into the ledger in one step and return the file. Device, versions and commit are added here.

    Tensors and arrays become lists, NaN becomes null (a class that is absent has no IoU). InputError for an infinite
    value or something JSON cannot hold.
    """
    entry = Record(
        claim=claim,
        scale=read_scale(scale),
        method=method,
        seed=seed,
        settings={k: plain(v, k) for k, v in (settings or {}).items()},
        metrics={k: plain(v, k) for k, v in metrics.items()},
        seconds=round(seconds, 3),
        device=device_name(pick_device()),
        versions=versions(),
        commit=commit(),
    )
    folder = results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / entry.file_name()
    part = target.with_suffix(f".{os.getpid()}.part")  # several runs may write at once
    part.write_text(json.dumps(asdict(entry), indent=1, sort_keys=True, allow_nan=False) + "\n")
    part.replace(target)
    return target


def results_folder() -> Path:
    """PRUNEKIT_RESULTS, else book/results of the checkout; InputError when there is neither."""
    given = os.environ.get("PRUNEKIT_RESULTS")
    return Path(given) if given else site.need_checkout("the results ledger (or set PRUNEKIT_RESULTS)") / "book/results"


def load(claim: str | None = None, *, folder: Path | None = None) -> tuple[Record, ...]:
    """All records, or one claim's, ordered by file name. DataError names a file that is not a record."""
    found = []
    names = {f.name for f in fields(Record)}
    for path in sorted((folder or results_folder()).glob("*.json")):
        try:
            raw = json.loads(path.read_text())
            if set(raw) != names:
                raise ValueError(f"fields differ: {', '.join(sorted(set(raw) ^ names))}")
            entry = Record(**raw)
        except (ValueError, TypeError) as err:
            raise DataError(f"{path} is not a ledger record ({err}); remove it or run it again.") from err
        if claim in (None, entry.claim):
            found.append(entry)
    return tuple(found)


def table(records: Iterable[Record], metrics: Sequence[str], *, settings: Sequence[str] = ()) -> str:
    """Markdown table: one row per (scale, method, chosen settings), each metric as mean ± sample deviation over seeds.

    A row of fewer than three seeds says so. Metrics a record does not have are left out of its mean.
    """
    rows: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for entry in records:
        rows[(entry.scale, entry.method, *(str(entry.settings.get(s, "")) for s in settings))].append(entry)
    head = ["scale", "method", *settings, *metrics, "seeds"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for key in sorted(rows):
        entries = rows[key]
        seeds = len({e.seed for e in entries})
        few = "" if seeds >= ENOUGH_SEEDS else " (open)"
        cells = [*key, *(_spread([e.metrics.get(m) for e in entries]) for m in metrics), f"{seeds}{few}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[Any]) -> str:
    numbers = [float(v) for v in values if isinstance(v, (int, float))]
    if not numbers:
        return "-"
    if len(numbers) == 1:
        return _short(numbers[0])
    return f"{_short(mean(numbers))} ± {_short(stdev(numbers))}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def plain(value: Any, name: str) -> Any:
    """Only what JSON holds: numbers, text, lists, dictionaries, None."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(k): plain(v, name) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, name) for v in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(f"'{name}' is {value!r}, which the ledger cannot hold; give finite numbers, text or lists.")
