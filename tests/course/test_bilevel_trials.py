"""The runs behind the claims of bi-level pruning: who meets whom, what is shared, and whole runs on a few pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunekit import cli
from prunekit.core import PruningPlan
from prunekit.course import claims, ledger
from prunekit.course.bilevel import trials
from prunekit.course.bilevel.lab import Lab, Way
from prunekit.course.tasks import load_task
from prunekit.errors import InputError
from prunekit.plan import plan_macs

CLAIMS = ("B1", "B2", "B3", "B4", "B5")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few pictures, a step or two of everything."""
    short = replace(trials.BUDGET, search=2, tune=1, batch=2, candidates=2, held=2, image=(32, 64), passes=5)
    monkeypatch.setattr(trials, "BUDGET", short)
    monkeypatch.setattr(trials, "load_task", lambda name, **_: load_task(name, train_count=16, test_count=5))
    yield


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_runs_are_those_that_the_claim_and_the_paper_compare(claim: str):
    known, runs = claims.known(claim), trials.trials([claim], 3)
    asked = {name for need in known.needs for name in (need.left, need.right)}
    rows = [row for each in runs.values() for row in each]
    assert asked and asked <= {row.method for row in rows} and {row.seed for row in rows} == {0, 1, 2}
    assert len({str(row.settings) for row in rows}) == 1, "all runs of a claim can be compared"
    others = {"DMCP", "ResRep", "hand-made"}  # the paper's, not ours
    assert set(known.prints) - others <= {row.method for row in rows}


def test_equal_runs_of_several_claims_are_made_once_and_rivals_take_equal_steps():
    runs = trials.trials(CLAIMS, 1)
    assert {(row.claim, row.method) for row in runs[0, trials.OURS]} == {
        ("B1", "bilevel"),
        ("B2", "implicit"),
    }
    assert {(row.claim, row.method) for row in runs[0, trials.MOBILE]} == {("B3", "default"), ("B5", "bilevel −55 %")}
    folders = [(way.network, way.speed, way.folder()) for _, way in runs]
    assert len(set(folders)) == len(folders), "no two runs write to one folder"
    assert {way.ratio for way in trials.WAYS["B1"].values()} == {0.5}
    with pytest.raises(InputError, match="no runs for 'B6'"):
        trials.trials(["B6"], 1)


def test_every_rivals_plan_leaves_the_same_share_of_the_macs(quick: None, tmp_path: Path):
    lab = Lab("deeplabv3plus_mini", load_task("scenes", train_count=16, test_count=5), trials.BUDGET, 0, tmp_path)
    dense = plan_macs(lab.groups, PruningPlan({}, {}))
    plans = {}
    for name in trials.RIVALS:
        plan, model, facts = lab.chosen(Way(name, lab.network))
        plans[name] = plan
        assert 0.495 < plan_macs(lab.groups, plan) / dense <= 0.5
        assert facts["search_cpu_seconds"] > 0 and facts["search_steps"] == 2 and not model.training
        if name in ("eagleeye", "l1"):  # the second one finds the network trained, and took as long all the same
            assert facts["search_cpu_seconds"] > lab.plain()[1] > 0
    again, _, facts = lab.chosen(Way("bilevel", lab.network))
    assert again == plans["bilevel"] and facts["history"]["macs"][0] <= 1.0 and "returned" in facts
    assert {len(set(plan.keep)) for plan in plans.values()} == {len(lab.groups)}
    first = [tensor.clone() for tensor in lab.dense.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(first, lab.plain()[0].state_dict().values(), strict=True)) is False


def test_a_search_in_two_starts_takes_the_cpu_seconds_of_both(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now, ends = [0.0], iter([KeyboardInterrupt, None])

    def learned(self: Lab, way: Way):
        now[0] += 30.0
        (tmp_path / way.folder()).mkdir(exist_ok=True)  # as a checkpoint does
        if (end := next(ends)) is not None:
            raise end
        return PruningPlan({}, {}), self.dense, {"search_steps": 2}

    monkeypatch.setattr("prunekit.course.bilevel.lab.time.process_time", lambda: now[0])
    monkeypatch.setattr(Lab, "learned", learned)
    lab = Lab("deeplabv3plus_mini", load_task("scenes", train_count=16, test_count=5), trials.BUDGET, 0, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        lab.chosen(Way("regrow", lab.network))
    assert lab.chosen(Way("regrow", lab.network))[2]["search_cpu_seconds"] == 60.0


def test_a_run_ends_as_records_and_is_not_made_twice(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ways = {
        "B2": {"without": Way("bilevel", "deeplabv3plus_mini", implicit=False)},
        "B4": {"l1": Way("l1", "deeplabv3plus_mini", speed=True)},
        "B5": {"dense": Way("dense", "deeplabv3plus_mini", ratio=0.0)},
    }
    monkeypatch.setattr(trials, "WAYS", ways)
    line = ["run", "claims", "B2", "B4", "B5", "--seeds", "1", "--out", str(tmp_path), "--record"]
    assert cli.main(line) == 0
    (without,), (speed,), (dense,) = (ledger.load(claim) for claim in ways)
    assert 0.5 <= without.metrics["macs_removed"] < 0.52 and max(without.metrics["history"]["implicit"]) == 0
    assert len(without.metrics["history"]["macs"]) == 2 and 0 <= without.metrics["miou"] < 1
    assert speed.metrics["speedup"] > 0.5 and speed.settings["image"] == [32, 64]
    assert speed.settings["clock"] == "cpu" and speed.settings["passes"] == 5
    assert dense.metrics["macs_removed"] == 0 and dense.settings | {"macs_ratio": 0.5} == without.settings
    assert "1/3 B2 without, seed 0" in capsys.readouterr().out
    assert cli.main(line) == 0 and "1/3" not in capsys.readouterr().out and len(ledger.load()) == 3
