"""The command: every subcommand does its job or says in one line why not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from prunekit import cli
from prunekit.course import doctor, lesson, site
from prunekit.course.claims import PAPERS
from prunekit.errors import InputError, PlanError

LESSON = """
import os
from pathlib import Path
out = Path(os.environ["PRUNEKIT_OUT"])
for name in {names}:
    (out / name).write_text("mIoU 0.61")
"""


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkout with one lesson, made by the function this returns."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data_scripts").mkdir()
    monkeypatch.setattr(site, "checkout", lambda: tmp_path)

    def write(code: str) -> Path:
        cells = [nbformat.v4.new_markdown_cell("# Tiny $a^2$"), nbformat.v4.new_code_cell(code)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks/00_tiny.ipynb")
        return tmp_path

    return write


def test_demo_leaves_its_files_and_prints_the_table(course, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    course(LESSON.format(names=list(cli.DEMO_FILES)))
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {*cli.DEMO_FILES, "00_tiny.html"}
    assert "mIoU 0.61" in capsys.readouterr().out
    page = (tmp_path / "demo/00_tiny.html").read_text()
    assert "Tiny" in page and "<script src=" not in page and '<link href="http' not in page


def test_demo_says_when_the_lesson_left_something_out(course, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    course(LESSON.format(names=["report.txt"]))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/plan.json").write_text("from an earlier run")
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "did not leave before_after.png, pruned.onnx, plan.json" in capsys.readouterr().err


def test_demo_shows_the_cell_that_failed(course, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    course("raise ValueError('the budget is out of reach')")
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "the budget is out of reach" in capsys.readouterr().err


def test_demo_without_a_lesson_says_what_to_do(course, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "run make notebooks" in capsys.readouterr().err


def test_a_lesson_runs_in_this_python(tmp_path: Path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys; print(sys.executable)")])
    lesson.execute(notebook, tmp_path)
    assert notebook.cells[0].outputs[0].text.strip() == sys.executable


def test_html_keeps_alt_text_and_inlines_pictures(tmp_path: Path):
    picture = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
    picture.metadata = nbformat.from_dict({"image/png": {"alt": 'masks "before"'}})
    (tmp_path / "badge.svg").write_text("<svg/>")
    text = nbformat.v4.new_markdown_cell("![badge](../badge.svg) ![gone](gone.png)")
    cells = [text, nbformat.v4.new_code_cell("1", outputs=[picture])]
    (tmp_path / "notebooks").mkdir()
    page = lesson.to_html(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks", "tiny")
    assert '<img alt="badge" src="data:image/svg+xml;base64,PHN2Zy8+"' in page and 'src="gone.png"' in page
    assert 'alt="masks &quot;before&quot;"' in page or "alt='masks \"before\"'" in page
    assert "data:image/png;base64,iVBORw0KGgo=" in page


def test_run_hands_everything_to_the_lesson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    quickstart = pytest.importorskip("prunekit.course.quickstart")
    seen: dict = {}
    monkeypatch.setattr(quickstart, "run", lambda **given: seen.update(given))
    out = tmp_path / "runs"
    line = "run quickstart --scale small --dataset camvid --root d --seed 3 --out"
    assert cli.main([*line.split(), str(out)]) == 0
    assert seen == {"scale": "small", "dataset": "camvid", "root": Path("d"), "out": out, "seed": 3}
    assert out.is_dir()


def test_who_stops_a_long_run_hears_that_it_goes_on(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    def stop(*args: object, **given: object) -> None:
        raise KeyboardInterrupt

    for place, line in (
        ("prunekit.course.mtp.run", "run mtp"),
        ("prunekit.course.mtp.trials.run", "run claims M1"),
        ("prunekit.course.quickstart.run", "run quickstart"),
    ):
        monkeypatch.setattr(place, stop)
        assert cli.main([*line.split(), "--out", str(tmp_path)]) == 130
        goes_on = "; the same command goes on where it was" if "quickstart" not in line else ""
        assert capsys.readouterr().err == f"prunekit: stopped{goes_on}\n"


@pytest.mark.parametrize("paper", ["quickstart", *(paper.__name__.rpartition(".")[2] for paper in cli.PAPERS)])
def test_a_seed_is_not_negative(paper: str, capsys: pytest.CaptureFixture[str]):
    for text in ("-1", "two", "1.5"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["run", paper, "--seed", text])
        assert stopped.value.code == 2 and f"{text} is not a whole number from 0 on" in capsys.readouterr().err


def test_run_eapruning_takes_all_of_its_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from prunekit.course import eapruning

    seen: list = []
    monkeypatch.setattr(eapruning, "run", lambda preset, **given: seen.append(preset))
    line = "--dataset deit --cost params --macs-ratio 0.4 --population 8 --generations 2 --plans 3 --images 50"
    assert cli.main(["run", "eapruning", "--out", str(tmp_path), *line.split()]) == 0
    (preset,) = seen
    assert (preset.model, preset.cost, preset.macs_ratio, preset.plans, preset.images) == (
        "deit_mini",
        "params",
        0.4,
        3,
        50,
    )
    assert (preset.search.population, preset.search.generations) == (8, 2)
    assert cli.main(["run", "eapruning", "--out", str(tmp_path), "--macs-ratio", "1.5"]) == 2 and len(seen) == 1


@pytest.mark.parametrize("error", [PlanError("plan wants 64 units"), InputError("no such folder")])
def test_our_errors_are_one_line_and_status_2(error: Exception, monkeypatch, capsys: pytest.CaptureFixture[str]):
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(cli, "run_doctor", fail)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == f"prunekit: {error}\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "run_doctor", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_data_lists_runs_and_refuses(course, capsys: pytest.CaptureFixture[str]):
    root = course("1")
    (root / "data_scripts/get_toy.py").write_text("import sys; sys.exit(len(sys.argv) + 10)")
    assert cli.main(["data"]) == 0
    assert capsys.readouterr().out == "toy\n"
    assert cli.main(["data", "toy", "--root", "x"]) == 13
    assert cli.main(["data", "nothing"]) == 2
    assert "no data set 'nothing'; there are: toy." in capsys.readouterr().err


def test_lab_passes_options_on_and_others_refuse_them(course, monkeypatch, capsys: pytest.CaptureFixture[str]):
    root, seen = course("1"), []
    monkeypatch.setattr(cli.subprocess, "call", lambda command: seen.append(command) or 0)
    assert cli.main(["lab", "--no-browser", "--port=8890"]) == 0
    assert seen[0][3] == f"--notebook-dir={root}" and seen[0][-2:] == ["--no-browser", "--port=8890"]
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--no-browser"])
    assert "unrecognized arguments: --no-browser" in capsys.readouterr().err


def test_outside_a_checkout_the_course_says_how_to_get_it(monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(site, "checkout", lambda: None)
    assert cli.main(["lab"]) == 2
    assert "git clone" in capsys.readouterr().err


def test_doctor_is_content_here(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("ready\n") and "broken" not in said
    assert re.search(rf"^ok +torch +{re.escape(torch.__version__.split('+')[0])}", said, flags=re.M)


def test_doctor_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    asked = ["torch>=99", "not-a-package>=1", 'also-missing>=1; extra == "onnx"']
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: asked)
    monkeypatch.setenv("PRUNEKIT_SCALE", "huge")
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "broken torch" in said and "needs >=99" in said
    assert "broken not-a-package not installed: pip install -e ." in said
    assert "note   also-missing not installed: pip install 'prunekit[onnx]'" in said
    assert "PRUNEKIT_SCALE is 'huge'" in said
    assert said.endswith("3 to repair\n")


def test_the_installed_command_explains_itself():
    done = subprocess.run([sys.executable, "-m", "prunekit.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for word in ("demo", "lab", "run", "data", "doctor"):
        assert word in done.stdout


def test_version_and_a_run_that_stays_out_of_the_ledger(monkeypatch, tmp_path, capsys):
    from prunekit import cli
    from prunekit.course import ledger, quickstart

    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("prunekit 0.")
    seen = []
    monkeypatch.delenv("PRUNEKIT_RESULTS", raising=False)
    monkeypatch.setattr(quickstart, "run", lambda **_: seen.append(ledger.results_folder()))
    assert cli.main(["run", "quickstart", "--out", str(tmp_path)]) == 0
    assert seen == [tmp_path / "results"]
    monkeypatch.delenv("PRUNEKIT_RESULTS", raising=False)
    assert cli.main(["run", "quickstart", "--out", str(tmp_path), "--record"]) == 0
    assert seen[1].parts[-2:] == ("book", "results")


def test_the_help_of_claims_names_each_claim_that_has_runs(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["run", "claims", "--help"])
    (listed,) = re.findall(r"CLAIM  +(.*?)\n\n", capsys.readouterr().out, re.S)
    named: set[str] = set()
    for letter, first, last in re.findall(r"([A-Z])(\d)(?:\s+to\s+[A-Z](\d))?", listed):
        named |= {f"{letter}{n}" for n in range(int(first), int(last or first) + 1)}
    assert named == {claim.id for paper in PAPERS.values() for claim in paper if claim.needs}
