"""The search: better than chance, the same whoever does the work and however often it is stopped."""

from __future__ import annotations

import builtins
import io
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tqdm.auto
from accelerate import PartialState
from timm.models.vision_transformer import VisionTransformer
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from candidates import BATCHES, IMAGES, cnn, error, groups_of, ready, vit

from prunekit.errors import (
    BudgetError,
    CheckpointError,
    InputError,
    MissingDependencyError,
    RuntimeFailure,
    ScoreError,
)
from prunekit.methods import eapruning
from prunekit.methods.eapruning import Candidate, Fitness, Settings, search
from prunekit.methods.eapruning.front import sketch
from prunekit.plan import latency_of, plan_macs
from prunekit.surgery import prune

SHORT = Settings(population=10, offspring=8, generations=3)


@pytest.fixture(scope="module")
def fitness() -> Fitness:
    return Fitness(ready(cnn()), error())


@pytest.fixture(scope="module")
def unbroken(fitness: Fitness) -> eapruning.Found:
    return search(fitness, SHORT, quiet=True)


def toy() -> eapruning.Rebuilder:
    """Ten groups of 16."""
    torch.manual_seed(0)
    layers = [part for n in range(10) for part in (nn.Conv2d(16 if n else 3, 16, 3, padding=1), nn.GELU())]
    model = nn.Sequential(*layers, nn.Conv2d(16, 2, 1)).eval()
    space = eapruning.space(model, groups_of(model))
    return eapruning.rebuilder(model, space, BATCHES, samples=20)


class Known(Fitness):
    """An error that is known: layers matter by their place. Its best front is not that of equal widths."""

    def __call__(self, counts):
        left = [(count / 16) ** 0.5 for count in counts]
        weights = 2.0 ** np.arange(10) / 1023
        wide = np.array([3, *counts, 2]) / 16
        cost = (wide[1:] * wide[:-1]).sum() / (9 + 5 / 16)  # of pairs of neighbours
        return float(1 - weights @ np.array(left)) * 0.9, float(cost)


class Backwards(Known):
    """Another one: errors fall in straight lines, and the last layers matter least."""

    def __call__(self, counts):
        weights = 0.7 ** np.arange(10)
        return float(1 - weights @ np.array(counts) / 16 / weights.sum()), super().__call__(counts)[1]


@pytest.mark.parametrize("what", [Known, Backwards])
def test_the_front_moves_and_beats_chance_over_five_seeds(what: type[Known]) -> None:
    """Neither these seeds nor the second function had a part in choosing the operators."""
    known = what(toy(), error())
    settings = Settings(population=64, offspring=50, generations=20)
    wins = []
    for seed in range(100, 105):
        one = replace(settings, seed=seed)
        ours, chance = search(known, one, quiet=True), search(known, one, how="random", quiet=True)
        assert len(set(chance.candidates())) == len(chance.candidates()) == settings.budget
        assert len(set(ours.candidates())) <= settings.budget
        every, alive = ours.hypervolumes(), ours.hypervolumes(of="population")
        assert every[-1] > every[6] > every[0] and alive[-1] > alive[6] > alive[0]
        assert chance.hypervolumes()[0] == pytest.approx(every[0])
        wins.append(every[-1] - chance.hypervolumes()[-1])
    assert min(wins) > 0.02, wins


def test_a_search_on_a_network(fitness: Fitness, unbroken: eapruning.Found) -> None:
    space = fitness.rebuilder.space
    assert len(unbroken.generations) == 4 and len(unbroken.generations[0]) == 10
    asked = [c.counts for c in unbroken.candidates()]
    assert len(set(asked)) == len(asked) <= SHORT.budget
    for each in unbroken.generations[-1][:3]:  # the values are those of the networks
        assert fitness.error(unbroken.small(each.counts)) == pytest.approx(each.error, abs=1 / 60)
        assert each.cost == pytest.approx(space.macs(each.counts) / space.macs(space.whole))
    plans = unbroken.plans(3, window=(0.0, 0.9))
    costs = [worth.cost for _, worth in plans]
    assert 1 <= len(plans) <= 3 and costs == sorted(costs)
    for plan, worth in plans:
        assert plan_macs(space.groups, plan) / space.macs(space.whole) == pytest.approx(worth.cost)
        assert f"{worth.cost:.1%}" in plan.note
    model = cnn()
    found = eapruning.search_plan(model, space.groups, BATCHES, error(), settings=SHORT, samples=10**6, quiet=True)
    assert [c.counts for c in found.generations[0]] == [c.counts for c in unbroken.generations[0]]
    plan, worth = found.within(0.5)
    cut, small = prune(model, space.groups, plan), found.small(worth.counts)
    assert error()(small) == pytest.approx(worth.error, abs=1 / 60)
    assert error()(cut) > worth.error + 0.1  # control: a plan alone is the network before it is rebuilt
    assert [t.shape for t in small.parameters()] == [t.shape for t in cut.parameters()]


