"""The table of evaluations, candidate -> (error, cost), and its file search.json: written whole, in one move.

The file says what it is a search of (settings, space, data, weights), so that another one is refused, and holds the
sha256 of its rows, so that a damaged one is. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from prunekit.errors import CheckpointError
from prunekit.methods.eapruning.space import Counts
from prunekit.methods.eapruning.workers import Values
from prunekit.train.checkpoint import weights_hash

FORMAT = "prunekit-search-1"
NAME = "search.json"


@dataclass
class Evaluations:
    """values: what was measured. file: where it is kept, or None."""

    identity: Mapping[str, Any]
    file: Path | None = None
    values: dict[Counts, Values] = field(default_factory=dict)

    @staticmethod
    def open(folder: str | Path | None, identity: Mapping[str, Any], model: nn.Module) -> Evaluations:
        """The folder's table if it has one of this search, else an empty one."""
        if folder is None:
            return Evaluations(identity)
        identity = json.loads(json.dumps({**identity, "weights": weights_hash(model)}))  # as it looks after storing
        table = Evaluations(identity, Path(folder) / NAME)
        assert table.file is not None
        if table.file.exists():
            table.values = _read(table.file, identity)
        return table

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is measured inside is on the disk afterwards, also when it is broken off."""
        before = len(self.values)
        try:
            yield
        finally:
            if self.file is not None and len(self.values) > before and int(os.environ.get("RANK", "0")) == 0:
                self._write(self.file)

    def _write(self, file: Path) -> None:
        rows = [[list(counts), *values] for counts, values in self.values.items()]
        text = json.dumps({"format": FORMAT, "identity": self.identity, "sha256": _digest(rows), "rows": rows})
        part = file.with_name(f".{file.name}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text)
            part.replace(file)
        except OSError as err:
            raise CheckpointError(f"cannot write {file} ({err}); free space, or give another folder.") from err


def _read(file: Path, identity: Mapping[str, Any]) -> dict[Counts, Values]:
    try:
        raw = json.loads(file.read_text())
        there, rows, known = raw["identity"], raw["rows"], raw["sha256"]
        if raw["format"] != FORMAT:
            raise ValueError(f"its format is {raw['format']!r}, not {FORMAT!r}")
        if _digest(rows) != known:
            raise ValueError("its rows are not those that were written")
        values = {tuple(counts): (float(error), float(cost)) for counts, error, cost in rows}
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{file} is damaged ({type(err).__name__}: {err}). Restore it from a copy, or delete it to start over."
        ) from err
    for key in identity:
        if there.get(key) != identity[key]:
            old, new = _first_difference(there.get(key), identity[key])
            raise CheckpointError(
                f"{file} is of another search: {key} was {old}, now {new}. Use what it was started with, or another "
                "folder for another search."
            )
    return values


def _first_difference(old: Any, new: Any) -> tuple[str, str]:
    """Of two tables the first entry that differs, else the two."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in new:
            if old.get(name) != new[name]:
                inner = _first_difference(old.get(name), new[name])
                return f"{name}={inner[0]}", f"{name}={inner[1]}"
    return f"{old!r:.60}", f"{new!r:.60}"


def _digest(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
