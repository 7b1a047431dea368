"""Where the course lives: its public address, and this checkout when we run from one.

The address is written once, in pyproject.toml ([project.urls] Repository); every badge, link and set-up cell asks here.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from prunekit.errors import InputError

COLAB = "https://colab.research.google.com/github"
BRANCH = "main"


def repository() -> str:
    """The public address, e.g. "https://github.com/owner/name", from the installed package's metadata."""
    try:
        pairs = [line.split(", ", 1) for line in metadata.metadata("prunekit").get_all("Project-URL") or []]
    except metadata.PackageNotFoundError as err:
        raise InputError("prunekit is not installed here, only on the path: run pip install -e . first.") from err
    found = [url.rstrip("/") for name, url in pairs if name == "Repository"]
    if not found:
        raise InputError("the package names no Repository; add it to [project.urls] in pyproject.toml and reinstall.")
    return found[0]


def colab(lesson: str) -> str:
    """Link that opens a lesson ("00_quickstart") on Colab."""
    owner_and_name = "/".join(repository().split("/")[-2:])
    return f"{COLAB}/{owner_and_name}/blob/{BRANCH}/notebooks/{lesson}.ipynb"


def badge(lesson: str, *, root: str = "..") -> str:
    """Markdown of the Colab badge; the picture lies in the repository, `root` is the way there from the page."""
    return f"[![Open in Colab]({root}/book/_static/colab.svg)]({colab(lesson)})"


def checkout() -> Path | None:
    """The folder of the clone this package is imported from, None when it was installed without one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def data_folder() -> Path:
    """Where data sets lie: PRUNEKIT_DATA, else data/ of the clone, wherever a notebook or a command was started."""
    root = checkout()
    return Path(os.environ.get("PRUNEKIT_DATA") or (root / "data" if root else "data"))


def need_checkout(what: str) -> Path:
    """The clone's folder; InputError with the command to get one when there is none."""
    root = checkout()
    if root is None:
        raise InputError(f"{what} needs the course's files: git clone {repository()}, then pip install -e . in it.")
    return root