def test_stopped_and_gone_on_is_unbroken(fitness: Fitness, unbroken: eapruning.Found, tmp_path: Path) -> None:
    class Stops(Fitness):
        calls = 0

        def __call__(self, counts):
            Stops.calls += 1
            if Stops.calls in (4, 11, 20):
                raise KeyboardInterrupt
            return super().__call__(counts)

    broken = Stops(fitness.rebuilder, fitness.error)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(broken, SHORT, checkpoint=tmp_path, quiet=True)
    assert len(json.loads((tmp_path / "search.json").read_text())["rows"]) == 17
    found = search(broken, SHORT, checkpoint=tmp_path, quiet=True)
    assert found.generations == unbroken.generations and found.populations == unbroken.populations
    assert Stops.calls == len(set(unbroken.candidates())) + 3  # nothing was done twice but what was in hand
    before = Stops.calls
    assert search(broken, SHORT, checkpoint=tmp_path, quiet=True) == found and Stops.calls == before


def test_seconds_of_all_starts_are_kept_and_a_replay_adds_none(fitness: Fitness, tmp_path: Path) -> None:
    class Slow(Fitness):
        stops = 12

        def __call__(self, counts):
            Slow.stops -= 1
            if Slow.stops == 0:
                raise KeyboardInterrupt
            time.sleep(0.02)
            return super().__call__(counts)

    slow = Slow(fitness.rebuilder, fitness.error)
    with pytest.raises(KeyboardInterrupt):
        search(slow, SHORT, checkpoint=tmp_path, quiet=True)
    first = json.loads((tmp_path / "search.json").read_text())["seconds"]
    assert first >= 11 * 0.02
    found = search(slow, SHORT, checkpoint=tmp_path, quiet=True)
    more = len(set(found.candidates())) - 11
    assert found.seconds >= first + more * 0.02
    assert search(slow, SHORT, checkpoint=tmp_path, quiet=True).seconds == pytest.approx(found.seconds, abs=0.02)
    raw = json.loads((tmp_path / "search.json").read_text())
    del raw["seconds"]  # a file of before they were kept
    (tmp_path / "search.json").write_text(json.dumps(raw))
    assert search(slow, SHORT, checkpoint=tmp_path, quiet=True).seconds < 0.1


def test_two_processes_find_the_same(fitness: Fitness, unbroken: eapruning.Found) -> None:
    assert search(fitness, SHORT, processes=2, quiet=True).generations == unbroken.generations


def test_a_worker_that_dies_costs_nothing(fitness: Fitness, unbroken: eapruning.Found, tmp_path: Path) -> None:
    victim = unbroken.generations[0][3].counts

    class Dies(Fitness):
        def __call__(self, counts):
            if counts == victim and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(counts)

    found = search(Dies(fitness.rebuilder, fitness.error), SHORT, processes=2, quiet=True)
    assert (tmp_path / "died").exists() and found.generations == unbroken.generations

    class Always(Fitness):
        def __call__(self, counts):
            os._exit(9) if counts == victim else None
            return super().__call__(counts)

    with pytest.raises(RuntimeFailure, match=r"3 workers died over the candidate .* \(exit code 9"):
        search(Always(fitness.rebuilder, fitness.error), SHORT, processes=2, quiet=True)

    class Fails(Fitness):
        def __call__(self, counts):
            raise ZeroDivisionError("no")

    with pytest.raises(RuntimeFailure, match="a worker failed on the candidate .*ZeroDivisionError: no"):
        search(Fails(fitness.rebuilder, fitness.error), SHORT, processes=2, quiet=True)


