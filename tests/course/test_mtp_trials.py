"""The runs behind MTP's claims: who meets whom, what is shared, equal steps and costs, a whole run on few pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from prunekit import cli
from prunekit.core import PruningPlan
from prunekit.course import claims, ledger
from prunekit.course.experiments import streets
from prunekit.course.mtp import choices, data, lab, trials
from prunekit.course.mtp.lab import Lab, Way
from prunekit.course.mtp.networks import classifier_of, segmenter_of
from prunekit.course.tasks import load_task
from prunekit.data.scenes import SceneCrops, ScenePatches
from prunekit.errors import BudgetError, InputError
from prunekit.methods import mtp
from prunekit.plan import plan_macs

CLAIMS = ("M1", "M2", "M3", "M4", "M5", "M6")


GIVEN = trials.presets()
every_network = pytest.mark.parametrize("network", GIVEN)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few pictures, one step of everything."""
    names = ("pretrain", "classify", "segment", "tune_classify", "tune_segment")
    short = {}
    for model, given in GIVEN.items():
        steps = {name: replace(getattr(given, name), steps=2, batch=4) for name in names}
        short[model] = replace(given, **steps, settings=replace(given.settings, rounds=2))
    monkeypatch.setattr(trials, "presets", lambda: short)
    monkeypatch.setattr(streets, "load_task", partial(load_task, train_count=64, test_count=10))
    monkeypatch.setattr(data, "SceneCrops", lambda count, **given: SceneCrops(10, **given))
    monkeypatch.setattr(data, "ScenePatches", lambda count, **given: ScenePatches(10, **given))
    yield


@every_network
@pytest.mark.parametrize("claim", CLAIMS)
def test_the_runs_are_those_that_the_claim_and_the_paper_compare(claim: str, network: str):
    known = claims.known(claim)
    asked = {name for need in known.needs for name in (need.left, need.right)}
    there = set(trials.ways(GIVEN[network])[claim])
    assert asked and (asked | set(known.prints) <= there if "deeplab" in network else asked == there)
    assert all(way.kept == float(name.split()[-1][:-1]) for name, way in trials.RIVALS.items() if name != "dense")


@every_network
def test_a_run_that_claims_share_is_made_once(network: str):
    given = GIVEN[network]
    runs = trials.trials(given, CLAIMS, 2)
    named = [(row.claim, row.method) for row in runs[0, trials.OURS]]
    only_slimming = {"M2"} if network == "bisenet_mini" else set()  # its relation asks for no run of MTP
    assert {claim for claim, _ in named} == set(CLAIMS) - only_slimming and ("M4", "standard") in named
    assert sum(map(len, runs.values())) == 2 * sum(map(len, trials.ways(given).values()))
    assert [seed for seed, _ in runs] == sorted(seed for seed, _ in runs), "a seed is whole before the next"
    with pytest.raises(InputError, match="no runs for 'M7'"):
        trials.trials(given, ["M7"], 1)


def test_the_networks_comparisons_are_told_apart_by_their_settings():
    deep, fast = (trials.settings(given) for given in GIVEN.values())
    assert (deep["model"], deep["objects"]) == ("deeplabv3_mini", "crops") != (fast["model"], fast["objects"])
    parts = ["image pooling", "last stage", "other stages"]
    for network, there in zip(GIVEN, (parts, parts[1:])):
        segmenter = segmenter_of(GIVEN[network], 12, seed=0)
        assert sorted(lab.stages(lab.split(segmenter, GIVEN[network])[0])) == there
        asked = {name.rsplit(" ", 1)[0] for name in trials.ways(GIVEN[network])["M6"]}
        assert sorted(asked) == there, "who is not in the network is not asked for"


@every_network
def test_rivals_differ_in_nothing_but_the_choice(network: str):
    same = {(way.classify, way.segment, way.how) for way in trials.RIVALS.values()}
    assert same == {(1, 1, "independent")}
    given, as_long = GIVEN[network], trials.WAYS["M2"]["slimming without, as long"]
    steps = given.tune_classify.steps, given.tune_segment.steps
    assert as_long.classify == 0 and as_long.segment * steps[1] == sum(steps)


