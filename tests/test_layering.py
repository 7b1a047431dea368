"""Data flows one way: a module imports only modules above it, methods never import each other, imports stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "prunekit"
ORDER = """
errors core data models surgery observe metrics multiscale profiling plan reconstruct gates train progressive runtimes
export viz latency widgets methods torch_pruning oneshot course cli
""".split()
FILES = sorted(PACKAGE.rglob("*.py"))


def layer(module: str) -> str:
    """prunekit.surgery.cut -> surgery; the package itself -> prunekit"""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> list[str]:
    """Every module an import statement of this file names, inside functions too; submodules in full."""
    found: list[str] = []
    here = module_name(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found += [
                f"{module}.{alias.name}" if is_module(f"{module}.{alias.name}") else module for alias in node.names
            ]
    return found


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def violations(path: Path) -> list[str]:
    """What this file imports but must not."""
    me = module_name(path)
    wrong = []
    for name in imports(path):
        top = name.split(".")[0]
        if top in ("data_scripts", "notebooks", "tests", "book"):
            wrong.append(f"{me} imports {name}, which is not part of the package")
        if top != "prunekit" or me == "prunekit":
            continue
        mine, other = layer(me), layer(name)
        if other not in ORDER:
            wrong.append(f"{me} imports {name}: name the module that holds it")
        elif mine == "methods" == other and me.split(".")[:3] != name.split(".")[:3] and me != "prunekit.methods":
            wrong.append(f"{me} imports {name}: methods stand alone")
        elif mine != other and ORDER.index(other) > ORDER.index(mine):
            wrong.append(f"{me} imports {name}, which comes after it")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_is_above_it(path: Path):
    assert layer(module_name(path)) in [*ORDER, "prunekit"], f"{path} has no place in the order of modules"
    assert violations(path) == []


def test_the_rule_notices_what_it_forbids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    folder = tmp_path / "prunekit" / "methods"
    folder.mkdir(parents=True)
    (folder / "l1.py").write_text("")
    for text, reason in [
        ("from prunekit.methods import l1", "stand alone"),
        ("def f():\n    from prunekit.course import setup", "comes after it"),
        ("from prunekit import oneshot", "comes after it"),
        ("from prunekit import prune", "name the module"),
        ("import data_scripts.get_camvid", "not part of the package"),
    ]:
        (folder / "other.py").write_text(text)
        (tmp_path / "prunekit/oneshot.py").write_text("")
        assert [reason in wrong for wrong in violations(folder / "other.py")] == [True], text
    (folder / "other.py").write_text("import torch\nfrom prunekit.core import Scores\nfrom prunekit import errors")
    (tmp_path / "prunekit/errors.py").write_text("")
    assert violations(folder / "other.py") == []


LIGHT = """
import socket, sys

def refuse(*args, **kwargs):
    raise RuntimeError("import prunekit reached for the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import prunekit
heavy = {"torchvision", "accelerate", "matplotlib", "onnx", "onnxruntime", "seaborn", "IPython"}
print(*sorted(heavy & sys.modules.keys()))
"""


def test_importing_prunekit_is_light_and_stays_off_the_network():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_helpers_of_the_tests_have_names_of_their_own():
    """They are imported by their bare names, so that a second one would be taken for the first."""
    helpers = [path.name for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith(("test_", "bench_"))]
    names = [name for name in helpers if name not in ("conftest.py", "__init__.py")]
    assert len(names) > 3 and sorted(set(names)) == sorted(names)