def two_ranks(do: Callable[..., None], fitness: Fitness, folder: Path) -> tuple[list[Any], list[Any]]:
    """Pipes from, and the two processes themselves that run `do`, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork, pipes, crew = multiprocessing.get_context("fork"), [], []
    for rank in range(2):
        ours, theirs = fork.Pipe(False)
        crew.append(fork.Process(target=as_rank, args=(rank, port, do, fitness, folder, theirs)))
        crew[-1].start()
        theirs.close()
        pipes.append(ours)
    return pipes, crew


def as_rank(rank: int, port: int, do: Callable[..., None], *given: Any) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    PartialState._reset_state()
    do(rank, *given)


def a_rank(rank: int, fitness: Fitness, folder: Path, pipe: Any) -> None:
    done = []

    class Counted(Fitness):
        def __call__(self, counts):
            done.append(counts)
            return super().__call__(counts)

    own = folder / str(rank)  # no common disk: what the first rank has read counts for both
    found = search(Counted(fitness.rebuilder, fitness.error), SHORT, quiet=True, checkpoint=own)
    timed = replace(fitness, cost=Clock())
    again = search(timed, replace(SHORT, generations=1, window=(0.1, 0.9)), quiet=True)
    pipe.send((found.generations, done, PartialState._shared_state == {}, again.generations, timed.cost.asked))
    try:
        search(replace(fitness, cost=broken), SHORT, quiet=True)
    except RuntimeFailure as err:
        pipe.send(str(err))


def test_workers_that_start_anew_need_what_can_be_sent(fitness: Fitness, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, or with CUDA."""
    monkeypatch.setattr(eapruning.workers.sys, "platform", "darwin")
    with pytest.raises(InputError, match="workers start anew here, .* no lambdas"):
        search(replace(fitness, error=lambda model: 0.5), SHORT, processes=2, quiet=True)


