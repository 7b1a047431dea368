"""`prunekit bench` end to end, and the runtimes that give no times."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from prunekit import cli
from prunekit.errors import InputError
from prunekit.export import export
from prunekit.latency import bench_files, compare, write_csv, write_picture

X = torch.randn(1, 3, 32, 32)


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3)).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """wide.onnx has about four times the work of slim.onnx, and wide.pt2 has no slim.pt2 beside it."""
    folder = tmp_path_factory.mktemp("bench")
    found = {"wide": folder / "wide.onnx", "slim": folder / "slim.onnx"}
    for (_, path), width in zip(found.items(), (64, 16)):
        export(net(width), X, path)
    export(net(64), X, folder / "wide.pt2", "torch")
    return found


def test_the_command_leaves_csv_and_picture(files, tmp_path: Path, capsys):
    given = [str(path) for path in files.values()]
    assert cli.main(["bench", *given, "--repeats", "3", "--out", str(tmp_path / "new")]) == 0
    wide, slim = csv.DictReader((tmp_path / "new" / "bench.csv").open())
    assert wide["model"] == "wide" and float(wide["speedup"]) == 1 and float(wide["wall_ms"]) > 0
    assert float(slim["macs_ratio"]) == pytest.approx(int(wide["macs"]) / int(slim["macs"]))
    assert int(wide["macs"]) == 64 * 27 * 30**2 + 64 * 64 * 9 * 28**2
    assert (tmp_path / "new" / "bench.png").read_bytes()[1:4] == b"PNG"
    assert "ideal" in capsys.readouterr().out


def test_places_that_cannot_be_written_are_said_before_any_timing(files, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    given = [str(path) for path in files.values()]
    monkeypatch.setattr("prunekit.latency.bench.Runtime", None)  # nothing is timed
    assert cli.main(["bench", *given, "--out", str(tmp_path / "file")]) == 2
    assert "cannot make the folder" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_of_a_table_or_picture(tmp_path: Path, monkeypatch):
    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    for write in (lambda: write_csv([], tmp_path / "bench.csv"), lambda: write_picture(Figure(), tmp_path / "a.png")):
        with pytest.raises(InputError, match=r"cannot write .* \(No space left on device\); .*free some space"):
            write()
    assert list(tmp_path.iterdir()) == []


def test_less_work_is_faster(files):
    rows, missed = bench_files(files, ["ort"], repeats=9)
    assert missed == [] and rows[1].cpu_speedup > 1.5  # 15 times fewer MACs: any machine sees that


def test_a_runtime_without_its_files_is_missed_and_the_others_go_on(files):
    rows, missed = bench_files(files, ["eager", "ort"], repeats=2)
    assert {row.runtime for row in rows} == {"ort"}
    assert [gap.runtime for gap in missed] == ["eager"] and "needs slim.pt2" in missed[0].why


def test_models_in_memory():
    rows, missed = compare({"a": net(16), "b": net(8)}, X, repeats=2)
    assert [row.model for row in rows] == ["a", "b"] and missed == []


def test_what_compares_nothing(files, tmp_path: Path):
    with pytest.raises(InputError, match="at least two"):
        bench_files({"wide": files["wide"]}, ["ort"])
    with pytest.raises(InputError, match="no runtime 'tvm'"):
        bench_files(files, ["tvm"])
    odd = tmp_path / "odd.onnx"
    odd.write_bytes(b"not a network")
    with pytest.raises(InputError, match="whatever its name says"):
        bench_files({**files, "odd": odd}, ["ort"])
    lonely = tmp_path / "slim.onnx"
    lonely.write_bytes(files["slim"].read_bytes())
    _, (gap,) = bench_files({**files, "lonely": lonely}, ["ort"])
    assert "slim.onnx.export.json is missing" in gap.why
