"""notebooks/src/NN_topic.py (percent format, what a person edits) -> notebooks/NN_topic.ipynb (executed, outputs kept).

    python notebooks/build.py            build all lessons
    python notebooks/build.py 00 03      build some
    python notebooks/build.py --check    do notebooks and README still say what the sources say? (runs nothing)
    python notebooks/build.py --readme   write the table of lessons into README.md

One way only: nothing is read back from a notebook but its outputs. Building twice gives the same bytes: cell ids come
from the cell's text, timings and stderr are left out, widget ids are renumbered, and the outputs of cells tagged
"volatile" (milliseconds, memory, commit) are kept from the last build when nothing else has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from importlib import metadata
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from prunekit.course import site
from prunekit.course.exercises import find
from prunekit.course.lesson import execute
from prunekit.course.presets import lesson_minutes, read_scale, words
from prunekit.errors import PrunekitError

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- lessons: begin (make readme) -->", "<!-- lessons: end -->"
CHECKED, VOLATILE = "nbval-check-output", "volatile"
WIDGETS = "application/vnd.jupyter.widget-state+json"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python", "pygments_lexer": "ipython3"}


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the lessons' notebooks from their sources.")
    parser.add_argument("lessons", nargs="*", help='numbers or names, e.g. "00"; none: all')
    parser.add_argument("--check", action="store_true", help="compare only, run nothing")
    parser.add_argument("--readme", action="store_true", help="only write the table of lessons")
    args = parser.parse_args()
    if args.check:
        problems = [*check(HERE), *check_readme(HERE, README)]
        print("\n".join(problems) or "notebooks and README agree with their sources")
        return 1 if problems else 0
    if args.readme:
        README.write_text(with_table(README.read_text(), HERE))
        return 0
    for source in sources(HERE, args.lessons):
        start = time.perf_counter()
        changed = build(source, HERE)
        print(f"{source.stem}: {'built' if changed else 'unchanged'}, {time.perf_counter() - start:.0f} s", flush=True)
    return 0


def sources(folder: Path, names: list[str] | None = None) -> list[Path]:
    """The lessons' source files, all or those whose name starts so; PrunekitError for a name that fits none."""
    found = sorted((folder / "src").glob("[0-9]*.py"))
    for name in names or []:
        if not any(path.stem.startswith(name) for path in found):
            raise PrunekitError(f"no lesson starts with '{name}' in {folder / 'src'}")
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def build(source: Path, folder: Path) -> bool:
    """Run one lesson and write its notebook in one step; False when the file on disk already says the same."""
    target = folder / f"{source.stem}.ipynb"
    notebook = read_source(source)
    execute(notebook, folder, timeout=900)
    tidy(notebook)
    old = nbformat.read(target, as_version=4) if target.exists() else None
    if old is not None and stable(old) == stable(notebook):
        return False
    part = target.with_suffix(".part")
    nbformat.write(notebook, part)
    part.replace(target)
    return True


def read_source(source: Path) -> NotebookNode:
    """The notebook that a source describes, placeholders filled, not run yet."""
    notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    notebook.nbformat_minor = 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.source = fill(cell.source, source.stem)
        name = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        seen[name] = seen.get(name, 0) + 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return notebook


def fill(text: str, lesson: str) -> str:
    """Put in what is written elsewhere: {{repo}}, {{colab}}, {{badge}}, {{minutes}}, {{version}}, {{solution 01.2}}."""
    values = {"repo": site.repository(), "colab": site.colab(lesson), "badge": site.badge(lesson)}
    values["version"] = metadata.version("prunekit")
    if "{{minutes}}" in text:
        values["minutes"] = f"Time to run · {lesson_minutes(lesson)}"
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return re.sub(r"\{\{solution ([^}]+)\}\}", lambda found: folded_solution(found[1]), text)


def folded_solution(exercise_id: str) -> str:
    """An exercise's reference, folded away: the page shows what the check compares with."""
    exercise = find(exercise_id)
    parts = ["<details>\n<summary>Solution</summary>", f"```python\n{exercise.source()}\n```", exercise.note]
    return "\n\n".join(part for part in parts if part) + "\n\n</details>"


def tidy(notebook: NotebookNode) -> None:
    """Take out what differs from run to run, and pass alt text on to the book."""
    notebook.metadata.language_info = nbformat.from_dict(LANGUAGE)
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        for output in cell.outputs:
            if output.get("name") == "stderr":
                print(f"stderr, left out of the notebook:\n{output.text}", file=sys.stderr)
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        alts = [alt for alt in image_alts(cell) if alt]
        if alts:  # myst-nb reads it from the cell, nbconvert and JupyterLab from the output
            cell.metadata["mystnb"] = {"image": {"alt": alts[0]}}
    renumber_widgets(notebook)


def renumber_widgets(notebook: NotebookNode) -> None:
    """Widget models have random ids; count them in order of creation instead."""
    models = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    text = json.dumps({"cells": notebook.cells, "metadata": notebook.metadata})
    for number, model in enumerate(models):
        text = text.replace(model, f"widget-{number:04d}")
    if models:
        renamed = json.loads(text, object_hook=NotebookNode)
        notebook.cells, notebook.metadata = renamed.cells, renamed.metadata