def test_workers_that_start_anew_find_the_same(
    fitness: Fitness, unbroken: eapruning.Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent to them lies in shared memory, so each needs a candidate of its own to write into. A cost that is
    asked stays here: a lambda does.
    """
    monkeypatch.setattr(eapruning.workers.sys, "platform", "darwin")
    asked = replace(fitness, cost=lambda plan: plan_macs(fitness.rebuilder.space.groups, plan))
    found = search(asked, replace(SHORT, generations=1), processes=2, quiet=True)
    assert found.generations == unbroken.generations[:2]


def broken(plan: Any) -> float:
    return 1 / 0


class Clock:
    """A cost that is measured, and is another one each time."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, plan) -> float:
        self.asked += 1
        return 1.0 + sum(map(len, plan.keep.values())) + 0.01 * self.asked

    def describe(self) -> str:
        return "units, and a little more each time"


def test_a_measured_cost_is_kept_not_measured_again(fitness: Fitness, tmp_path: Path) -> None:
    """So a search that is stopped goes on with the numbers it had, though the clock would say others."""
    timed = replace(fitness, cost=Clock())
    whole = search(timed, SHORT, checkpoint=tmp_path, quiet=True)
    rows = json.loads((tmp_path / "search.json").read_text())
    rows["rows"] = rows["rows"][:9]
    rows["sha256"] = eapruning.table._digest([rows["identity"], rows["rows"]])
    (tmp_path / "search.json").write_text(json.dumps(rows))
    again = search(replace(fitness, cost=Clock()), SHORT, checkpoint=tmp_path, quiet=True)
    assert again.candidates()[:9] == whole.candidates()[:9] and again.candidates()[9:] != whole.candidates()[9:]
    asked = timed.cost.asked  # type: ignore[union-attr]
    assert asked == len({c.counts for c in whole.candidates()}) + 1  # the whole network's too
    with pytest.raises(ScoreError, match="the whole network's cost is 0"):
        search(replace(fitness, cost=lambda plan: 0.0), SHORT, quiet=True)


def test_a_measured_cost_is_asked_by_one_process(fitness: Fitness) -> None:
    """Before the workers compute, so that they do not slow it down; errors are shared out as ever."""
    one, two = (replace(fitness, cost=Clock()) for _ in range(2))
    short = replace(SHORT, generations=1)
    alone = search(one, short, quiet=True)
    assert search(two, short, processes=2, quiet=True).generations == alone.generations
    asked = {each.cost.asked for each in (one, two)}  # type: ignore[union-attr]
    assert asked == {len({c.counts for c in alone.candidates()}) + 1}


def test_latency_is_a_cost(fitness: Fitness, tmp_path: Path) -> None:
    space, short = fitness.rebuilder.space, replace(SHORT, generations=1)
    made = [latency_of(fitness.rebuilder.model, space.groups, BATCHES[0][0], repeats=n) for n in (1, 1, 2)]
    first, again, other = (replace(fitness, cost=cost) for cost in made)
    found = search(first, short, processes=2, checkpoint=tmp_path, quiet=True)
    assert all(0 < each.cost < 50 for each in found.candidates())
    assert search(again, short, checkpoint=tmp_path, quiet=True).generations == found.generations
    with pytest.raises(CheckpointError, match="cost was 'latency of Net for 10x3x16x16 float32 on cpu"):
        search(other, short, checkpoint=tmp_path, quiet=True)


def test_an_error_is_one_number_or_is_refused(fitness: Fitness, tmp_path: Path) -> None:
    """A tensor is one too, also on the disk; what raises is named, with one process as with two."""

    class Gives:
        def __init__(self, value: Any) -> None:
            self.value = value

        def __call__(self, _: Any) -> Any:
            return self.value

        def describe(self) -> str:
            return "a constant"

    short = replace(SHORT, generations=1)
    for n, value in enumerate((torch.tensor(0.5), np.float32(0.5), torch.tensor([0.5]))):
        given = replace(fitness, error=Gives(value), cost=Gives(value))
        found = search(given, short, checkpoint=tmp_path / str(n), quiet=True)
        assert {(c.error, c.cost) for c in found.candidates()} == {(0.5, 1.0)}
        assert type(found.candidates()[0].error) is float
        assert search(given, short, checkpoint=tmp_path / str(n), quiet=True) == found
    for value in (None, torch.ones(2), "0.5", [0.5], 1j):
        for what in ("error", "cost"):
            with pytest.raises(InputError, match=rf"the {what} a constant gave .*; it must give one number"):
                search(replace(fitness, **{what: Gives(value)}), short, quiet=True)
    with pytest.raises(ScoreError, match="the error nan; errors lie in"):
        search(replace(fitness, error=Gives(np.nan)), short, quiet=True)
    with pytest.raises(ScoreError, match="network's cost is inf"):
        search(replace(fitness, cost=Gives(np.inf)), short, quiet=True)
    for what in ("error", "cost"):
        with pytest.raises(RuntimeFailure, match=rf"the {what} broken failed on the candidate .*: ZeroDivisionError: "):
            search(replace(fitness, **{what: broken}), short, quiet=True)
    with pytest.raises(RuntimeFailure, match="the error broken failed on the candidate .*: ZeroDivisionError: "):
        search(replace(fitness, error=broken), short, processes=2, quiet=True)


@pytest.mark.parametrize("how", ["nsga3", "random"])
def test_a_longer_search_goes_on(fitness: Fitness, tmp_path: Path, how: Any) -> None:
    """It is the one of that length from the start, and so is a shorter one again."""

    class Counted(Fitness):
        calls = 0

        def __call__(self, counts):
            Counted.calls += 1
            return super().__call__(counts)

    counted = Counted(fitness.rebuilder, fitness.error)
    settings = [replace(SHORT, generations=n) for n in (1, 3, 2)]
    whole = [search(fitness, each, how=how, quiet=True) for each in settings]
    found = [search(counted, each, how=how, checkpoint=tmp_path, quiet=True) for each in settings]
    for one, other in zip(found, whole, strict=True):
        assert one.generations == other.generations and one.populations == other.populations
    assert Counted.calls == len(set(whole[1].candidates()))  # nothing twice


def test_two_ranks_find_the_same_and_share_the_work(
    fitness: Fitness, unbroken: eapruning.Found, tmp_path: Path
) -> None:
    search(fitness, replace(SHORT, generations=1), quiet=True)
    pipes, crew = two_ranks(a_rank, fitness, tmp_path)
    answers = [pipe.recv() if pipe.poll(120) else None for pipe in pipes]
    failures = [pipe.recv() if pipe.poll(120) else "" for pipe in pipes]
    for worker in crew:
        worker.join(60)
    assert [worker.exitcode for worker in crew] == [0, 0]
    (first, mine, left, timed, asked), (second, other, too, again, never) = answers  # type: ignore[misc]
    assert timed == again and never == 0
    assert asked == len({c.counts for one in timed for c in one}) + 3  # the whole network, and both ends of the window
    assert failures[0] == failures[1] and "the cost broken failed on the candidate" in failures[0]
    assert first == second == unbroken.generations and left and too
    assert mine and other and not set(mine) & set(other) and abs(len(mine) - len(other)) <= 4
    rows = json.loads((tmp_path / "0" / "search.json").read_text())["rows"]
    assert len(rows) == len(set(unbroken.candidates())) == len(mine) + len(other)
    assert not (tmp_path / "1").exists()


def a_mortal_rank(rank: int, fitness: Fitness, folder: Path, pipe: Any) -> None:
    done = []

    class Dies(Fitness):
        def __call__(self, counts):
            done.append(counts)
            if rank == 1 and len(done) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(counts)

    try:
        search(Dies(fitness.rebuilder, fitness.error), SHORT, checkpoint=folder, quiet=True)
    except RuntimeFailure as err:
        pipe.send(str(err))


def test_when_a_rank_dies_the_other_says_so_and_a_new_start_does_its_candidates(
    fitness: Fitness, unbroken: eapruning.Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eapruning.table, "EVERY_S", 0.0)
    search(fitness, replace(SHORT, generations=1), quiet=True)
    pipes, crew = two_ranks(a_mortal_rank, fitness, tmp_path)
    said = pipes[0].recv() if pipes[0].poll(120) else ""
    for worker in crew:
        worker.join(60)
    assert crew[1].exitcode == -signal.SIGKILL and crew[0].exitcode is not None, "neither hangs"
    assert "process of the launch ended" in said and "same checkpoint" in said
    assert len(json.loads((tmp_path / "search.json").read_text())["rows"]) == 6  # three turns of two
    assert search(fitness, SHORT, checkpoint=tmp_path, quiet=True).generations == unbroken.generations


def test_a_state_that_knows_one_process_of_two_is_refused(monkeypatch: pytest.MonkeyPatch, fitness: Fitness) -> None:
    """Accelerate sees one process where nobody told it that there is no GPU; then each would do all the work."""
    monkeypatch.setattr(PartialState, "_shared_state", {})
    PartialState(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeFailure, match="2 processes were launched, and Accelerate's state, .* knows of 1"):
        search(fitness, SHORT, quiet=True)


def test_a_killed_search_has_what_it_measured(
    fitness: Fitness, unbroken: eapruning.Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eapruning.table, "EVERY_S", 0.0)

    class Killed(Fitness):
        def __call__(self, counts):
            if (tmp_path / "search.json").exists() and len(
                json.loads((tmp_path / "search.json").read_text())["rows"]
            ) > 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(counts)

    def doomed() -> None:
        search(Killed(fitness.rebuilder, fitness.error), SHORT, checkpoint=tmp_path, quiet=True)

    child = multiprocessing.get_context("fork").Process(target=doomed)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert len(json.loads((tmp_path / "search.json").read_text())["rows"]) == 7  # in the middle of a generation
    assert search(fitness, SHORT, checkpoint=tmp_path, quiet=True).generations == unbroken.generations


def constant(model: nn.Module) -> float:
    return 0.5


def test_searches_that_differ_in_what_they_measure_are_told_apart(fitness: Fitness, tmp_path: Path) -> None:
    """Other data for the least squares is another search; what cannot say what it is may not have a checkpoint."""
    short, net, space = replace(SHORT, generations=1), fitness.rebuilder.model, fitness.rebuilder.space
    search(fitness, short, checkpoint=tmp_path, quiet=True)
    for ready_ in (
        eapruning.rebuilder(net, space, BATCHES, samples=3),
        eapruning.rebuilder(net, space, BATCHES[:1], samples=20),
        eapruning.rebuilder(net, space, BATCHES, samples=20, condition=30.0),
    ):
        with pytest.raises(CheckpointError, match="another search: rebuilder was"):
            search(replace(fitness, rebuilder=ready_), short, checkpoint=tmp_path, quiet=True)
    for what in ({"error": lambda model: 0.3}, {"cost": lambda plan: 0.3}):
        with pytest.raises(InputError, match=r"does not say what it measures.*describe\(\)"):
            search(replace(fitness, **what), short, checkpoint=tmp_path, quiet=True)
    search(Fitness(fitness.rebuilder, constant), short, checkpoint=tmp_path / "named", quiet=True)
    with pytest.raises(CheckpointError, match="another search: error was 'constant'"):
        search(fitness, short, checkpoint=tmp_path / "named", quiet=True)


def test_damaged_and_foreign_checkpoints(fitness: Fitness, tmp_path: Path) -> None:
    short = replace(SHORT, generations=1)
    search(fitness, short, checkpoint=tmp_path, quiet=True)
    file = tmp_path / "search.json"
    good = file.read_text()
    nobody = json.dumps({**json.loads(good), "identity": [1]})
    for text in (
        good[:-40],
        "",
        "[]",
        nobody,
        good.replace("prunekit-search-2", "other"),
        good.replace("[[", "[[1, ", 1),
    ):
        file.write_text(text)
        with pytest.raises(CheckpointError, match="is damaged .* delete it to start over"):
            search(fitness, short, checkpoint=tmp_path, quiet=True)
    raw = json.loads(good)
    raw["rows"][0][1] = 0.123  # one number
    file.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="rows are not those"):
        search(fitness, short, checkpoint=tmp_path, quiet=True)
    file.write_text(good)
    with pytest.raises(CheckpointError, match=r"another search: settings was offspring=8, now offspring=9"):
        search(fitness, replace(short, offspring=9), checkpoint=tmp_path, quiet=True)
    with pytest.raises(CheckpointError, match="another search: how was 'nsga3', now 'random'"):
        search(fitness, short, how="random", checkpoint=tmp_path, quiet=True)
    with pytest.raises(CheckpointError, match="another search: cost was 'macs'"):
        search(replace(fitness, cost="params"), short, checkpoint=tmp_path, quiet=True)
    other = cnn()
    with torch.no_grad():
        other.head.bias += 1
    with pytest.raises(CheckpointError, match="another search: weights"):
        search(Fitness(ready(other), error()), short, checkpoint=tmp_path, quiet=True)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        search(fitness, short, checkpoint=blocked / "inside", quiet=True)


