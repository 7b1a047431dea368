"""What a learner has done: kept while the kernel runs, and in a file of theirs when they ask for it.

progress(save=True)     from now on in data/progress.json, also in later sessions
progress()              the table
progress(save=False)    stop, and remove the file
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path

from prunekit.course import site
from prunekit.course.card import Card
from prunekit.course.exercises import exercises, lessons

FILE = "progress.json"


@dataclass
class Session:
    """wrong: exercise -> answers nobody had foreseen, which is how far its hints have come. done: exercise -> day."""

    wrong: Counter[str] = field(default_factory=Counter)
    done: dict[str, str] = field(default_factory=dict)


@cache
def session() -> Session:
    """This process's only state: a check has to know which hint comes next."""
    return Session()


def solved(exercise_id: str) -> str:
    """Note a right answer; "" or, where the file could not be written, a sentence about it. Keeps the first day."""
    session().done.setdefault(exercise_id, date.today().isoformat())
    try:
        if _file().is_file():
            _write({**session().done, **_read()})
    except (OSError, ValueError) as err:
        return f"Your progress could not be saved in {_file()} ({err})."
    return ""


def progress(*, save: bool | None = None) -> Card:
    """Table of all exercises. save=True keeps it in a file, in later sessions too; save=False removes that file.

    The file lies in the data folder (PRUNEKIT_DATA, else data/) and stays on this machine. Never raises.
    """
    where = "kept only while this kernel runs; `progress(save=True)` keeps it in a file of yours"
    done = session().done
    try:
        if save is False:
            _file().unlink(missing_ok=True)
        elif save or _file().is_file():
            done = {**done, **_read()}
            if save:
                _write(done)
            where = f"kept in {_file()}"
    except (OSError, ValueError) as err:
        where = f"{_file()} cannot be used ({err}); move it away and ask again"
    every = [e for lesson in lessons() for e in exercises(lesson)]
    rows = [f"{e.id}  {done.get(e.id, 'open'):10}  {e.title}" for e in every]
    count = sum(e.id in done for e in every)
    return Card("note", "progress", f"{count} of {len(every)} exercises done, {where}.", "\n".join(rows))


def _file() -> Path:
    return site.data_folder() / FILE


def _read() -> dict[str, str]:
    """Exercise -> day it was first solved; {} without a file, ValueError for a file that is something else."""
    if not _file().is_file():
        return {}
    done = json.loads(_file().read_text(encoding="utf-8"))
    if not isinstance(done, dict) or not all(isinstance(day, str) for day in done.values()):
        raise ValueError("not a record of exercises")
    return done


def _write(done: dict[str, str]) -> None:
    _file().parent.mkdir(parents=True, exist_ok=True)
    part = _file().with_suffix(f".{os.getpid()}.part")  # two notebooks may be open
    part.write_text(json.dumps(done, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(_file())
