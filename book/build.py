"""Build the Jupyter Book into book/_build/html: warnings are errors, and the pages work without a network.

    python book/build.py

Four steps: the vendored scripts (vendor.py); the pages that are drawn from data (results from the ledger, minutes from
the presets, sizes from sizes.py) into book/generated; _config.yml completed by the repository's address, which is
written in pyproject.toml only; jupyter-book, with the repository's root as its source, so that notebooks stay where
they are.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import bench
import networks
import sizes
import speed
import yaml
from vendor import fetch

from prunekit.course import claims, ledger, site
from prunekit.course.presets import CLAIMS, LESSONS, SCALES, words
from prunekit.errors import PrunekitError

BOOK = Path(__file__).resolve().parent
HTML = BOOK / "_build" / "html"
GENERATED = BOOK / "generated"
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


def main() -> int:
    """Build everything; returns the exit status."""
    fetch()
    shutil.rmtree(BOOK / "_build", ignore_errors=True)  # a page that is gone must not linger
    GENERATED.mkdir(exist_ok=True)
    records = ledger.load(folder=BOOK / "results")
    own = tuple(e for e in records if e.claim in CLAIMS and e.claim != bench.CLAIM)
    (GENERATED / "results.md").write_text(results(own))
    (GENERATED / "claims.md").write_text(claims_page(records))
    (GENERATED / "bench.md").write_text(bench.page(records, GENERATED))
    (GENERATED / "networks.md").write_text(networks.page(BOOK / "results/zoo/zoo.json"))
    (GENERATED / "widths.md").write_text(speed.widths(speed.load()))
    (GENERATED / "devices.md").write_text(speed.devices(records))
    (GENERATED / "minutes.md").write_text(minutes())
    (GENERATED / "sizes.md").write_text(sizes.published(sizes.load()))
    (GENERATED / "stored.md").write_text(sizes.stored())
    name = site.repository().rsplit("/", 1)[-1]
    (GENERATED / "clone.md").write_text(f"```bash\ngit clone {site.repository()}\ncd {name}\nmake lab\n```\n")
    config = BOOK / "_build" / "_config.yml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(yaml.safe_dump(configuration(), sort_keys=False))
    command = [
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        ".",
        "--config",
        str(config),
        "--toc",
        "book/_toc.yml",
    ]
    command += ["--path-output", "book", "-W", "--keep-going", "--all", "--quiet"]
    status = subprocess.call([sys.executable, *command], cwd=BOOK.parent)
    if status or not (HTML / "index.html").is_file():
        return status or 1
    loaded = list(external(HTML))
    print(
        "\n".join(loaded)
        if loaded
        else f"{len(list(HTML.rglob('*.html')))} pages in {HTML}, nothing loaded from the net"
    )
    return 1 if loaded else 0


def configuration() -> dict:
    """_config.yml with the repository's address put in."""
    config = yaml.safe_load((BOOK / "_config.yml").read_text())
    config["repository"] = {"url": site.repository(), "branch": site.BRANCH, "path_to_book": ""}
    return config


def results(records: tuple[ledger.Record, ...]) -> str:
    """One table per claim; the columns are the settings that differ and the metrics that are single numbers."""
    if not records:
        return "No runs are stored yet.\n"
    parts = []
    for claim in sorted({entry.claim for entry in records}):
        mine = [entry for entry in records if entry.claim == claim]
        metrics = sorted({k for e in mine for k, v in e.metrics.items() if isinstance(v, (int, float))})
        names = sorted({k for e in mine for k in e.settings})
        varying = [n for n in names if len({repr(e.settings.get(n)) for e in mine}) > 1]
        where = sorted({f"{e.device}, torch {e.versions.get('torch', '?')}, commit {e.commit}" for e in mine})
        title = f"## {claim}: {CLAIMS[claim]}" if claim in CLAIMS else f"## {claim}"
        parts += [title, ledger.table(mine, metrics, settings=varying), "Made on: " + "; ".join(where) + "."]
    return "\n\n".join(parts) + "\n"


def claims_page(records: tuple[ledger.Record, ...]) -> str:
    """All claims of all papers with their verdicts, then a table for each that has numbers."""
    parts = []
    for paper, mine in claims.PAPERS.items():
        parts += [f"## {paper}", claims.verdicts(mine, records)]
        shown = [claim for claim in mine if claim.prints or any(entry.claim == claim.id for entry in records)]
        parts += [claims.section(claim, records) for claim in shown]
    return "\n\n".join(parts) + "\n"


def minutes() -> str:
    """Table of every lesson's expected time."""
    lines = ["| lesson | " + " | ".join(SCALES) + " |", "|" + " --- |" * (1 + len(SCALES))]
    lines += [f"| {lesson_link(n)} | " + " | ".join(words(m.at(s)) for s in SCALES) + " |" for n, m in LESSONS.items()]
    return "\n".join(lines) + "\n"


def lesson_link(name: str) -> str:
    """A lesson's title, linked to its page; its file name as long as it is not built."""
    notebook = BOOK.parent / "notebooks" / f"{name}.ipynb"
    if not notebook.is_file():
        return name
    first = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    return f"[{first.splitlines()[0].lstrip('# ')}](/notebooks/{name}.ipynb)"


class Loads(HTMLParser):
    """Collects what a page fetches by itself; links that a reader clicks do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("canonical", "alternate"):
            return
        self.found += [given.get(LOADS[tag]) or ""] if tag in LOADS else []

    def handle_data(self, data: str) -> None:
        self.found += re.findall(r"@import\s+(?:url\()?[\"']?([^\"')]+)", data)


def external(folder: Path) -> Iterator[str]:
    """ "page: address" for everything that built pages and their style sheets would load from another host."""
    for page in sorted(folder.rglob("*.html")):
        parser = Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        for address in parser.found:
            if re.match(r"(https?:)?//", address):
                yield f"{page.relative_to(folder)} loads {address}"
    for sheet in sorted(folder.rglob("*.css")):
        for address in re.findall(r"url\([\"']?((?:https?:)?//[^\"')]+)", sheet.read_text(encoding="utf-8")):
            yield f"{sheet.relative_to(folder)} loads {address}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PrunekitError as error:
        sys.exit(f"book: {error}")
