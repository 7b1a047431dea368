"""The lessons keep the course's form, and the builder is deterministic and notices drift."""

from __future__ import annotations

import ast
import importlib.util
import re
import statistics
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

from prunekit.course import site
from prunekit.course.exercises import find
from prunekit.course.presets import LESSONS, lesson_minutes
from prunekit.errors import InputError

FOLDER = Path(__file__).parents[1] / "notebooks"


def load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook_builder", FOLDER / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_builder()
SOURCES = build.sources(FOLDER)
every_lesson = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def code(source: Path) -> list[str]:
    return [cell.source for cell in build.code_cells(build.read_source(source))]


def lines(cell: str) -> int:
    """Lines a learner has to read: blank ones do not count."""
    return sum(bool(line.strip()) for line in cell.splitlines())


def test_every_lesson_has_its_minutes_and_every_minute_its_lesson():
    assert [path.stem for path in SOURCES] == sorted(LESSONS)


def test_stored_notebooks_and_readme_agree_with_their_sources():
    assert build.check(FOLDER) == []
    assert build.check_readme(FOLDER, FOLDER.parent / "README.md") == []


@every_lesson
def test_code_cells_are_short(source: Path):
    lengths = [lines(cell) for cell in code(source)]
    assert statistics.median(lengths) <= 12
    assert max(lengths) <= 25, f"longest cell: {max(code(source), key=lines)}"


@every_lesson
def test_code_fits_the_page(source: Path):
    """The book shows 88 columns without scrolling."""
    assert [line for cell in code(source) for line in cell.splitlines() if len(line) > 88] == []


@every_lesson
def test_imports_name_what_they_bring(source: Path):
    tree = ast.parse("\n".join(re.sub(r"^\s*[%!].*$", "pass", cell, flags=re.M) for cell in code(source)))
    stars = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
    assert stars == []


@every_lesson
def test_the_first_cells_are_title_badge_times_and_set_up(source: Path):
    first = build.read_source(source).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert site.badge(source.stem) in first.source
    assert str(lesson_minutes(source.stem)) in first.source
    setup = code(source)[0]
    assert f'setup("{source.stem}"' in setup
    assert lines(setup) <= 12
    assert 'find_spec("prunekit") is None' in setup and f"git+{site.repository()}" in setup


@every_lesson
def test_the_last_code_cell_says_where_the_numbers_come_from(source: Path):
    assert ".footer()" in code(source)[-1]


@every_lesson
def test_prose_does_not_belittle(source: Path):
    cells = build.read_source(source).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.findall(r"\b(?:simply|obviously|of course)\b", prose, flags=re.I) == []


@every_lesson
def test_links_to_files_of_the_repository_lead_somewhere(source: Path):
    cells = build.read_source(source).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)", prose) if "://" not in t and not t.startswith("attachment:")]
    assert [t for t in targets if not (FOLDER / t).exists()] == []


# The builder itself, on a lesson made for the purpose.

TINY = """# %% [markdown]
# # Tiny
#
# {{badge}} at {{repo}}

# %% tags=["nbval-check-output"]
print(6 * 7)

# %% tags=["volatile"]
import time

print(time.time_ns())

# %%
import sys

from matplotlib import pyplot as plt

from prunekit.course import show

print("to be left out", file=sys.stderr)
fig, ax = plt.subplots(figsize=(1, 1))
show(fig, alt="an empty square, one inch wide")
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one built lesson."""
    folder = tmp_path_factory.mktemp("lessons")
    (folder / "src").mkdir()
    (folder / "src/77_tiny.py").write_text(TINY)
    assert build.build(folder / "src/77_tiny.py", folder)
    return folder


