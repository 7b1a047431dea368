"""What an exercise and a quiz question are, and where they are found: one file per lesson, lesson_NN.py.

A lesson's file holds two tuples, EXERCISES and QUIZ, or imports them: a long quiz is in quiz_NN.py. A new lesson adds
its file, and nothing else has to know.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from prunekit.errors import InputError

Answer = Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer. answer: what the learner wrote; message: what they thought, in words."""

    name: str
    answer: Answer
    message: str


@dataclass(frozen=True)
class Exercise:
    """One exercise: "01.2" is the second of lesson 01.

    cases() makes the argument lists on which answers are compared, tiny and fresh at each call; reference and every
    alternative are right on them, every mistake is wrong on at least one. hints: from a nudge to nearly the answer.
    note: a sentence to take away, shown once the answer is right.
    """

    id: str
    title: str
    reference: Answer
    cases: Callable[[], tuple[tuple[Any, ...], ...]]
    hints: tuple[str, str, str]
    mistakes: tuple[Mistake, ...]
    alternatives: tuple[Answer, ...]
    note: str = ""

    def source(self) -> str:
        """The reference as a learner would write it."""
        return inspect.getsource(self.reference).strip()


@dataclass(frozen=True)
class Choice:
    """One answer of a quiz question. feedback: why it is right, or what speaks against it."""

    text: str
    feedback: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A quiz question with one right choice. Words and `code`, no TeX: it would be fetched from the net.""" ""

    text: str
    choices: tuple[Choice, ...]


def lessons() -> tuple[str, ...]:
    """Numbers of the lessons that have exercises: ("00", "01", ...)."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.removeprefix("lesson_") for name in names if re.fullmatch(r"lesson_\d\d", name)))


def exercises(lesson: str) -> tuple[Exercise, ...]:
    """A lesson's exercises in order; InputError for a lesson that has none."""
    return _module(lesson).EXERCISES


def questions(lesson: str) -> tuple[Question, ...]:
    """A lesson's quiz; InputError for a lesson that has none."""
    return _module(lesson).QUIZ


def find(exercise_id: str) -> Exercise:
    """The exercise of that number; InputError names the nearest ones, as in "no exercise '1.1'; did you mean 01.1?"."""
    if not isinstance(exercise_id, str):
        raise InputError('the exercise\'s number comes first, in quotes: check("00.1", your_function).')
    everything = {e.id: e for lesson in lessons() for e in exercises(lesson)}
    if exercise_id in everything:
        return everything[exercise_id]
    near = difflib.get_close_matches(exercise_id, everything, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]}?" if near else f"there are: {', '.join(everything)}."
    raise InputError(f"no exercise {exercise_id[:40]!r}; {advice}")


def _module(lesson: str) -> Any:
    if lesson not in lessons():
        raise InputError(f"no exercises for lesson {lesson!r}; there are lessons {', '.join(lessons())}.")
    return import_module(f"{__name__}.lesson_{lesson}")