def test_every_choice_leaves_the_same_share_of_the_macs():
    given = GIVEN["deeplabv3_mini"]
    segmenter = segmenter_of(given, 12, seed=0)
    classifier = classifier_of(given, segmenter, 9, seed=0)
    groups, parts = lab.split(segmenter, given)
    batches = [(torch.rand(4, 3, 64, 128), None)]
    cut = partial(choices.chosen, how="independent")
    plans = {name: cut(name, classifier, segmenter, groups, parts, batches, kept=0.5) for name in trials.METHODS}
    dense = plan_macs(groups, PruningPlan({}, {}))
    assert all(0.48 < plan_macs(groups, plan) / dense <= 0.5 for plan in plans.values())
    assert plans["mtp"] == plans["slimming"], "the two backbones have the same scales here"
    assert {frozenset(plan.keep) for plan in plans.values()} == {frozenset([*parts.backbone, *parts.decoder])}
    stays = [len(keep) for name, keep in plans["mtp"].keep.items() if "layer4" in name]
    assert choices.kept_share(plans["mtp"], "layer4") == sum(stays) / 96
    with pytest.raises(BudgetError, match="more than 1% of the MACs"):
        cut("mtp", classifier, segmenter, groups, parts, batches, kept=0.01)


def test_rivals_backbones_are_the_segmenters_and_mtps_are_two_that_agree(few: None, tmp_path: Path):
    given = trials.presets()["bisenet_mini"]
    pictures = data.scenes(given, None)
    things = data.objects(given, None, trials.classification_loss)
    here = Lab(given, pictures, things, 0, tmp_path)
    gap = {}
    for method in ("dense", "slimming", "mtp"):
        classifier, segmenter = here.sparse(method)
        first, third = classifier.get_submodule("backbone"), segmenter.get_submodule("context.backbone")
        pairs = zip(first.parameters(), third.parameters(), strict=True)
        gap[method] = max(float((a - b).detach().abs().max()) for a, b in pairs)
    assert gap["dense"] == gap["slimming"] == 0 < gap["mtp"]
    scales = [mtp.score(here.sparse(m)[1], lab.split(segmenter, given)[1]) for m in ("dense", "slimming")]
    total = [sum(float(s.sum()) for s in each.values()) for each in scales]
    assert total[1] < total[0], "the penalty shrinks scales"


def test_a_run_ends_as_records_of_every_claim_and_is_not_made_twice(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ways = {
        "M4": {"no classification": Way("mtp", 0.5, classify=0)},
        "M6": {"last stage 0.5x": Way("mtp", 0.5, classify=0)},
    }
    monkeypatch.setattr(trials, "ways", lambda given: ways)
    assert cli.main(["run", "claims", "M4", "M6", "--seeds", "1", "--out", str(tmp_path), "--record"]) == 0
    said = capsys.readouterr().out
    assert said.count("1/1 M4 no classification, M6 last stage 0.5x, seed 0: ") == 2, "a run for each network"
    for model, body in (("deeplabv3_mini", "backbone"), ("bisenet_mini", "context.backbone")):
        (accuracy,), (kept,) = (
            [entry for entry in ledger.load(claim) if entry.settings["model"] == model] for claim in ("M4", "M6")
        )
        assert 0 <= accuracy.metrics["miou"] < 1 and 0.4 < accuracy.metrics["macs_share"] <= 0.5
        last = f"{body}.body.layer4.0.conv1"
        assert kept.metrics == {"kept": accuracy.metrics["widths"][last] / lab_size(model, last)}
        assert accuracy.settings["tune_segment"] == [2, 4]
    trials.run(["M4", "M6"], seeds=1, out=tmp_path)
    assert capsys.readouterr().out == "" and len(ledger.load()) == 4


def lab_size(model: str, group: str) -> int:
    given = GIVEN[model]
    return lab.split(segmenter_of(given, 12, seed=0), given)[0][group].size


def test_a_paper_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["run", "claims", "S5", "--out", str(tmp_path)]) == 2
    assert "no runs for 'S5'" in capsys.readouterr().err
