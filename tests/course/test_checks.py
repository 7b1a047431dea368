"""check answers whatever a learner hands it in words, stops what does not stop, and leaves the session as it was."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn

from prunekit.course import checks, compare, exercises, learner, sandbox
from prunekit.course.checks import check, hint, judge, solution
from prunekit.course.exercises import Exercise, Mistake
from prunekit.course.lesson import execute


@pytest.fixture(autouse=True)
def fresh_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    learner.session.cache_clear()
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path / "data"))


def halve(x_N, steps):
    return x_N / 2


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Exercise:
    """ "09.1": halve two tensors."""
    exercise = Exercise(
        id="09.1",
        title="halve",
        reference=halve,
        cases=lambda: ((torch.tensor([1.0, 2.0, 4.0]), 1), (torch.tensor([3.0, -1.0]), 2)),
        hints=("think of two", "divide", "`x_N / 2`"),
        mistakes=(Mistake("mean", lambda x_N, steps: x_N.mean(), "you took the mean"),),
        alternatives=(lambda x_N, steps: 0.5 * x_N,),
    )
    monkeypatch.setattr(exercises, "lessons", lambda: ("09",))
    monkeypatch.setattr(learner, "lessons", lambda: ("09",))
    for module in (exercises, learner):
        monkeypatch.setattr(module, "exercises", lambda lesson: (exercise,))
    return exercise


def raises(x_N, steps):
    y_N = x_N * 2
    return y_N[7]


def in_place(x_N, steps):
    x_N /= 2
    return x_N.clone()


class Evil:
    def __repr__(self) -> str:
        return "<script>alert(1)</script>"


class Broken:
    def __repr__(self) -> str:
        raise ValueError


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raise_(error: BaseException) -> Callable:
    def answer(x_N, steps):
        raise error

    return answer


def interrupts(x_N, steps):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)


ANSWERS: dict[str, tuple[object, str]] = {
    "raises": (raises, "IndexError: index 7 is out of bounds"),
    "its line": (raises, "return y_N[7]"),
    "exits": (lambda x_N, steps: sys.exit(3), "SystemExit: 3"),
    "is stopped by hand": (interrupts, "stopped by hand"),
    "raises what cannot be printed": (raise_(Unprintable()), "Unprintable"),
    "raises at length": (raise_(ValueError("x" * 9999)), "xxx ..."),
    "raises no exception": (raise_(GeneratorExit()), "GeneratorExit"),
    "recursion": (raise_(RecursionError("too deep")), "RecursionError"),
    "in place": (in_place, "your function changes `x_N`, which is not its own"),
    "a list": (lambda x_N, steps: (x_N / 2).tolist(), "it is a list of 3, wanted is a tensor of shape (3,)"),
    "a number": (lambda x_N, steps: 0.5, "it is a number, wanted is a tensor"),
    "numpy": (lambda x_N, steps: x_N.numpy() / 2, "something of type ndarray"),
    "a pair": (lambda x_N, steps: x_N.sort(), "it is a pair (`sort` gives `.values` and `.indices`)"),
    "shape": (lambda x_N, steps: (x_N / 2)[None], "the shape (1, 3), wanted is (3,)"),
    "shape of the second example": (lambda x_N, steps: x_N[:3] / 2 if steps == 1 else x_N[:1], "the shape (1,)"),
    "nothing for the second example": (lambda x_N, steps: x_N / 2 if steps == 1 else None, "it is None, wanted"),
    "NaN": (lambda x_N, steps: x_N / 0 * 0, "there is a NaN in it"),
    "integers": (lambda x_N, steps: (x_N / 2).long(), "not yet"),
    "ten times": (lambda x_N, steps: 5 * x_N, "everywhere 10 times the right number"),
    "percent": (lambda x_N, steps: 50 * x_N, "right, but in percent"),
    "sign": (lambda x_N, steps: -x_N / 2, "the sign is wrong"),
    "order": (lambda x_N, steps: (x_N / 2).flip(0), "the right numbers in the wrong order"),
    "rounded": (lambda x_N, steps: x_N / 2 + 0.003, "close: do not round"),
    "the mistake": (lambda x_N, steps: x_N.sum() / len(x_N), "you took the mean."),
    "one argument too few": (lambda x_N: x_N, "it is called with (x_N, steps), yours takes (x_N)"),
    "no function": (torch.zeros(3), "the function itself is wanted, without brackets, not a tensor of shape (3,)"),
    "nothing": (None, "without brackets, not None"),
    "a class": (nn.Linear, "it has"),
    "html": (lambda x_N, steps: Evil(), "something of type Evil"),
    "no repr": (lambda x_N, steps: Broken(), "whose repr raises ValueError"),
    "meta tensor": (lambda x_N, steps: torch.empty(3, device="meta"), "cannot be compared"),
    "unknown": (lambda x_N, steps: x_N**3, "Hint 1 of 3: think of two"),
}


@pytest.mark.parametrize("name", [n for n in ANSWERS if n not in ("a class",)])
def test_wrong_answers_get_words(name: str, toy: Exercise):
    answer, words = ANSWERS[name]
    card = check("09.1", answer)
    assert card.state == "wrong" and words in str(card), card


def test_a_class_or_a_builtin_as_an_answer_does_not_raise(toy: Exercise):
    for odd in (nn.Linear, print, torch.add, type, len, nn.Identity(), Evil):
        assert not check("09.1", odd).ok


ODD = (0, 1.5, 10**400, 1j, "x", b"x", True, (), [], {}, set(), [None], (None, 1), [float("nan")] * 3, [[1, 2], [3]])
ODD += (
    object(),
    type,
    range(3),
    iter([1]),
    nn.Linear(1, 1),
    Broken(),
    torch.zeros(0),
    torch.zeros(3, dtype=torch.cfloat),
)
ODD += (torch.eye(3).to_sparse(), torch.zeros(3, device="meta"), torch.zeros(3).requires_grad_(), np.zeros(3))


@pytest.mark.parametrize("number", [e.id for lesson in exercises.lessons() for e in exercises.exercises(lesson)])
def test_whatever_comes_back_from_any_exercise_is_wrong_and_gets_words(number: str):
    for odd in ODD:
        card = check(number, lambda *args, odd=odd: odd)
        assert card.state in ("wrong", "open") and str(card) and card._repr_html_()


def test_right_answers_may_be_written_in_other_ways(toy: Exercise):
    def noisy(x_N, steps):
        return torch.rand(0).sum() + x_N.double().requires_grad_() / 2

    class Method:
        def halve(self, x_N, steps):
            return x_N * 0.5

    for answer in (halve, lambda a, b: a / 2, lambda *args: args[0] / 2, noisy, Method().halve):
        assert check("09.1", answer).ok


def test_hints_come_one_after_the_other_and_foreseen_mistakes_cost_none(toy: Exercise):
    wrong = lambda x_N, steps: x_N**3  # noqa: E731
    check("09.1", ANSWERS["the mistake"][0])
    found = [check("09.1", wrong).more for _ in range(4)]
    assert found == [f"Hint {i} of 3: {toy.hints[i - 1]}" for i in (1, 2, 3, 3)]


def test_an_unknown_wrong_answer_shows_the_example_it_is_wrong_on(toy: Exercise):
    card = check("09.1", lambda x_N, steps: x_N / 2 if steps == 1 else x_N**2)
    assert (
        card.code == "x_N = tensor([ 3., -1.])\nsteps = 2\nyours: tensor([9., 1.])\nright: tensor([ 1.5000, -0.5000])"
    )


def test_nothing_of_the_learners_is_html(toy: Exercise):
    for answer in (lambda x_N, steps: Evil(), raise_(ValueError("<img src=x onerror=alert(1)> $x$"))):
        page = check("09.1", answer)._repr_html_()
        assert "<script" not in page and "<img" not in page and "&lt;" in page
        assert "mathjax_ignore" in page, "a dollar in an error would be taken for TeX"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("9.1", "no exercise '9.1'; did you mean 09.1?"),
        ("sirfp.2", "there are: 09.1."),
        ("", "there are: 09.1."),
        (9.1, "in quotes"),
        (halve, "in quotes"),
        ("<b>", "no exercise"),
    ],
)
def test_unknown_exercises_are_answered_with_the_nearest(number: object, words: str, toy: Exercise):
    for card in (check(number, halve), hint(number), solution(number)):  # type: ignore[arg-type]
        assert card.state == "wrong" and words in str(card)
        assert "<b>" not in card._repr_html_().replace("<b>✗", "")


def test_hint_and_solution(toy: Exercise):
    assert [toy.hints[i - 1] in str(hint("09.1", i)) for i in (1, 2, 3)] == [True] * 3
    for level in (0, 4, "2", None):
        assert "there are three hints" in str(hint("09.1", level))  # type: ignore[arg-type]
    assert solution("09.1").code == "def halve(x_N, steps):\n    return x_N / 2"


# Time.


def forever(x_N, steps):
    while True:
        pass


def forever_and_deaf(x_N, steps):
    while True:
        try:  # noqa: SIM105
            time.sleep(0)
        except:  # noqa: E722
            pass


def asleep(x_N, steps):
    time.sleep(60)


@pytest.mark.parametrize("answer", [forever, forever_and_deaf, asleep])
def test_an_endless_loop_is_stopped(answer: Callable, toy: Exercise):
    start = time.monotonic()
    card = check("09.1", answer)
    assert time.monotonic() - start < 2
    assert "stopped after 1.5 seconds" in str(card) and card.code.startswith("line ")


def test_an_endless_loop_is_stopped_where_there_are_no_signals(toy: Exercise):
    """As on Windows, or in another thread than the main one."""
    found: list = []
    worker = threading.Thread(target=lambda: found.append(check("09.1", forever)), daemon=True)
    start = time.monotonic()
    worker.start()
    worker.join(5)
    assert found and "stopped after" in str(found[0]) and time.monotonic() - start < 2


def test_the_main_thread_without_signals(toy: Exercise, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(signal, "setitimer")
    assert "stopped after" in str(check("09.1", forever))
    assert check("09.1", halve).ok


def test_time_is_for_all_examples_together(toy: Exercise, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "SECONDS", 0.5)

    def slow(x_N, steps):
        time.sleep(0.3)
        return x_N / 2

    assert "stopped after 0.5 seconds" in str(check("09.1", slow))


def test_somebody_elses_alarm_still_rings():
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    try:
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        assert sandbox.run(asleep, (None, None), seconds=0.1).state == "late"
        assert not rung
        while not rung and time.monotonic() - start < 3:
            time.sleep(0.01)
        assert 0.35 < rung[0] - start < 1.5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Isolation.


def messy(x_N, steps):
    torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("error")
    os.chdir("/")
    if steps == 2:
        raise RuntimeError("half way")
    return x_N / 2


def test_everything_is_put_back(toy: Exercise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def state() -> tuple:
        numbers = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # type: ignore[index] # noqa: NPY002
        modes = torch.is_grad_enabled(), torch.get_default_dtype(), list(warnings.filters), Path.cwd()
        modes = (*modes, sys.gettrace(), signal.getsignal(signal.SIGALRM))
        return str([n.tolist() if hasattr(n, "tolist") else n for n in numbers]), modes

    before = state()
    for answer in (messy, halve, forever, forever_and_deaf):
        check("09.1", answer)
        assert state() == before
    assert judge(toy, messy).state == "wrong"


def test_a_learners_function_has_gradients_and_fixed_numbers_whatever_the_notebook_did(toy: Exercise):
    seen = []

    def look(x_N, steps):
        seen.append((torch.is_grad_enabled(), torch.rand(1).item(), torch.zeros(1).dtype))
        return x_N / 2

    with torch.no_grad():
        for seed in (1, 2):
            torch.manual_seed(seed)
            assert check("09.1", look).ok
    assert seen[:2] == seen[2:] and seen[0][0]


def test_warnings_of_a_learner_do_not_reach_the_page(toy: Exercise, recwarn: pytest.WarningsRecorder):
    def warns(x_N, steps):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return x_N / 2

    assert check("09.1", warns).ok and not recwarn.list


# Comparing.


@pytest.mark.parametrize(
    ("got", "right", "words"),
    [
        (2, 2, None),
        (2.0, 2, None),
        (torch.tensor(2.0), 2.0, None),
        (np.float64(2), 2.0, None),
        (2.0, torch.tensor(2.0), None),
        (True, 1, "it is a bool, wanted is a number"),
        (3, 2, compare.VALUES),
        (float("nan"), 2.0, "it is NaN"),
        ("2", 2, "it is a str, wanted is a number"),
        ([1, 2], (1, 2), None),
        ((1, 3), (1, 2), compare.VALUES),
        ((1, "x"), (1, 2), "item 2: it is a str"),
        ((1,), (1, 2), "it has 1 items, 2 are wanted"),
        ({"a": 1}, {"a": 1}, None),
        ({"b": 1}, {"a": 1}, "the keys are ['b']"),
        ({"a": "1"}, {"a": 1}, "at 'a': it is a str"),
        (["b", "a"], {"a", "b"}, None),
        ({"a"}, {"a", "b"}, compare.VALUES),
        (("a", "c"), {"a", "b"}, compare.VALUES),
        ("ab", {"a", "b"}, "it is a str, wanted is a set of 2"),
        (True, True, None),
        (1, True, "it is a number, wanted is a bool"),
        ("a", "a", None),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), None),
        (torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), "the values are right, but as torch.int64"),
        (torch.tensor([True, False]), torch.tensor([1, 0]), "the values are right, but as torch.bool"),
        (torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 2.0]), None),
        (torch.tensor([1.00001]), torch.tensor([1.0]), None),
        (torch.tensor([10000001]), torch.tensor([10000000]), compare.VALUES),
        (torch.eye(2).to_sparse(), torch.eye(2), "cannot be compared"),
    ],
)
def test_difference(got: object, right: object, words: str | None):
    found = compare.difference(got, right)
    assert found == words if words is None or found is None else words in found


def test_changes_are_seen_inside_modules_and_lists():
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.load_state_dict(layer.state_dict())
    assert compare.unchanged([layer, {"a": torch.tensor([float("nan")])}], [other, {"a": torch.tensor([float("nan")])}])
    other.weight.data[0, 0] += 1
    assert not compare.unchanged([layer], [other])
    assert not compare.unchanged([1], [1, 2])
    assert not compare.unchanged(torch.zeros(2), torch.zeros(2, dtype=torch.long))


def test_in_a_notebook_the_card_is_shown_with_the_line_of_the_cell_and_loops_are_stopped(tmp_path: Path):
    cells = [
        "from prunekit.course import check",
        "def recall(counts_KK):\n    return counts_KK[9]\n\n\ncheck('01.1', recall)",
        "def recall(counts_KK):\n    while True:\n        pass\n\n\ncheck('01.1', recall)",
        "print('the kernel goes on')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    execute(notebook, tmp_path, timeout=120)
    first, second = (cell.outputs[0].data for cell in notebook.cells[1:3])
    assert "line 2: return counts_KK[9]" in first["text/plain"] and "<pre" in first["text/html"]
    assert "stopped after 1.5 seconds" in second["text/plain"] and "line " in second["text/plain"]
    assert notebook.cells[3].outputs[0].text == "the kernel goes on\n"