def test_windows(fitness: Fitness) -> None:
    known = Known(toy(), error())
    inside, free = (search(known, replace(SHORT, window=w, generations=6), quiet=True) for w in ((0.4, 0.5), None))
    there = [sum(0.4 <= c.cost <= 0.5 for c in found.populations[-1]) for found in (inside, free)]
    assert there[0] > 5 > there[1]
    with pytest.raises(BudgetError, match=r"window 0.0% to 0.1% of the cost cannot be reached: these groups go from"):
        search(known, replace(SHORT, window=(0.0, 0.001)), quiet=True)
    with pytest.raises(BudgetError, match=r"the front has nothing between 99.0% and 100.0%"):
        inside.plans(2, window=(0.99, 1.0))
    costs = sorted({c.cost for c in free.candidates()})
    low, high = max(itertools.pairwise(costs), key=lambda pair: pair[1] - pair[0])  # the widest gap
    between = (low + 0.4 * (high - low), high - 0.4 * (high - low))
    with pytest.warns(RuntimeWarning, match="no candidate has .* of the cost, the nearest have .*% and .*%"):
        search(known, replace(SHORT, window=between, generations=1), how="random", quiet=True)
    for window in ((0.5, 0.4), (-1, 0.5), (0.5, 2), ("a", "b"), (0.1,), 0.5, (float("nan"), 0.5)):
        with pytest.raises(InputError, match="window is"):
            replace(SHORT, window=window)


