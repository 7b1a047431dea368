"""Controls call the callback, its trouble is shown, and a built lesson stores one picture and no controls."""

from __future__ import annotations

import base64
import builtins
import importlib.util
from collections.abc import Iterator
from typing import Any

import ipywidgets
import nbformat
import pytest
from matplotlib import pyplot as plt

from prunekit.course.lesson import execute
from prunekit.errors import InputError, MissingDependencyError
from prunekit.widgets import live
from prunekit.widgets.live import Control, View, explore, panel, percents

CONTROLS = {"height": Control(percents((0.25, 1.0)), 0.25, slide=True), "name": Control({"A": "a", "B": "b"}, "a")}
Shown = list[tuple[dict[str, Any], dict[str, Any]]]


def draw(height: float, name: str) -> View:
    """A line as high as `height`; the state ("b", 1.0) is a fault."""
    if (height, name) == (1.0, "b"):
        raise InputError("b <is> never 100 %")
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([0, height])
    ax.set_ylim(0, 1)
    return View(fig, f"a line from zero to {height:g} of {name}")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    monkeypatch.delenv(live.STATIC, raising=False)
    seen: Shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: seen.append((data, metadata)))
    yield seen
    assert plt.get_fignums() == [], "a figure was left open"


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The panels that explorers make."""
    made: list[Any] = []
    monkeypatch.setattr(live, "panel", lambda *args: made.append(panel(*args)) or made[-1])
    return made


def test_where_python_runs_one_output_has_picture_alt_text_and_controls(shown: Shown, boxes: list[Any]):
    explore(draw, CONTROLS)
    ((data, metadata),) = shown
    assert metadata == {"image/png": {"alt": "a line from zero to 0.25 of a"}}
    assert data["text/plain"] == "[figure] a line from zero to 0.25 of a"
    assert data[live.VIEW] == {"version_major": 2, "version_minor": 0, "model_id": boxes[0].model_id}
    slider, listed, picture = boxes[0].children
    assert (type(slider), type(listed)) == (ipywidgets.SelectionSlider, ipywidgets.Dropdown)
    assert slider.options == (("25 %", 0.25), ("100 %", 1.0)) and slider.value == 0.25 and not slider.continuous_update
    assert data["image/png"] in picture.value, "the controls start with the picture that is stored"


def test_moving_a_control_draws_the_new_state_and_moving_back_the_old_one(shown: Shown, boxes: list[Any]):
    explore(draw, CONTROLS)
    slider, listed, picture = boxes[0].children
    first = picture.value
    slider.value = 1.0
    assert picture.value != first and 'alt="a line from zero to 1 of a"' in picture.value
    slider.value = 0.25
    assert picture.value == first


def test_trouble_in_a_callback_is_written_where_the_picture_was(shown: Shown):
    slider, listed, picture = panel(draw, CONTROLS, "").children
    slider.value, listed.value = 1.0, "b"
    assert picture.value == "<p>InputError: b &lt;is&gt; never 100 %</p>"
    listed.value = "a"
    assert picture.value.startswith("<img")


def test_trouble_in_the_first_state_is_an_error_of_the_cell(shown: Shown):
    with pytest.raises(InputError, match="never 100 %"):
        explore(draw, CONTROLS | {"height": Control({"": 1.0}, 1.0), "name": Control({"B": "b"}, "b")})
    assert shown == []


def test_a_static_page_gets_the_picture_alone(shown: Shown, monkeypatch: pytest.MonkeyPatch):
    explore(draw, CONTROLS)
    monkeypatch.setenv(live.STATIC, "1")
    explore(draw, CONTROLS)
    (first, _), (second, _) = shown
    assert set(second) == {"image/png", "text/plain"}
    assert second == {kind: first[kind] for kind in second}, "the same figure, to the byte"


def test_without_ipywidgets_there_is_the_picture_and_a_word(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(live, "find_spec", lambda name: None)
    explore(draw, CONTROLS)
    assert set(shown[0][0]) == {"image/png", "text/plain"}
    assert capsys.readouterr().out == "for controls, install ipywidgets: pip install ipywidgets\n"


def test_without_ipython_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("IPython"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="an explorer needs IPython: pip install"):
        explore(draw, CONTROLS)


CELL = """
from prunekit.widgets import Sensitivity, explore_sensitivity
table = Sensitivity((0.0, 0.5), {"stem": 8}, {"stem": (8, 4)}, {"stem": (0.7, 0.5)}, {"stem": (100, 60)}, 0.7, 100)
explore_sensitivity(table)
"""


def test_a_lesson_that_is_built_stores_one_picture_and_no_widget(tmp_path):
    """In a real kernel, run as notebooks/build.py runs it, twice."""
    assert importlib.util.find_spec("ipywidgets"), "the controls would be missing for another reason"
    notebooks = []
    for _ in range(2):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
        execute(notebook, tmp_path)
        notebooks.append(notebook)
    (output,) = notebooks[0].cells[0].outputs
    assert set(output.data) == {"image/png", "text/plain"} and "widgets" not in notebooks[0].metadata
    assert output.metadata["image/png"]["alt"].startswith("stem, 4 of 8 units gone: mIoU 0.700 to 0.500, MACs -40.0 %")
    assert output == notebooks[1].cells[0].outputs[0]
    assert base64.b64decode(output.data["image/png"])[:4] == b"\x89PNG"
