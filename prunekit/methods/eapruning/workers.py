"""Candidates shared out over processes: local workers, or the ranks of `accelerate launch`. The results are one's own.

A worker that dies (out of memory, killed) costs its candidate a second try, in a new worker; three deaths over one
candidate are an error. Of several ranks each takes one candidate at a time, and all get all results; when one dies the
launch ends, and starting it again goes on from what was written.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from prunekit.errors import InputError, PrunekitError, RuntimeFailure
from prunekit.methods.eapruning.space import Counts

T = TypeVar("T")
Values = tuple[float, float]
Work = Callable[[Counts], Values]
TRIES = 3
UNSENDABLE = (pickle.PicklingError, AttributeError, TypeError)  # what pickle says of a lambda depends on Python


@contextmanager
def shared_out(work: Work, processes: int) -> Iterator[Callable[[Sequence[Counts]], Iterator[tuple[int, Values]]]]:
    """Gives evaluate(candidates) -> (place, values) as they come.

    processes: local ones, 1 = this one alone. Raises RuntimeFailure when a candidate kills its workers, and what `work`
    raises.
    """
    if type(processes) is not int or processes < 1:
        raise InputError(f"processes is a whole number from 1 on, got {processes!r}.")
    if processes == 1:
        yield lambda candidates: ((n, work(each)) for n, each in enumerate(candidates))
        return
    crew = _Crew(work, processes)
    try:
        yield crew.evaluate
    finally:
        crew.end()


@contextmanager
def by_rank(work: Work) -> Iterator[Callable[[Sequence[Counts]], Iterator[tuple[int, Values]]]]:
    """The same over the processes of `accelerate launch`: one candidate a rank, then everybody's results, and so on.

    Raises RuntimeFailure when another rank has died, besides what `work` raises.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    with one_state() as state:
        assert isinstance(state, PartialState)

        def evaluate(candidates: Sequence[Counts]) -> Iterator[tuple[int, Values]]:
            for start in range(0, len(candidates), state.num_processes):
                place = start + state.process_index
                mine = [(place, work(candidates[place]))] if place < len(candidates) else []
                try:
                    found = gather_object(mine)
                except RuntimeError as err:  # of the backend: somebody does not answer any more
                    raise RuntimeFailure(
                        f"another process of the launch ended ({err}); start it again with the same checkpoint: what "
                        "was measured is kept, and its candidates are done anew."
                    ) from err
                yield from sorted(found)

        yield evaluate


@contextmanager
def one_state() -> Iterator[Any]:
    """Accelerate's view of the launch. Without a GPU it must be told so, or it sees one process only; a state that was
    not there before is gone afterwards, for whoever asks next.
    """
    from accelerate import PartialState

    there = bool(PartialState._shared_state)
    state = PartialState() if there else PartialState(cpu=not torch.accelerator.is_available())
    try:
        if state.num_processes != ranks():  # each would do all the work
            raise RuntimeFailure(
                f"{ranks()} processes were launched, and Accelerate's state, made before this search, knows of "
                f"{state.num_processes}: make it with PartialState(cpu=True), or leave it to the search."
            )
        yield state
    finally:
        if not there:
            PartialState._reset_state()


def same_for_all(make: Callable[[], T]) -> T:
    """What the first rank makes, on every rank; the others wait for it and make nothing. Raises what it raises of ours,
    on every rank too.
    """
    if ranks() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    made: list[Any] = [None]
    with one_state() as state:
        if state.is_main_process:
            try:
                made = [make()]
            except PrunekitError as err:
                made = [err]
        broadcast_object_list(made)
    if isinstance(made[0], PrunekitError):
        raise made[0]
    return made[0]


def ranks() -> int:
    """Processes that `accelerate launch` or torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class _Crew:
    """Worker processes, each with one candidate in hand at most."""

    def __init__(self, work: Work, size: int) -> None:
        # a forked worker shares the factors' memory; CUDA and other systems need a fresh interpreter
        fork = sys.platform == "linux" and not torch.cuda.is_initialized()
        self.context: Any = multiprocessing.get_context("fork" if fork else "spawn")
        self.work = work
        self.members = [self._hire() for _ in range(size)]

    def _hire(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = self.context.Pipe()
        worker = self.context.Process(target=_serve, args=(self.work, theirs), daemon=True)
        try:
            worker.start()
        except UNSENDABLE as err:
            raise InputError(
                f"workers start anew here, so what they compute must be sendable ({err}): error and cost must be "
                "functions or objects of a module, no lambdas. Or use processes=1."
            ) from err
        theirs.close()
        return worker, ours

    def evaluate(self, candidates: Sequence[Counts]) -> Iterator[tuple[int, Values]]:
        """(place, values) in the order in which they are done."""
        waiting, deaths = list(range(len(candidates)))[::-1], dict.fromkeys(range(len(candidates)), 0)
        busy: dict[Connection, int] = {}
        while waiting or busy:
            for _, pipe in self.members:
                if waiting and pipe not in busy:
                    busy[pipe] = waiting.pop()
                    _send(pipe, candidates[busy[pipe]])
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                place = busy.pop(pipe)
                try:
                    answer = pipe.recv()
                except (EOFError, ConnectionError):
                    deaths[place] += 1
                    self._replace(pipe, candidates[place], deaths[place])
                    waiting.append(place)
                    continue
                if isinstance(answer, Exception):
                    raise answer
                yield place, answer

    def _replace(self, pipe: Connection, counts: Counts, deaths: int) -> None:
        number = next(n for n, (_, own) in enumerate(self.members) if own is pipe)
        worker = self.members[number][0]
        worker.join(5)
        if deaths >= TRIES:
            anew = self.context.get_start_method() == "spawn" and worker.exitcode in (0, 1)
            guard = " Is the call in your script under `if __name__ == '__main__':`? Workers import it." if anew else ""
            raise RuntimeFailure(
                f"{deaths} workers died over the candidate {counts[:4]}... (exit code {worker.exitcode}; -9 is often "
                f"memory running out). Use fewer processes, or a smaller batch of the error's images.{guard}"
            )
        pipe.close()
        self.members[number] = self._hire()

    def end(self) -> None:
        """Stop all."""
        for worker, pipe in self.members:
            pipe.close()
            worker.terminate()
            worker.join(5)


def _send(pipe: Connection, counts: Counts) -> None:
    with suppress(BrokenPipeError, ConnectionError):  # it is dead: reading from it will say so
        pipe.send(counts)


def _serve(work: Work, pipe: Connection) -> None:
    """A worker's life: one candidate after the other until the pipe closes."""
    torch.set_num_threads(1)
    parent = os.getppid()
    while True:
        try:
            while not pipe.poll(5):
                if os.getppid() != parent:  # it was killed, and other workers hold its end of the pipe open
                    return
            counts = pipe.recv()
        except (EOFError, ConnectionError, KeyboardInterrupt):
            return
        try:
            answer: Any = work(counts)
        except PrunekitError as err:
            answer = err
        except Exception as err:  # whatever it is, it belongs to the one who asked
            answer = RuntimeFailure(f"a worker failed on the candidate {counts[:4]}...: {type(err).__name__}: {err}")
        pipe.send(answer)