def stable(notebook: NotebookNode) -> str:
    """The notebook as text, without the outputs of volatile cells: equal text, same lesson."""
    copy = deepcopy(notebook)
    for cell in code_cells(copy):
        if VOLATILE in tags(cell):
            cell.outputs = []
    return nbformat.writes(copy)


def check(folder: Path) -> list[str]:
    """What is wrong with the stored notebooks, one sentence each; empty when all is well. Runs nothing."""
    built, wanted = {p.stem for p in folder.glob("*.ipynb")}, {p.stem for p in sources(folder)}
    problems = [f"{name}.ipynb has no source in src/" for name in sorted(built - wanted)]
    problems += [f"{name}.ipynb is missing: make notebooks NB={name[:2]}" for name in sorted(wanted - built)]
    for source in sources(folder):
        if source.stem in built:
            stored = nbformat.read(folder / f"{source.stem}.ipynb", as_version=4)
            problems += [f"{source.stem}: {text}" for text in differences(read_source(source), stored)]
            problems += [f"{source.stem}: {text}" for text in faults(stored)]
    return problems


def differences(wanted: NotebookNode, stored: NotebookNode) -> Iterator[str]:
    """Where a stored notebook's cells are not its source's."""
    remedy = "build it again (make notebooks)"
    if len(wanted.cells) != len(stored.cells):
        yield f"the source has {len(wanted.cells)} cells, the notebook {len(stored.cells)}: {remedy}"
    for number, (new, old) in enumerate(zip(wanted.cells, stored.cells)):
        same = (new.cell_type, new.source, tags(new)) == (old.cell_type, old.source, tags(old))
        if not same:
            line = new.source.splitlines()[0] if new.source else "(empty)"
            yield f"cell {number} differs from the source, '{line[:60]}': {remedy}"
            return


def faults(stored: NotebookNode) -> Iterator[str]:
    """Outputs that would make the automatic comparison blind, or a page that says less than it should."""
    checked = [cell for cell in code_cells(stored) if CHECKED in tags(cell)]
    if not checked:
        yield f"no cell is tagged {CHECKED}, so running it again compares nothing"
    for cell in code_cells(stored):
        line = cell.source.splitlines()[0] if cell.source else "(empty)"
        if cell in checked and not cell.outputs:
            yield f"'{line}' is tagged {CHECKED} but has no stored output"
        if cell in checked and VOLATILE in tags(cell):
            yield f"'{line}' is tagged both {CHECKED} and {VOLATILE}"
        if any(output.output_type == "error" for output in cell.outputs) and "raises-exception" not in tags(cell):
            yield f"'{line}' stored an error"
        if any(output.get("name") == "stderr" for output in cell.outputs):
            yield f"'{line}' stored stderr"
        alts = image_alts(cell)
        if not all(alts):
            yield f"'{line}' shows a picture without alt text: use prunekit.course.show(fig, alt=...)"
        if len(alts) > 1:
            yield f"'{line}' shows {len(alts)} pictures; one a cell, so that each keeps its alt text in the book"


def check_readme(folder: Path, readme: Path) -> list[str]:
    """Is the README's table of lessons the one the sources give?"""
    text = readme.read_text() if readme.exists() else ""
    if BEGIN not in text or END not in text:
        return [f"README.md has no place for the lessons: put {BEGIN} and {END} where the table goes"]
    return [] if with_table(text, folder) == text else ["README.md's table of lessons is old: make readme"]


def with_table(readme: str, folder: Path) -> str:
    """README text with the table of lessons between its two markers."""
    lines = ["| lesson | runs in (mini scale) | |", "| --- | --- | --- |"]
    for source in sources(folder):
        name = source.stem
        link = f"[{name[:2]} {title(source)}](notebooks/{name}.ipynb)"
        lines.append(f"| {link} | {words(lesson_minutes(name).at('mini'))} | {site.badge(name, root='.')} |")
    before, rest = readme.split(BEGIN, 1)
    return before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END, 1)[1]


def title(source: Path) -> str:
    """A lesson's title: its first heading."""
    for cell in read_source(source).cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return line[2:].strip()
    raise PrunekitError(f"{source.name} has no '# Title' in a markdown cell")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return list(cell.metadata.get("tags", []))


def image_alts(cell: NotebookNode) -> list[str]:
    """The alt text of each picture a cell shows, "" where it has none."""
    alts = []
    for output in cell.get("outputs", []):
        for kind in output.get("data", {}):
            if kind.startswith("image/"):
                alts.append(output.get("metadata", {}).get(kind, {}).get("alt", ""))
    return alts


if __name__ == "__main__":
    try:
        if read_scale() != "mini":
            raise PrunekitError("notebooks are stored at mini scale; unset PRUNEKIT_SCALE to build them.")
        sys.exit(main())
    except PrunekitError as error:
        sys.exit(str(error))
