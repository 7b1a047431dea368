"""An explorer in a real JupyterLab: the slider is dragged, and the picture changes.

Skipped, with a word, where there is no Chromium or no JupyterLab.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

pytest.importorskip("jupyterlab", reason="no JupyterLab here: explorers are not tried in one")
pytest.importorskip("websocket", reason="no websocket-client here: explorers are not tried in a browser")


def load_lab() -> ModuleType:
    spec = importlib.util.spec_from_file_location("widgets_lab", Path(__file__).with_name("lab.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["widgets_lab"] = module
    spec.loader.exec_module(module)
    return module


lab = load_lab()
CELL = """
from prunekit.widgets import Sensitivity, explore_sensitivity
table = Sensitivity((0.0, 0.5, 0.9), {"stem": 8}, {"stem": (8, 4, 1)}, {"stem": (0.7, 0.5, 0.1)},
                    {"stem": (100, 60, 20)}, 0.7, 100)
explore_sensitivity(table, ratio=0.0)
"""
IDLE = f"!{lab.at('.jp-Spinner')} && {lab.at('#jp-main-statusbar')}.innerText.includes('| Idle')"
RUN = ".jp-NotebookPanel-toolbar [data-jp-item-name=run]"
STARTED = lab.at(".jp-InputPrompt") + ".innerText !== '[ ]:'"
PICTURE = lab.at(".jp-OutputArea .widget-html img")


def test_moving_the_slider_changes_the_picture(tmp_path: Path):
    program = lab.browser()
    if program is None:
        pytest.skip("no Chromium here: explorers are not tried in a browser")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    with lab.jupyterlab(tmp_path) as address, lab.chromium(program, tmp_path) as page:
        page.send("Page.navigate", url=f"{address}/lab/tree/tiny.ipynb?reset")
        page.wait("an idle kernel", IDLE)
        page.click(".jp-Notebook .cm-content")
        page.wait("the run", STARTED, lambda: page.click(RUN))  # the first clicks may come too early
        page.wait("the explorer", f"{PICTURE}.complete && {lab.at('.noUi-handle')} !== null")
        before = page.js(f"[{PICTURE}.src, {PICTURE}.alt]")
        assert before[0].startswith("data:image/png;base64,") and "0 of 8 units gone" in before[1]
        page.wait("another picture", f"{PICTURE}.alt.includes('7 of 8')", lambda: move_right(page))
        assert page.js(f"{PICTURE}.src") not in (before[0], None)


def move_right(page) -> None:
    page.drag(page.place(".noUi-handle"), page.place(".noUi-target", across=1))
