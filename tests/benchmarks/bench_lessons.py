"""How long the lessons take at mini scale, run as a learner runs them: a fresh kernel, all cores."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import pytest

from prunekit.course.lesson import execute, notebook_path
from prunekit.course.presets import LESSONS

LIMIT_S, SHORTER_S = 180, {"00": 90, "02": 90}


@pytest.mark.parametrize("number", [name[:2] for name in LESSONS])
def test_lesson_takes_no_longer_than_it_says(number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRUNEKIT_RESULTS", "OMP_NUM_THREADS", "MPLBACKEND"):  # what tests get and a learner does not
        monkeypatch.delenv(name, raising=False)
    path = notebook_path(number)
    start = time.perf_counter()
    execute(nbformat.read(path, as_version=4), path.parent, out=tmp_path)
    took = time.perf_counter() - start
    print(f"{path.stem}: {took:.0f} s")
    assert took <= SHORTER_S.get(number, LIMIT_S)
