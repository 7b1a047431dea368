"""The address is written once and every link follows from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prunekit.course import site
from prunekit.course.tasks import load_task
from prunekit.errors import DataError, InputError

ROOT = Path(__file__).parents[2]


def address() -> str:
    found = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    assert found
    return found.group(1)


def test_the_repository_is_the_one_in_pyproject():
    assert site.repository() == address()


def test_no_other_file_spells_the_address_out():
    """README, sources, book and package derive it; only built notebooks and the README's generated table hold it."""
    places = [*ROOT.glob("prunekit/**/*.py"), *ROOT.glob("notebooks/src/*.py"), *ROOT.glob("notebooks/*.py")]
    places += [*ROOT.glob("book/*.*"), *ROOT.glob("tests/**/*.py"), ROOT / "Makefile", ROOT / ".ci/run"]
    name = "/".join(address().split("/")[-2:])
    assert [str(p) for p in places if p.is_file() and name in p.read_text(encoding="utf-8", errors="ignore")] == []


def test_badge_and_colab_link_open_the_built_notebook():
    link = site.colab("00_quickstart")
    assert link.endswith("/blob/main/notebooks/00_quickstart.ipynb")
    assert "/".join(address().split("/")[-2:]) in link
    assert site.badge("00_quickstart") == f"[![Open in Colab](../book/_static/colab.svg)]({link})"
    assert (ROOT / "book/_static/colab.svg").is_file()


def test_this_checkout_is_found_and_its_absence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert site.checkout() == ROOT
    monkeypatch.setattr(site, "__file__", str(tmp_path / "a/b/site.py"))
    assert site.checkout() is None
    with pytest.raises(InputError, match="a lesson needs the course's files: git clone"):
        site.need_checkout("a lesson")


def test_data_lie_in_the_clone_wherever_a_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("PRUNEKIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert site.data_folder() == ROOT / "data"
    monkeypatch.setenv("PRUNEKIT_DATA", str(tmp_path))
    assert site.data_folder() == tmp_path
    with pytest.raises(DataError, match=r"no folder .*CamVid\. .*get_camvid\.py data "):
        load_task("camvid")
