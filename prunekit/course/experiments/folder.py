"""A run's folder belongs to one preset and one set of data: results of another run are never taken for its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunekit.progressive.store import Store
from prunekit.train import TrainConfig


def same_run(folder: Path, config: TrainConfig, preset: Any, *roots: Path | None, but: Iterable[str] = ()) -> None:
    """CheckpointError, naming what differs, unless `folder` is new or began with this preset and these data.

    What checkpoints and stored metrics do not say themselves: the size of a picture, where it was read from. config: of
    any training of the run. but: of the preset's values, those whose results have folders of their own.
    """
    here = {name: value for name, value in asdict(preset).items() if name not in but}
    data = [None if root is None else str(root.resolve()) for root in roots]
    Store(folder, config).refuse_settings({**here, "root": data})