def test_bad_settings(fitness: Fitness, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="a population of 10 for 12 reference directions"):
        replace(SHORT, directions=12)
    with pytest.raises(InputError, match="give whole numbers"):
        replace(SHORT, generations=0)
    for seed in (-1, "a", 1.5):
        with pytest.raises(InputError, match="seed is a whole number from 0 on"):
            replace(SHORT, seed=seed)
    with pytest.raises(InputError, match="10 for 2.5 reference"):
        replace(SHORT, directions=2.5)
    with pytest.raises(InputError, match="of is 'all' or 'population', got 'front'"):
        eapruning.Found(fitness, (), ()).hypervolumes(of="front")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="how is"):
        search(fitness, SHORT, how="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="processes is"):
        search(fitness, SHORT, processes=0, quiet=True)
    with pytest.raises(InputError, match="cost is"):
        replace(fitness, cost="time")
    with pytest.raises(ScoreError, match="error 7.0"):
        search(Fitness(fitness.rebuilder, lambda model: 7.0), SHORT, quiet=True)
    for number in (0, 2.5):
        with pytest.raises(InputError, match=f"asked for {number} plans"):
            eapruning.along([Candidate((1,), 0.5, 0.5)], number)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="no candidates"):
        eapruning.along([], 1)
    kept = builtins.__import__

    def without_pymoo(name, *args, **kwargs):
        if name.startswith("pymoo"):
            raise ImportError(name)
        return kept(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pymoo)
    with pytest.raises(MissingDependencyError, match=r"pip install 'prunekit\[evolution\]'"):
        search(fitness, SHORT, quiet=True)


