"""The README keeps its promises: its example runs as printed, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    smaller = code.replace("resnet50", "resnet18").replace("pretrained=True", "pretrained=False").replace("224", "64")
    assert smaller != code
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(smaller, names)
    dense, small = (sum(p.numel() for p in names[name].parameters()) for name in ("model", "small"))
    assert small < dense
    assert (tmp_path / "plan.json").is_file()
    assert capsys.readouterr().out.strip()


def test_links_to_files_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", TEXT) if "://" not in target]
    assert "LICENSE" in targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_that_the_documents_name_exist():
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT + (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M))
    assert named - targets == set()
    assert {"demo", "test", "lab", "book", "notebooks", "bench", "lint", "pins", "clean", "help"} <= targets
