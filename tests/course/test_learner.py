"""Progress is kept for the session only, until the learner asks for a file; the file is written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunekit.course import check, exercises, learner, progress


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    learner.session.cache_clear()
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def solve(number: str) -> None:
    assert check(number, exercises.find(number).reference).ok


def test_nothing_is_written_unless_asked(data: Path):
    solve("01.1")
    card = progress()
    assert "1 of " in card.text and "only while this kernel runs" in card.text
    assert not data.exists()


def test_saved_progress_survives_the_session_and_keeps_the_first_day(data: Path):
    solve("01.1")
    assert str(data / "progress.json") in str(progress(save=True))
    assert list(json.loads((data / "progress.json").read_text())) == ["01.1"]
    (data / "progress.json").write_text('{"01.1": "2020-01-01"}')
    learner.session.cache_clear()
    solve("01.1")
    solve("00.1")
    kept = json.loads((data / "progress.json").read_text())
    assert kept["01.1"] == "2020-01-01" and set(kept) == {"00.1", "01.1"}
    assert [p.name for p in data.iterdir()] == ["progress.json"], "no half-written file stays"
    learner.session.cache_clear()
    table = str(progress())
    assert "2 of " in table and "01.1  2020-01-01  recall" in table and "01.2  open" in table


def test_wrong_and_unwritten_answers_are_no_progress(data: Path):
    progress(save=True)
    check("01.1", lambda counts_KK: None)
    check("01.1", exercises.find("01.1").mistakes[0].answer)
    assert json.loads((data / "progress.json").read_text()) == {}


def test_stopping_removes_the_file(data: Path):
    progress(save=True)
    progress(save=False)
    solve("01.1")
    assert list(data.iterdir()) == []


@pytest.mark.parametrize("text", ["not json", "[1]", '{"01.1": 3}', ""])
def test_a_damaged_file_is_named_and_kept(data: Path, text: str):
    data.mkdir()
    (data / "progress.json").write_text(text)
    assert "cannot be used" in str(progress()) and "cannot be used" in str(progress(save=True))
    card = check("01.1", exercises.find("01.1").reference)
    assert card.ok and "could not be saved" in str(card)
    assert (data / "progress.json").read_text() == text


def test_a_failed_write_leaves_the_old_file(data: Path, monkeypatch: pytest.MonkeyPatch):
    solve("01.1")
    progress(save=True)
    before = (data / "progress.json").read_text()

    def fail(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    card = check("00.1", exercises.find("00.1").reference)
    assert card.ok and "could not be saved" in card.more and "disk full" in card.more
    assert (data / "progress.json").read_text() == before
