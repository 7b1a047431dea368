"""How long a run took, over all its starts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from prunekit.course.experiments.measured import first_process
from prunekit.errors import CheckpointError


class Clock:
    """Seconds inside the block, with those of earlier starts, which `file` (JSON) keeps. now: the clock that is read,
    e.g. time.process_time for what this process computed.

        with Clock(folder / "seconds.json") as clock:
            ...
            print(clock.total())

    What a killed process had spent since its start is lost, and what one had that a CheckpointError ended. Raises
    CheckpointError for a damaged file.
    """

    def __init__(self, file: Path, now: Callable[[], float] = time.perf_counter) -> None:
        self.file, self.now, self.start = file, now, now()
        try:
            kept = json.loads(file.read_text()) if file.exists() else {"seconds": 0.0, "done": False}
            self.before, self.done = float(kept["seconds"]), bool(kept["done"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise CheckpointError(f"{file} is damaged ({err}); delete it, its seconds are lost.") from err

    def total(self) -> float:
        """Seconds until now. From here on the run is done: what starts it again does not make it longer."""
        if not self.done:
            self.before, self.done = self._now(), True
        return self.before

    def _now(self) -> float:
        return self.before if self.done else self.before + self.now() - self.start

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and issubclass(kind, CheckpointError):
            return  # most likely refused: the folder is another run's
        if first_process() and self.file.parent.is_dir():  # no folder: refused before it began
            part = self.file.with_name(f".{self.file.name}.part")
            part.write_text(json.dumps({"seconds": self._now(), "done": self.done}))
            part.replace(self.file)
