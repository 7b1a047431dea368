"""Running a lesson without a browser, and turning it into one HTML file that opens offline, pictures and all."""

from __future__ import annotations

import base64
import mimetypes
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from prunekit.course import site
from prunekit.errors import InputError, MissingDependencyError, PrunekitError
from prunekit.widgets.live import STATIC

if TYPE_CHECKING:
    from nbformat import NotebookNode

# nbconvert's page loads its scripts from the net; ours carries MathJax inside when the book has fetched it.
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{{ resources.mathjax_inline }}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block data_png scoped -%}
<div class="jp-RenderedImage jp-OutputArea-output">
<img style="max-width:100%" alt="{{ output | get_metadata('alt', 'image/png') | escape_html }}"
 src="data:image/png;base64,{{ output.data['image/png'] | posix_path }}"></div>
{%- endblock -%}
"""
MATHJAX_OPTIONS = "window.MathJax={tex:{inlineMath:[['$','$'],['\\\\(','\\\\)']],processEscapes:true}}"


class LessonError(PrunekitError):
    """A cell of a lesson raised; the message holds the cell and the error."""


def notebook_path(lesson: str) -> Path:
    """The executed notebook of a lesson named in full or by number ("00"); InputError with the choice otherwise."""
    folder = site.need_checkout("a lesson") / "notebooks"
    found = sorted(folder.glob(f"{lesson}*.ipynb"))
    if len(found) != 1:
        names = ", ".join(p.stem for p in sorted(folder.glob("*.ipynb"))) or "none, run make notebooks"
        raise InputError(f"'{lesson}' names {len(found)} lessons; there are: {names}.")
    return found[0]


def execute(notebook: NotebookNode, folder: Path, *, out: Path | None = None, timeout: int = 600) -> None:
    """Run all cells in this Python and store the outputs in place. out: what the lesson sees as PRUNEKIT_OUT.

    timeout: seconds for one cell. LessonError names the cell that failed.
    """
    try:
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    except ImportError as err:
        raise MissingDependencyError("running a lesson needs nbclient: pip install 'prunekit[course]'.") from err
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    environment[STATIC] = "1"  # explorers leave one picture and no controls, which would work nowhere
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads crawl when another program wants a core
    if out is not None:
        environment["PRUNEKIT_OUT"] = str(out.resolve())
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=40"],  # the kernel's own warnings are no part of a lesson
    )
    try:
        client.execute(env=environment)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as err:
        raise LessonError(re.sub(r"\x1b\[[0-9;]*m", "", str(err)).strip()) from err


def to_html(notebook: NotebookNode, folder: Path, title: str) -> str:
    """One page with everything inside. folder: where the notebook's relative pictures are looked up."""
    try:
        from jinja2 import DictLoader
        from nbconvert import HTMLExporter
    except ImportError as err:
        raise MissingDependencyError("HTML needs nbconvert: pip install 'prunekit[course]'.") from err
    exporter = HTMLExporter(extra_loaders=[DictLoader({"lesson.html.j2": TEMPLATE})], template_file="lesson.html.j2")
    resources = {"metadata": {"name": title}, "mathjax_inline": _mathjax()}
    page, _ = exporter.from_notebook_node(notebook, resources=resources)
    return re.sub(r'(<img [^>]*?src=")([^":]+)(")', lambda found: _inline(found, folder), page)


def _inline(found: re.Match[str], folder: Path) -> str:
    """A picture of the repository as part of the page; nbconvert's own option stops at the notebook's folder."""
    path = folder / found[2]
    kind, _ = mimetypes.guess_type(path.name)
    if kind is None or not path.is_file():
        return found[0]
    return f"{found[1]}data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}{found[3]}"


def _mathjax() -> str:
    """MathJax as a script element, from the book's copy; empty without it, and equations stay readable TeX."""
    root = site.checkout()
    script = root / "book/_static/vendor/tex-svg.js" if root else None
    if script is None or not script.is_file():
        return ""
    code = script.read_text(encoding="utf-8").replace("</script", "<\\/script")
    return f"<script>{MATHJAX_OPTIONS}</script><script>{code}</script>"
