"""The table of evaluations, candidate -> (error, cost), and its file search.json: written whole, in one move.

The file says what it is a search of (settings, space, data, weights), so that another one is refused, whatever its
length, and holds the sha256 of its rows, so that a damaged one is. The seconds that measuring took stand
beside them. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from prunekit.errors import CheckpointError
from prunekit.methods.eapruning.space import Counts
from prunekit.methods.eapruning.workers import Values, same_for_all
from prunekit.train.checkpoint import weights_hash

FORMAT = "prunekit-search-2"
NAME = "search.json"
EVERY_S = 30.0


@dataclass
class Evaluations:
    """values: what was measured. file: where it is kept, or None. seconds: that measuring took, over all starts."""

    identity: Mapping[str, Any]
    file: Path | None = None
    values: dict[Counts, Values] = field(default_factory=dict)
    seconds: float = 0.0

    @staticmethod
    def open(folder: str | Path | None, identity: Mapping[str, Any], model: nn.Module) -> Evaluations:
        """The folder's table if it has one of this search, else an empty one."""
        if folder is None:
            return Evaluations(identity)
        identity = json.loads(json.dumps({"weights": weights_hash(model), **identity}))  # as it looks after storing
        table = Evaluations(identity, Path(folder) / NAME)
        assert table.file is not None
        file = table.file
        # ranks may be on machines without a common disk
        table.values, table.seconds = same_for_all(lambda: _read(file, identity) if file.exists() else ({}, 0.0))
        return table

    @contextmanager
    def kept(self) -> Iterator[Callable[[Counts, Values], None]]:
        """put(counts, values). What is put inside is on the disk afterwards, also when it is broken off; every EVERY_S
        seconds on the way too, for a process that is killed.
        """
        written, when = len(self.values), time.monotonic()

        def write() -> None:
            nonlocal written, when
            now = time.monotonic()
            self.seconds, when = self.seconds + now - when, now
            if self.file is not None and len(self.values) > written and int(os.environ.get("RANK", "0")) == 0:
                self._write(self.file)
            written = len(self.values)

        def put(counts: Counts, values: Values) -> None:
            self.values[counts] = values
            if time.monotonic() - when > EVERY_S:
                write()

        try:
            yield put
        finally:
            write()

    def _write(self, file: Path) -> None:
        rows = [[list(counts), *values] for counts, values in self.values.items()]
        known = _digest([self.identity, rows])
        text = json.dumps(
            {"format": FORMAT, "identity": self.identity, "sha256": known, "rows": rows, "seconds": self.seconds}
        )
        part = file.with_name(f".{file.name}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        except OSError as err:
            raise CheckpointError(f"cannot write {file} ({err}); free space, or give another folder.") from err


def _read(file: Path, identity: Mapping[str, Any]) -> tuple[dict[Counts, Values], float]:
    try:
        raw = json.loads(file.read_text())
        there, rows, known = raw["identity"], raw["rows"], raw["sha256"]
        if raw["format"] != FORMAT:
            raise ValueError(f"its format is {raw['format']!r}, not {FORMAT!r}")
        if not isinstance(there, dict) or _digest([there, rows]) != known:
            raise ValueError("its rows are not those that were written")
        values = {tuple(counts): (float(error), float(cost)) for counts, error, cost in rows}
        seconds = float(raw.get("seconds", 0.0))  # a file of before they were kept has none
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(
            f"{file} is damaged ({type(err).__name__}: {err}). Restore it from a copy, or delete it to start over."
        ) from err
    for key in identity:
        old, new = _but_length(there.get(key)), _but_length(identity[key])
        if old != new:
            old, new = _first_difference(old, new)
            raise CheckpointError(
                f"{file} is of another search: {key} was {old}, now {new}. Use what it was started with, or another "
                "folder for another search."
            )
    return values, seconds


def _but_length(part: Any) -> Any:
    """Without the number of generations: a longer search begins as a shorter one, so it may go on from its rows."""
    return {name: value for name, value in part.items() if name != "generations"} if isinstance(part, dict) else part


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