def test_counts_go_in_steps() -> None:
    """Of neurons; heads go one by one."""
    ready_ = ready(vit(), step=16)
    space = ready_.space
    answers = eapruning.Misclassified(IMAGES, torch.zeros(len(IMAGES)).long())
    found = search(Fitness(ready_, answers), SHORT, quiet=True)
    for each in found.candidates():
        for name, count, size in zip(space.names, each.counts, space.whole, strict=True):
            assert space.least[name] <= count <= size and (size - count) % space.step[name] == 0
    seen = {name: {each.counts[n] for each in found.candidates()} for n, name in enumerate(space.names)}
    assert all(len(counts) > 1 for counts in seen.values()) and {space.step[n] for n in space.names} == {1, 16}


def test_a_small_space_ends_early_and_nothing_is_done_twice() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    space = eapruning.space(model, groups_of(model))
    seen = []

    def wrong(network: nn.Module) -> float:
        seen.append(1)
        return 0.5

    fitness = Fitness(eapruning.rebuilder(model, space, BATCHES), wrong)
    found = search(fitness, SHORT, quiet=True)
    assert len(seen) == len({c.counts for c in found.candidates()}) <= 6
    assert len(found.front()) == 1 and found.front()[0].counts == (1,)


def test_front_and_hypervolume() -> None:
    dice = np.random.default_rng(0)
    many = [Candidate((n,), float(e), float(c)) for n, (e, c) in enumerate(dice.random((60, 2)))]
    best = eapruning.front(many)
    assert {c.counts for c in best} == {
        c.counts for c in many if not any((o.error <= c.error and o.cost <= c.cost) and o != c for o in many)
    }
    from pymoo.indicators.hv import HV

    values = np.array([(c.cost, c.error) for c in many])
    assert eapruning.hypervolume(many) == pytest.approx(float(HV(ref_point=np.array([1.0, 1.0]))(values)))
    assert eapruning.hypervolume(many, corner=(0.5, 0.8)) == pytest.approx(
        float(HV(ref_point=np.array([0.5, 0.8]))(values))
    )
    assert eapruning.hypervolume([]) == 0
    assert eapruning.along(best, 2) == (best[0], best[-1]) and len(eapruning.along(best, 99)) == len(best)
    crowd = [Candidate((n,), 1 - 0.01 * n, cost) for n, cost in enumerate((0.1, 0.11, 0.12, 0.13, 0.38, 0.72, 1.0))]
    assert [each.cost for each in eapruning.along(crowd, 4)] == [0.1, 0.38, 0.72, 1.0]  # nearest to 0.1, 0.4, 0.7, 1
    drawn = sketch(best)
    assert len(drawn) == 11 and drawn[1:-1].strip() == "".join(sorted(drawn[1:-1].strip(), reverse=True))