@pytest.fixture
def edited(tiny: Path, tmp_path: Path) -> Path:
    """A copy of that folder, free to be damaged."""
    (tmp_path / "src").mkdir()
    for name in ("src/77_tiny.py", "77_tiny.ipynb"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    return tmp_path


def test_building_twice_gives_the_same_bytes_though_the_clock_moved(tiny: Path):
    before = (tiny / "77_tiny.ipynb").read_bytes()
    assert build.build(tiny / "src/77_tiny.py", tiny) is False
    assert (tiny / "77_tiny.ipynb").read_bytes() == before


def test_the_built_notebook_has_outputs_alt_text_and_no_stderr(tiny: Path):
    assert build.check(tiny) == []
    notebook = nbformat.read(tiny / "77_tiny.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.endswith(f"at {site.repository()}")
    assert notebook.cells[1].outputs[0].text == "42\n"
    picture = notebook.cells[3]
    assert [output.get("name") for output in picture.outputs] == [None]
    assert picture.outputs[0].metadata["image/png"]["alt"] == "an empty square, one inch wide"
    assert picture.metadata["mystnb"]["image"]["alt"] == "an empty square, one inch wide"


def test_a_solution_on_the_page_is_the_exercises_own():
    exercise = find("01.4")
    text = build.fill("before {{solution 01.4}} after", "77_tiny")
    assert text.startswith("before <details>\n<summary>Solution</summary>\n\n```python\ndef separable_ratio(c, k):\n")
    assert exercise.source() in text and exercise.note in text and text.endswith("</details> after")
    with pytest.raises(InputError, match="no exercise '01.9'; did you mean"):
        build.fill("{{solution 01.9}}", "77_tiny")


def test_check_notices_a_changed_source(edited: Path):
    source = edited / "src/77_tiny.py"
    source.write_text(source.read_text().replace("6 * 7", "6 * 8"))
    assert "differs from the source, 'print(6 * 8)'" in build.check(edited)[0]


def test_check_notices_a_changed_tag(edited: Path):
    source = edited / "src/77_tiny.py"
    source.write_text(source.read_text().replace('"volatile"', '"hide-input"'))
    assert "differs from the source" in build.check(edited)[0]


def test_check_notices_missing_and_orphaned_notebooks(edited: Path):
    (edited / "src/77_tiny.py").rename(edited / "src/78_other.py")
    assert build.check(edited) == [
        "77_tiny.ipynb has no source in src/",
        "78_other.ipynb is missing: make notebooks NB=78",
    ]


def damage(folder: Path, cell: int, **changes: object) -> list[str]:
    path = folder / "77_tiny.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[cell].update(changes)
    nbformat.write(notebook, path)
    return build.check(folder)


def test_check_refuses_a_checked_cell_without_output(edited: Path):
    assert "has no stored output" in damage(edited, 1, outputs=[])[0]


def test_check_refuses_a_picture_without_alt_text(edited: Path):
    picture = nbformat.v4.new_output("display_data", {"image/png": "AAAA"})
    assert "without alt text" in damage(edited, 3, outputs=[picture])[0]


def test_check_refuses_a_lesson_that_compares_nothing(edited: Path):
    source = edited / "src/77_tiny.py"
    source.write_text(source.read_text().replace(' tags=["nbval-check-output"]', ""))
    assert any("compares nothing" in text for text in damage(edited, 1, metadata=nbformat.from_dict({})))


def test_widget_ids_are_counted_in_order():
    state = {"9f3c": {"state": {"layout": "IPY_MODEL_07ab"}}, "07ab": {"state": {}}}
    notebook = nbformat.v4.new_notebook(metadata={"widgets": {build.WIDGETS: {"state": state}}})
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "9f3c"}}
    notebook.cells = [nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", view)])]
    build.renumber_widgets(notebook)
    shown = notebook.cells[0].outputs[0].data["application/vnd.jupyter.widget-view+json"]
    assert shown["model_id"] == "widget-0000"
    renamed = notebook.metadata["widgets"][build.WIDGETS]["state"]
    assert renamed["widget-0000"]["state"]["layout"] == "IPY_MODEL_widget-0001"
    assert list(renamed) == ["widget-0000", "widget-0001"]


def test_the_readme_table_is_replaced_and_its_surroundings_stay(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(LESSONS, "77_tiny", LESSONS["00_quickstart"])
    text = f"above\n{build.BEGIN}\nold\n{build.END}\nbelow\n"
    new = build.with_table(text, tiny)
    assert new.startswith("above\n") and new.endswith("below\n") and "old" not in new
    assert "[77 Tiny](notebooks/77_tiny.ipynb)" in new and site.colab("77_tiny") in new
    assert build.with_table(new, tiny) == new
