"""The runs behind SIRFP's claims: who meets whom, what is shared, and a whole run on a few pictures."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from prunekit.core import ChannelGroup, Groups
from prunekit.course import claims, ledger
from prunekit.course.sirfp import trials
from prunekit.course.sirfp.choices import Borrowed, Solved
from prunekit.course.sirfp.trials import SOLVERS, Trial
from prunekit.course.tasks import load_task
from prunekit.errors import InputError
from prunekit.methods.sirfp.clique import clique_weight
from prunekit.methods.sirfp.solvers import brute_force
from prunekit.plan import uniform_plan

CLAIMS = ("S1", "S2", "S3", "S4", "S7", "S8")


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_runs_are_those_that_the_claim_compares(claim: str):
    runs = trials.trials(claim, 3)
    asked = {name for need in claims.known(claim).needs for name in (need.left, need.right)}
    assert asked <= {run.method for run in runs}
    assert set(Counter((run.method, run.how) for run in runs).values()) == {3}, "three seeds each"
    alike = {str(trials.settings(run)) for run in runs if run.how == runs[0].how}
    assert len(alike) == 1, "all runs of a planner can be compared"


def test_the_same_run_under_several_names_is_made_once():
    names = [("S1", "sirfp"), ("S2", "js"), ("S3", "full"), ("S8", "softmax, sum")]
    assert {trials.name_of(Trial(claim, method, 0.75, "global", 0)) for claim, method in names} == {"sirfp"}
    others = [run for claim in CLAIMS for run in trials.trials(claim, 1) if (claim, run.method) not in names]
    assert len({(trials.name_of(run), run.how, run.ratio) for run in others}) == len(others)


def test_a_claim_without_runs_is_refused():
    with pytest.raises(InputError, match="no runs for 'S5'"):
        trials.trials("S5", 3)


def test_reversed_keeps_the_lightest_clique_and_ehgp_a_heavy_one():
    upper_UU = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).triu(1)
    a_UU = upper_UU + upper_UU.T
    weight = {name: clique_weight(a_UU, Solved(None, name).solve(a_UU, 4)) for name in SOLVERS}  # type: ignore[arg-type]
    best = clique_weight(a_UU, brute_force(a_UU, 4))
    assert weight["reversed"] < 0.7 * best and 0.95 * best <= weight["ehgp"] <= weight["tabu"] <= best


def test_borrowed_widths_hold_the_other_criterions_best_channels():
    groups = Groups({"a": ChannelGroup("a", 4, "channel", ())})
    chooser = Borrowed(None, "fpgm")  # type: ignore[arg-type]
    chooser.others = {"a": torch.tensor([0.0, 3.0, 1.0, 2.0])}
    mine = {"a": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    found = chooser.plan(
        lambda groups, scores, **target: uniform_plan(groups, scores, target["ratio"]), groups, mine, ratio=0.5
    )
    assert found.keep == {"a": (1, 3)} and found.note.startswith("fpgm, widths: uniform")


def test_seeds_below_one_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="seeds is 0"):
        trials.run(["S2"], seeds=0, out=tmp_path)


def test_a_run_ends_as_records_and_is_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(trials, "STEPS", (1, 1))
    monkeypatch.setattr(trials, "load_task", partial(load_task, train_count=64, test_count=25))
    monkeypatch.setattr(trials, "SIRFP", {"S2": {"dot": {"metric": "dot"}}})
    trials.run(["S2"], seeds=1, out=tmp_path)
    (entry,) = ledger.load("S2")
    dense_macs = 307_283_968
    assert entry.method == "dot" and 0.2 * dense_macs < entry.metrics["macs"] <= 0.25 * dense_macs
    assert 0 < entry.metrics["miou"] < 1 and "1/1 S2 dot, seed 0: miou" in capsys.readouterr().out
    trials.run(["S2"], seeds=1, out=tmp_path)
    assert capsys.readouterr().out == "" and len(ledger.load("S2")) == 1
