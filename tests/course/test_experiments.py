"""What the papers' experiments share: runs made once and recorded for each claim, stretches, presets, pictures."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from layouts import ADE, VOC, publish

from prunekit.course import ledger
from prunekit.course.bilevel import preset_of
from prunekit.course.experiments import (
    Clock,
    Row,
    Stretch,
    adamw,
    carry_out,
    check_numbers,
    fetched,
    pictures,
    runs_of,
    same_run,
)
from prunekit.errors import CheckpointError, DataError, DownloadError, InputError

WAYS = {"A1": {"ours": 1, "theirs": 2}, "A2": {"again": 1}}


def test_a_run_that_two_claims_ask_for_is_made_once_and_a_seed_is_whole_before_the_next():
    todo = runs_of(["A1", "A2"], WAYS, seeds=2, settings=lambda claim, way: {"way": way})
    assert list(todo) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [(row.claim, row.method, row.seed) for row in todo[1, 1]] == [("A1", "ours", 1), ("A2", "again", 1)]
    assert todo[0, 2] == [Row("A1", "theirs", 0, {"way": 2})]
    with pytest.raises(InputError, match=r"no runs for 'A3'; there are: A1, A2"):
        runs_of(["A3"], WAYS, seeds=1, settings=lambda claim, way: {})
    with pytest.raises(InputError, match="seeds is 0"):
        runs_of(["A1"], WAYS, seeds=0, settings=lambda claim, way: {})


def test_a_folder_belongs_to_one_preset_and_one_set_of_data(tmp_path: Path):
    preset, config = preset_of("mini"), adamw(2, 2, 0.1).config(seed=0, quiet=True)
    folder, root = tmp_path / "run", tmp_path / "data"
    same_run(folder, config, preset, root)
    same_run(folder, config, preset, tmp_path / "run/../data")
    for other, message in (
        (replace(preset, size=(32, 64)), r"started with size=\[64, 128\], now \[32, 64\]"),
        (replace(preset, masks=replace(preset.masks, beta=9.0)), r"started with masks\.beta=25\.0, now 9\.0"),
        (replace(preset, pretrain=adamw(1, 1, 0.1)), "started with pretrain=None, now {"),
    ):
        with pytest.raises(CheckpointError, match=message):
            same_run(folder, config, other, root)
    with pytest.raises(CheckpointError, match=r"root=\['.*data'\], now \[None\]"):
        same_run(folder, config, preset, None)
    same_run(tmp_path / "free", config, preset, but=("size",))
    same_run(tmp_path / "free", config, replace(preset, size=(32, 64)), but=("size",))
    with pytest.raises(CheckpointError, match=r"started with size=None, now \[64, 128\]"):
        same_run(tmp_path / "free", config, preset)


def test_what_the_ledger_holds_is_not_made_again(capsys: pytest.CaptureFixture[str]):
    made: list[int] = []

    def do(run: int) -> dict[str, float]:
        made.append(run)
        if run == 3:
            raise KeyboardInterrupt
        return {"miou": run / 10, "kept": 7.0}

    rows = {run: [Row("A1", "ours", run, {"sizes": (2, 4)}), Row("A2", "again", run, {})] for run in (1, 2, 3)}

    def of(row: Row, found):
        return found if row.claim == "A1" else {"kept": found["kept"]}

    with pytest.raises(KeyboardInterrupt):
        carry_out(rows, do, of=of)
    assert "1/3 A1 ours, A2 again, seed 1: miou 0.100" in capsys.readouterr().out
    assert [(e.claim, e.seed, e.metrics) for e in ledger.load()] == [
        *(("A1", seed, {"miou": seed / 10, "kept": 7.0}) for seed in (1, 2)),
        *(("A2", seed, {"kept": 7.0}) for seed in (1, 2)),
    ]
    with pytest.raises(KeyboardInterrupt):
        carry_out(rows, do, of=of)
    assert made == [1, 2, 3, 3], "after a stop it goes on, a tuple in the settings is a list in the record"
    carry_out({run: rows[run][:1] for run in (1, 2)}, do)
    assert made == [1, 2, 3, 3]
    carry_out({1: [Row("A1", "ours", 1, {"sizes": (2, 5)})]}, do)
    assert made[-1] == 1, "other settings are another run"
    carry_out({1: rows[1]}, do, scale="small")
    assert made[-2:] == [1, 1], "and so is another scale"


def test_what_a_checkpoint_saved_counts_as_the_runs_time():
    rows = {1: [Row("A1", "ours", 1, {})], 2: [Row("A1", "ours", 2, {})]}
    carry_out(rows, lambda run: {"miou": 0.5, **({"earlier": 70.0} if run == 2 else {})})
    one, other = ledger.load("A1")
    assert one.seconds < 1 and 70 <= other.seconds < 71 and other.metrics == {"miou": 0.5}


@pytest.mark.parametrize(("stretch", "schedule"), [(Stretch(9, 2, 0.1), "poly"), (adamw(9, 2, 0.1), "cosine")])
def test_a_stretch_takes_the_schedule_of_its_optimizer(stretch: Stretch, schedule: str):
    config = stretch.config(seed=3, precision="bf16")
    assert (config.schedule, config.steps, config.lr, config.seed) == (schedule, 9, 0.1, 3)
    assert config.mixed_precision == "bf16" and config.weight_decay == stretch.weight_decay
    assert Stretch(9, 2, 0.1, schedule="linear").config(seed=0).schedule == "linear"


def test_numbers_below_one_and_weights_out_of_reach_are_refused():
    check_numbers({"steps": 1, "size": (1, 2), "model": "any"})
    with pytest.raises(InputError, match=r"size is \(0, 4\); give whole numbers from 1 on"):
        check_numbers({"size": (0, 4)})
    check_numbers({"macs_ratio": 0.0, "percentage": 0.99})
    for name, ratio in (("macs_ratio", 1.0), ("percentage", -0.1), ("macs_ratio", float("nan"))):
        with pytest.raises(InputError, match=rf"{name} is the fraction to remove.*--{name.replace('_', '-')}"):
            check_numbers({name: ratio})

    def offline():
        raise OSError("no connection\nmore")

    with pytest.raises(DownloadError, match=r"\(no connection\).*--no-pretrained"):
        fetched(offline)


def test_pictures_are_cropped_to_train_on_and_whole_to_test_on(tmp_path: Path):
    task = pictures("ade20k", publish(ADE, tmp_path / "ade"), size=(8, 8), short_side=8)
    assert task.train[0][0].shape == (3, 8, 8) and task.test[0][0].shape == (3, 8, 12)
    assert task.test[0][1].shape == (16, 24), "label maps keep their size"
    voc = publish(VOC, tmp_path / "voc")
    splits = {split: pictures("voc", voc, size=(8, 8), split=split).train.split for split in (None, "train")}  # type: ignore[attr-defined]
    assert splits == {None: "trainaug", "train": "train"}
    with pytest.raises(DataError, match=r"where is voc\? Give its folder: --root PATH"):
        pictures("voc", None, size=(8, 8))


def test_seconds_of_all_starts_add_up_and_a_run_that_is_done_gets_no_longer(tmp_path: Path):
    now = [0.0]
    file = tmp_path / "run" / "seconds.json"

    def start(seconds: float, ends: type[BaseException] | None = None) -> float | None:
        with Clock(file, lambda: now[0]) as clock:
            file.parent.mkdir(exist_ok=True)
            now[0] += seconds
            if ends is not None:
                raise ends
            return clock.total()

    with pytest.raises(KeyboardInterrupt):
        start(38.0, KeyboardInterrupt)
    with pytest.raises(CheckpointError):
        start(1000.0, CheckpointError)  # refused: not this run's
    assert start(34.0) == 72.0 and start(0.5) == 72.0
    file.write_text("{")
    with pytest.raises(CheckpointError, match=r"seconds\.json is damaged.*delete it"):
        start(1.0)
