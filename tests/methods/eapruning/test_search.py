"""The search: better than chance, the same whoever does the work and however often it is stopped."""

from __future__ import annotations

import builtins
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from candidates import BATCHES, cnn, error, groups_of, ready

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
from prunekit.plan import plan_macs
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


def test_the_front_moves_and_beats_chance_over_five_seeds() -> None:
    known = Known(toy(), error())
    settings = Settings(population=64, offspring=50, generations=20)
    wins = []
    for seed in range(5):
        one = replace(settings, seed=seed)
        ours, chance = search(known, one, quiet=True), search(known, one, how="random", quiet=True)
        assert len(set(chance.candidates())) == len(chance.candidates()) == settings.budget
        assert len(set(ours.candidates())) <= settings.budget
        every, alive = ours.hypervolumes(), ours.hypervolumes(of="population")
        assert list(every) == sorted(every) and every[-1] > every[6] > every[0]
        assert alive[-1] > alive[0] and chance.hypervolumes()[0] == pytest.approx(every[0])
        wins.append(every[-1] - chance.hypervolumes()[-1])
    assert min(wins) > 0.02


def test_a_search_on_a_network(fitness: Fitness, unbroken: eapruning.Found) -> None:
    space = fitness.rebuilder.space
    assert len(unbroken.generations) == 4 and len(unbroken.generations[0]) == 10
    asked = [c.counts for c in unbroken.candidates()]
    assert len(asked) <= SHORT.budget
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


RANKS = """
import sys
sys.path.insert(0, {here!r})
from candidates import cnn, error, ready
from prunekit.methods.eapruning import Fitness, Settings, search
found = search(Fitness(ready(cnn()), error()), Settings(population=10, offspring=8, generations=3), quiet=True,
               checkpoint=sys.argv[1])
print("FOUND", hash(found.generations))
"""


def test_two_ranks_find_the_same(unbroken: eapruning.Found, tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(here=str(Path(__file__).parent)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONHASHSEED": "0"}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    hashes = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert hashes == [str(hash(unbroken.generations))] * 2
    rows = json.loads((tmp_path / "search.json").read_text())["rows"]
    assert len(rows) == len(set(unbroken.candidates()))


def test_damaged_and_foreign_checkpoints(fitness: Fitness, tmp_path: Path) -> None:
    short = replace(SHORT, generations=1)
    search(fitness, short, checkpoint=tmp_path, quiet=True)
    file = tmp_path / "search.json"
    good = file.read_text()
    for text in (good[:-40], "", "[]", good.replace("prunekit-search-1", "other"), good.replace("[[", "[[1, ", 1)):
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
    known = Known(fitness.rebuilder, error())
    known = Known(toy(), error())
    inside = search(known, replace(SHORT, window=(0.4, 0.5), generations=6), quiet=True)
    assert sum(0.4 <= c.cost <= 0.5 for c in inside.populations[-1]) > 5
    with pytest.raises(BudgetError, match=r"window 0% to 0% of the cost cannot be reached: these groups go from"):
        search(known, replace(SHORT, window=(0.0, 0.001)), quiet=True)
    with pytest.raises(BudgetError, match=r"the front has nothing between 99% and 100%"):
        inside.plans(2, window=(0.99, 1.0))
    for window in ((0.5, 0.4), (-1, 0.5), (0.5, 2)):
        with pytest.raises(InputError, match="window is"):
            replace(SHORT, window=window)


def test_bad_settings(fitness: Fitness, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="a population of 10 for 12 reference directions"):
        replace(SHORT, directions=12)
    with pytest.raises(InputError, match="give whole numbers"):
        replace(SHORT, generations=0)
    with pytest.raises(InputError, match="how is"):
        search(fitness, SHORT, how="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="processes is"):
        search(fitness, SHORT, processes=0, quiet=True)
    with pytest.raises(InputError, match="cost is"):
        replace(fitness, cost="time")
    with pytest.raises(ScoreError, match="error 7.0"):
        search(Fitness(fitness.rebuilder, lambda model: 7.0), SHORT, quiet=True)
    with pytest.raises(InputError, match="asked for 0 plans"):
        eapruning.along([Candidate((1,), 0.5, 0.5)], 0)
    kept = builtins.__import__

    def without_pymoo(name, *args, **kwargs):
        if name.startswith("pymoo"):
            raise ImportError(name)
        return kept(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pymoo)
    with pytest.raises(MissingDependencyError, match=r"pip install 'prunekit\[evolution\]'"):
        search(fitness, SHORT, quiet=True)


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


def test_bar_and_callback(fitness: Fitness, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    search(fitness, replace(SHORT, generations=1), on_generation=lambda found: seen.append(len(found.generations)))
    assert seen == [1, 2]


def test_fresh_weights() -> None:
    model = cnn()
    fresh = eapruning.from_scratch(model, model, seed=1)
    assert fresh.norm.weight.eq(1).all() and fresh.norm.running_mean.eq(0).all() and fresh.inner.bias.eq(0).all()
    assert float(fresh.inner.weight.detach().std()) == pytest.approx((2 / (10 * 9)) ** 0.5, rel=0.2)
    assert float(fresh.head.weight.detach().std()) == pytest.approx(0.02, rel=0.4)
    again = eapruning.from_scratch(model, model, seed=1)
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in fresh.state_dict().items())
    assert not torch.equal(model.inner.weight, fresh.inner.weight)
