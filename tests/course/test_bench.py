"""The bench end to end on a network of seconds: fair, resumable, recorded; and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prunekit import cli
from prunekit.core import Groups
from prunekit.course import bench, ledger
from prunekit.course.presets import BENCH, QUICKSTART, Bench
from prunekit.course.tasks import Task, load_task
from prunekit.errors import InputError, ScoreError

TRAINING = replace(QUICKSTART["mini"], tune_steps=2, batch=2, round_to=4)
TINY = Bench(TRAINING, methods=("random", "l1"), ratios=(0.5,), seeds=1, score_batches=1)


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("scenes", train_count=24, test_count=4)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: Task) -> Path:
    """A few scenes, and a ledger of its own."""
    monkeypatch.setattr(bench, "load_task", lambda *_, **__: task)
    monkeypatch.setenv("PRUNEKIT_RESULTS", str(tmp_path / "results"))
    return tmp_path


def test_every_run_is_recorded_once_and_a_second_start_finds_nothing_to_do(place: Path, capsys) -> None:
    two = replace(TINY, seeds=2)
    bench.run(two, scale="mini", root=None, out=place)
    said = capsys.readouterr().out
    order = [line.split(":")[0] for line in said.splitlines() if " seed " in line]
    assert order == ["1/4 random 50% seed 0", "2/4 l1 50% seed 0", "3/4 random 50% seed 1", "4/4 l1 50% seed 1"]
    records = ledger.load("bench")
    every = [("dense", 0), ("l1", 0), ("l1", 1), ("random", 0), ("random", 1)]
    assert sorted((r.method, r.seed) for r in records) == every
    pruned = [r for r in records if r.method != "dense"]
    assert len({r.metrics["macs"] for r in pruned}) == 1 and len({json.dumps(r.settings) for r in pruned}) == 1
    dense = next(r for r in records if r.method == "dense")
    assert pruned[0].metrics["macs"] <= dense.metrics["macs"] / 2
    assert all(0 <= r.metrics["iou_thin"] <= 1 and r.metrics["miou_before_tuning"] >= 0 for r in pruned)
    assert not list(place.glob("deeplabv3_mini/*-s?-*")), "checkpoints of finished runs stay behind"
    stamps = {path: path.stat().st_mtime_ns for path in ledger.results_folder().iterdir()}
    bench.run(two, scale="mini", root=None, out=place)
    assert {path: path.stat().st_mtime_ns for path in ledger.results_folder().iterdir()} == stamps
    assert "open" in capsys.readouterr().out  # two seeds decide nothing


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(place: Path, monkeypatch) -> None:
    bench.run(TINY, scale="mini", root=None, out=place / "a")
    whole = {r.method: r.metrics["iou"] for r in ledger.load("bench")}
    for path in ledger.results_folder().iterdir():
        path.unlink()
    usual, calls = bench.finetune, []

    def stopped(model, loader, config, **more):
        def stop(step, model):
            if len(calls) == 0 and step.step == 0:
                calls.append("stop")
                raise KeyboardInterrupt

        return usual(model, loader, config, on_step=stop, **more)

    monkeypatch.setattr(bench, "finetune", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench.run(TINY, scale="mini", root=None, out=place / "b")
    assert [r.method for r in ledger.load("bench")] == ["dense"]
    other = replace(TINY, training=replace(TRAINING, tune_steps=1), methods=("random",))
    bench.run(other, scale="mini", root=None, out=place / "b")  # another budget does not meet the half-finished run
    assert [r.method for r in ledger.load("bench") if r.settings.get("tune_steps") != 2] == ["dense", "random"]
    ledger.results_folder().joinpath(next(r.file_name() for r in ledger.load("bench") if r.method == "random")).unlink()
    bench.run(TINY, scale="mini", root=None, out=place / "b")
    assert {r.method: r.metrics["iou"] for r in ledger.load("bench")} == whole


def test_all_methods_run_and_a_seed_changes_what_they_look_at(place: Path, task: Task) -> None:
    some = replace(TINY, methods=("dcfp", "thinet", "taylor", "random+repair"))
    bench.run(some, scale="mini", root=None, out=place)
    assert {r.method for r in ledger.load("bench")} == {"dense", *some.methods}
    first, again, other = (bench.evidence(task, TINY, seed) for seed in (0, 0, 1))
    assert torch.equal(first.batches[0][0], again.batches[0][0])
    assert not torch.equal(first.batches[0][0], other.batches[0][0])
    assert torch.equal(first.crops()[0][0], first.crops()[0][0])
    assert set(bench.ALL) == {*bench.METHODS, "random+repair"}


def test_a_method_that_is_not_defined_here_is_left_out_with_the_reason(place: Path, monkeypatch, capsys) -> None:
    def undefined(model: torch.nn.Module, groups: Groups, see: bench.Evidence) -> dict:
        raise ScoreError("no batch norm follows 'fc1'")

    monkeypatch.setitem(bench.METHODS, "slimming", undefined)
    bench.run(replace(TINY, methods=("slimming", "l1"), ratios=(0.5, 0.99)), scale="mini", root=None, out=place)
    said = capsys.readouterr().out
    assert "slimming 50% seed 0: left out, no batch norm follows 'fc1'" in said
    assert "l1 99% seed 0: left out, asked to remove 99.00% of the macs" in said
    assert {r.method for r in ledger.load("bench")} == {"dense", "l1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--methods tailor", "no method 'tailor'; did you mean taylor.*There are: random, l1"),
        ("--methods l1,tailor+repair", "no method 'tailor'"),
        ("--methods l1,l1", "named twice"),
        ("--model deeplab_mini", "no model 'deeplab_mini'; did you mean deeplabv3_mini"),
        ("--ratios 0.5 1.5", "a ratio is 1.5; it is the fraction"),
        ("--ratios nan", "a ratio is nan"),
        ("--ratios 50", "a ratio is 50.0"),
        ("--seeds 0", "seeds is 0"),
        ("--steps 0", "steps is 0"),
        ("--dataset cityscapes", "no data set 'cityscapes' here"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(options: str, message: str, tmp_path: Path, capsys) -> None:
    assert cli.main(["run", "bench", "--out", str(tmp_path), *options.split()]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.rglob("*.json"))


def test_the_command_line_changes_what_it_names_and_nothing_else(monkeypatch, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setattr(bench, "run", lambda chosen, **_: seen.append(chosen))
    assert cli.main(["run", "bench", "--out", str(tmp_path)]) == 0
    line = "--methods l1,chip --ratios 0.25 0.5 --seeds 2 --steps 7 --how global --model segformer_mini"
    assert cli.main(["run", "bench", "--out", str(tmp_path), *line.split()]) == 0
    wanted = replace(BENCH["mini"].training, tune_steps=7)
    assert seen == [BENCH["mini"], Bench(wanted, "segformer_mini", ("l1", "chip"), (0.25, 0.5), 2, "global")]


def test_the_wrong_seed_or_option_of_another_experiment_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "quickstart", "--methods", "l1"])
    assert "unrecognized arguments: --methods l1" in capsys.readouterr().err


def test_broken_input_ends_with_our_error() -> None:
    with pytest.raises(InputError, match="a ratio is missing"):
        bench.check(replace(TINY, ratios=()))