def test_costs_may_be_anything(fitness: Fitness) -> None:
    space = fitness.rebuilder.space
    counts = space.draw(1, seed=0)[0]
    assert replace(fitness, cost="params").price(counts) == space.params(counts) / space.params(space.whole)
    assert replace(fitness, cost=lambda plan: len(plan.keep["inner"])).price(counts) == counts[1] / 10


def test_rebuilding_keeps_what_cutting_loses(fitness: Fitness) -> None:
    raw = replace(fitness, rebuild=False)
    gaps = [raw(counts)[0] - fitness(counts)[0] for counts in fitness.rebuilder.space.draw(12, seed=1)]
    assert np.mean(gaps) > 0.1
    found = search(raw, replace(SHORT, generations=1), how="random", quiet=True)
    worst = max(found.candidates(), key=lambda c: c.error)  # such a search gives the cut as it is
    assert error()(found.small(worst.counts)) == pytest.approx(worst.error, abs=1 / 60)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_and_callback(fitness: Fitness, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    search(fitness, replace(SHORT, generations=1), on_generation=lambda found: seen.append(len(found.generations)))
    assert seen == [1, 2]
    assert "front |" in terminal.getvalue() and "hypervolume 0." in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    search(fitness, replace(SHORT, generations=1), quiet=True)
    assert not terminal.getvalue()
    monkeypatch.setenv("RANK", "1")  # of a launch the first process has the bar
    search(fitness, replace(SHORT, generations=1))
    assert not terminal.getvalue()


def test_the_front_of_the_bar_is_live(fitness: Fitness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a generation, by the bar that suits the place: a page has one of its own."""
    drawn: list[str] = []

    class Bar(tqdm.std.tqdm):
        def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            drawn.append(s)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    monkeypatch.setattr(sys, "stderr", Terminal())
    one = replace(SHORT, generations=1)
    for live, many in ((0.0, one.budget), (1e9, 2)):
        monkeypatch.setattr(eapruning.bar, "LIVE_S", live)
        drawn.clear()
        search(fitness, one)
        assert many <= len(drawn) <= many + 2 and drawn[0].startswith("front |")
        assert len(set(drawn)) > 2 or live


def test_measured_costs_are_relative_to_one_measurement(fitness: Fitness) -> None:
    times = iter([2.0, 10.0, 3.0, 4.0])
    timed = replace(fitness, cost=lambda plan: next(times))
    counts = fitness.rebuilder.space.draw(1, seed=0)[0]
    assert [timed.price(counts) for _ in range(3)] == [0.2, 0.3, 0.4]  # the whole network took 10, once


def test_fresh_weights() -> None:
    model = cnn()
    fresh = eapruning.from_scratch(model, model, seed=1)
    assert fresh.norm.weight.eq(1).all() and fresh.norm.running_mean.eq(0).all() and fresh.inner.bias.eq(0).all()
    assert float(fresh.inner.weight.detach().std()) == pytest.approx((2 / (10 * 9)) ** 0.5, rel=0.2)
    assert float(fresh.head.weight.detach().std()) == pytest.approx(0.02, rel=0.4)
    again = eapruning.from_scratch(model, model, seed=1)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in fresh.state_dict().items())
    assert not torch.equal(model.inner.weight, fresh.inner.weight)


def test_factors_start_where_their_layer_starts_them() -> None:
    net = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3, init_values=1e-4
    )
    with torch.no_grad():
        net.blocks[0].ls1.gamma.fill_(0.7)  # type: ignore[union-attr]
    fresh = eapruning.from_scratch(net, net)
    assert torch.allclose(fresh.blocks[0].ls1.gamma, torch.full((8,), 1e-4))  # type: ignore[union-attr, index]

    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.3))

        def reset_parameters(self) -> None:
            self.scale.data.fill_(1.5)

    others = nn.Sequential(Once(), nn.PReLU(4), nn.RMSNorm(4))
    with torch.no_grad():
        for parameter in others.parameters():
            parameter.fill_(7.0)
    again = eapruning.from_scratch(others, others)
    assert [float(p.detach().mean()) for p in again.parameters()] == [1.5, 0.25, 1.0]

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

    with pytest.raises(InputError, match="'0.gain' of Scaled is a factor"):
        eapruning.from_scratch(nn.Sequential(Scaled()), nn.Sequential(Scaled()))
