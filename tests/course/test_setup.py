"""The set-up cell: says where it runs, seeds, may run twice, refuses nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunekit.course import setup
from prunekit.course.presets import LESSONS, QUICKSTART, SCALES, Minutes, read_scale, words
from prunekit.errors import InputError


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
    ("minutes", "text"), [(None, "-"), (0.5, "30 s"), (1.5, "90 s"), (3, "3 min"), (90, "90 min"), (720, "12 h")]
)
def test_durations_read_well(minutes: float | None, text: str):
    assert words(minutes) == text


def test_a_lesson_names_only_the_scales_it_has():
    assert str(Minutes(mini=3, full=720)) == "mini: 3 min (2 CPU cores) · full: 12 h (one large GPU)"
