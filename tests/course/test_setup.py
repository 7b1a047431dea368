"""The set-up cell: says where it runs, seeds, may run twice, refuses nonsense."""

from __future__ import annotations

import subprocess
import warnings
from importlib import metadata
from pathlib import Path

import pytest
import torch

from prunekit.course import setup, site
from prunekit.course.presets import LESSONS, QUICKSTART, SCALES, Minutes, read_scale, words
from prunekit.course.setup import match_version
from prunekit.errors import InputError, MissingDependencyError


def test_setup_says_device_versions_scale_and_minutes(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_OUT", str(tmp_path / "new/folder"))
    course = setup("00_quickstart")
    said = capsys.readouterr().out
    assert f"torch {torch.__version__.split('+')[0]}" in said
    assert f"mini: about {words(LESSONS['00_quickstart'].mini)}" in said
    assert course.out == tmp_path / "new/folder" and course.out.is_dir()
    assert course.device.type in said or course.device.type == "cuda"


def test_setup_twice_gives_the_same_numbers_and_the_same_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PRUNEKIT_OUT", raising=False)
    first = setup("00_quickstart")
    numbers = torch.rand(3)
    second = setup("00_quickstart")
    assert torch.equal(numbers, torch.rand(3))
    assert first.out == second.out and first.out.is_dir()


def test_footer_holds_the_provenance(capsys: pytest.CaptureFixture[str]):
    course = setup("00_quickstart")
    capsys.readouterr()
    course.footer()
    said = capsys.readouterr().out
    for part in ("00_quickstart at mini scale on ", "torch ", "commit ", " s, ", "peak memory "):
        assert part in said


def test_only_a_lesson_that_has_other_scales_is_told_how_to_choose_one(capsys: pytest.CaptureFixture[str]):
    said = {}
    for lesson in ("00_quickstart", "08_eapruning"):
        setup(lesson)
        said[lesson] = "PRUNEKIT_SCALE" in capsys.readouterr().out
    assert said == {"00_quickstart": True, "08_eapruning": False}


def test_unknown_lesson_names_the_known_ones():
    with pytest.raises(InputError, match="no lesson '99_nothing'; known: 00_quickstart"):
        setup("99_nothing")


def test_scale_comes_from_the_environment_and_a_wrong_one_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PRUNEKIT_SCALE", "small")
    assert read_scale() == "small"
    assert read_scale("full") == "full"
    monkeypatch.setenv("PRUNEKIT_SCALE", "")
    assert read_scale() == "mini"
    monkeypatch.setenv("PRUNEKIT_SCALE", "tiny")
    with pytest.raises(InputError, match="PRUNEKIT_SCALE is 'tiny'; choose mini"):
        setup("00_quickstart")


def test_every_scale_has_a_preset_that_can_run():
    assert tuple(QUICKSTART) == SCALES
    for preset in QUICKSTART.values():
        assert 0 < preset.macs_ratio < 1 and preset.lr > 0 and preset.batch > 0 and preset.tune_steps > 0
    assert QUICKSTART["mini"].train_steps == 0, "at mini scale the stored checkpoint is the dense model"


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        (None, "-"),
        (0.5, "30 s"),
        (1.5, "90 s"),
        (2.5, "2 min 30 s"),
        (3, "3 min"),
        (90, "90 min"),
        (720, "12 h"),
    ],
)
def test_durations_read_well(minutes: float | None, text: str):
    assert words(minutes) == text


def test_a_lesson_names_only_the_scales_it_has():
    assert str(Minutes(mini=3, full=720)) == "mini: 3 min (2 CPU cores) · full: 12 h (one large GPU)"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch):
    """Outside a clone, with version 0.1 installed; pip is replaced by one that brings the version it is told to."""
    state = {"installed": "0.1", "brings": "0.2", "fails": "", "calls": []}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        state["calls"].append(command[-1])
        if not state["fails"]:
            state["installed"] = state["brings"]
        return subprocess.CompletedProcess(command, 1 if state["fails"] else 0, "", state["fails"])

    monkeypatch.setattr(site, "checkout", lambda: None)
    monkeypatch.setattr(site, "repository", lambda: "https://example.org/a/prunekit")
    monkeypatch.setattr(metadata, "version", lambda name: state["installed"])
    monkeypatch.setattr(subprocess, "run", run)
    return state


def test_the_right_version_installs_nothing(pip: dict):
    match_version("0.1")
    assert pip["calls"] == []


def test_a_wrong_version_is_replaced_once_and_the_lesson_stops_until_a_restart(pip: dict):
    with pytest.raises(MissingDependencyError, match="prunekit 0.2 has taken the place of 0.1: restart the kernel"):
        match_version("0.2")
    match_version("0.2")
    assert pip["calls"] == ["prunekit[onnx,quiz] @ git+https://example.org/a/prunekit"]


def test_a_lesson_older_than_the_newest_version_goes_on_with_a_word(pip: dict, capsys: pytest.CaptureFixture[str]):
    pip["installed"] = pip["brings"]
    match_version("0.1")
    assert "made for prunekit 0.1, the newest is 0.2" in capsys.readouterr().out


def test_a_pip_that_fails_says_why(pip: dict):
    pip["fails"] = "looking\nERROR: no network"
    with pytest.raises(MissingDependencyError, match=r"could not get another: ERROR: no network. On Kaggle"):
        match_version("0.2")


def test_a_clone_is_never_replaced(pip: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(site, "checkout", lambda: Path("."))
    match_version("0.2")
    assert pip["calls"] == [] and "your clone has 0.1: git pull" in capsys.readouterr().out


def test_a_warning_of_pytorch_about_its_own_code_stays_out_of_the_lessons(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PRUNEKIT_OUT", str(tmp_path))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        setup("06_bilevel")
        warnings.warn("`torch.jit.script` is deprecated. Please switch.", FutureWarning, stacklevel=1)
        warnings.warn("something else", FutureWarning, stacklevel=1)
    assert [str(each.message) for each in seen] == ["something else"]
