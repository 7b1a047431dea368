"""Call a learner's function where it can do no harm: a time limit, fixed random numbers, and everything put back.

In the main thread of Linux and macOS the limit is a signal (which also wakes sleep); elsewhere, on Windows and in
other threads, a watching thread raises the exception through CPython's PyThreadState_SetAsyncExc, between two
instructions of Python. Neither can stop one single call into C, and the second not a loop that swallows everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch

AGAIN = 0.02  # seconds until the limit rings again, should a bare `except:` have swallowed it
LONGEST = 200  # letters of an error message that are shown


class TimeUp(BaseException):
    """The limit has passed. No Exception, so that `except Exception` lets it through."""


@dataclass(frozen=True)
class Outcome:
    """What a call did. value: what it returned; error and line: how and where the learner's code raised or stopped."""

    state: Literal["returned", "unwritten", "raised", "late"]
    value: Any = None
    error: str = ""
    line: str = ""


def run(function: Callable[..., Any], args: Sequence[Any], *, seconds: float) -> Outcome:
    """Call function(*args) and say what happened; never raises, not for exit() and not when stopped by hand."""
    try:
        with isolated(), time_limit(seconds):
            value = function(*args)
        return Outcome("unwritten" if value is None or value is Ellipsis else "returned", value)
    except NotImplementedError:
        return Outcome("unwritten")
    except TimeUp as err:
        return Outcome("late", line=_line(err, function))
    except KeyboardInterrupt as err:
        return Outcome("raised", error="stopped by hand", line=_line(err, function))
    except BaseException as err:
        try:
            said = " ".join(str(err).split())
        except Exception:
            said = ""
        said = said if len(said) <= LONGEST else said[:LONGEST] + " ..."
        name = type(err).__name__
        return Outcome("raised", error=f"{name}: {said}" if said else name, line=_line(err, function))


def _line(err: BaseException, function: Callable[..., Any]) -> str:
    """ "line 3: return x[9]", the last line of the learner's own file or cell on the way to the error."""
    own = getattr(getattr(function, "__code__", None), "co_filename", None)
    mine = [frame for frame in traceback.extract_tb(err.__traceback__) if frame.filename == own and frame.line]
    return f"line {mine[-1].lineno}: {mine[-1].line}" if mine else ""


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Seeded, on the CPU, with gradients; random numbers, grad mode, dtype, warnings and folder are put back after."""
    folder, grad, dtype = _folder(), torch.is_grad_enabled(), torch.get_default_dtype()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, learners use the old interface too
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(gpus), warnings.catch_warnings(), torch.device("cpu"):
        warnings.simplefilter("ignore")
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(0)
        try:
            yield
        finally:
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            if folder is not None and folder != _folder():
                os.chdir(folder)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it has been removed, which happens on Colab
        return None


def time_limit(seconds: float) -> contextlib.AbstractContextManager[None]:
    """Raise TimeUp in the code below after `seconds` of wall time."""
    main = threading.current_thread() is threading.main_thread()
    return _by_signal(seconds) if main and hasattr(signal, "setitimer") else _by_thread(seconds)


@contextlib.contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    inside, rings, tracer = True, 0, sys.gettrace()

    def ring(_: int, frame: FrameType | None) -> None:
        nonlocal rings
        rings += 1
        if inside and rings > 1:
            _insist(frame, rings)
        if inside:
            raise TimeUp

    start, handler = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        try:
            yield
        finally:
            inside = False
    finally:  # a second level, since the first may be interrupted by the alarm itself
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        if sys.gettrace() is not tracer:
            sys.settrace(tracer)
        if left:  # somebody else's alarm goes on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), every)


def _insist(frame: FrameType | None, lines: int) -> None:
    """Raise TimeUp once more, some lines on: a bare `except:` swallowed it, and sooner or later we meet a line outside
    of its `try`. Only the learner's frames are traced, never our own clean-up.
    """

    def trace(*_: object) -> Any:
        nonlocal lines
        lines -= 1
        if lines <= 0:
            raise TimeUp
        return trace

    sys.settrace(lambda *_: None)  # turns tracing on; frames without a tracer of their own are left alone
    while frame is not None and frame.f_code is not run.__code__:
        frame.f_trace, frame = trace, frame.f_back


@contextlib.contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    me, done = ctypes.c_ulong(threading.get_ident()), threading.Event()

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(me, ctypes.py_object(TimeUp))
            wait = AGAIN

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            done.set()
    finally:
        done.set()
        watcher.join()
        # One that is still on its way arrives in this loop. To call it off (SetAsyncExc with None) would leave CPython
        # 3.11 with a flag that nobody lowers; under a tracer, such as coverage, every thread then hangs.
        with contextlib.suppress(TimeUp):
            for _ in range(1000):
                pass
