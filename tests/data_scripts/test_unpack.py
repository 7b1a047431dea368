"""Archives that try to leave their folder are refused as a whole, before anything is written."""

import io
import tarfile
import zipfile

import pytest
from _unpack import unpack

from prunekit.errors import DownloadError

GOOD = {"set/a.txt": b"alpha", "set/deep/b.txt": b"beta" * 1000, "empty": b""}
BAD_NAMES = ["../out", "/tmp/out", "set/../../out", "C:/out", "set\\..\\..\\out", "a//b"]


def make_zip(path, files, links=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, body in files.items():
            file.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
        for name in links:
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            file.writestr(info, "/etc/passwd")
    return path


def make_tar(path, files, links=(), kind=tarfile.SYMTYPE):
    with tarfile.open(path, "w:gz") as file:
        folder = tarfile.TarInfo("set")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    return path


MAKERS = pytest.mark.parametrize("make, name", [(make_zip, "x.zip"), (make_tar, "x.tar.gz")])


def nothing_left(tmp_path, name):
    return [p.name for p in tmp_path.iterdir()] == [name]


@MAKERS
def test_unpacks(tmp_path, make, name):
    found = unpack(make(tmp_path / name, GOOD), tmp_path / "new")
    assert {p.relative_to(tmp_path / "new").as_posix(): p.read_bytes() for p in found} == GOOD
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["new", name])


def test_dot_slash_is_common_in_tars(tmp_path):
    found = unpack(make_tar(tmp_path / "x.tar.gz", {"./set/a": b"1"}), tmp_path / "new")
    assert found == [tmp_path / "new" / "set" / "a"]


@MAKERS
@pytest.mark.parametrize("bad", BAD_NAMES)
def test_paths_that_lead_out(tmp_path, make, name, bad):
    archive = make(tmp_path / name, GOOD | {bad: b"evil"})
    with pytest.raises(DownloadError, match="refusing the path"):
        unpack(archive, tmp_path / "new")
    assert nothing_left(tmp_path, name) and not (tmp_path.parent / "out").exists()


@MAKERS
def test_links(tmp_path, make, name):
    with pytest.raises(DownloadError, match=r"'way' is a link"):
        unpack(make(tmp_path / name, GOOD, links=["way"]), tmp_path / "new")
    assert nothing_left(tmp_path, name)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_hard_links_and_devices(tmp_path, kind):
    with pytest.raises(DownloadError, match="link"):
        unpack(make_tar(tmp_path / "x.tar.gz", {}, links=["way"], kind=kind), tmp_path / "new")
    assert nothing_left(tmp_path, "x.tar.gz")


@MAKERS
def test_too_large(tmp_path, make, name):
    archive = make(tmp_path / name, {"bomb": bytes(1 << 20)})
    assert archive.stat().st_size < 5000
    with pytest.raises(DownloadError, match="would unpack to 1048576 bytes"):
        unpack(archive, tmp_path / "new", max_bytes=1 << 19)
    assert nothing_left(tmp_path, name)


@MAKERS
def test_the_same_path_twice(tmp_path, make, name):
    with pytest.raises(DownloadError, match="the same path twice"):
        unpack(make(tmp_path / name, {"a": b"1", "A": b"2"}), tmp_path / "new")


@MAKERS
def test_damaged(tmp_path, make, name):
    archive = make(tmp_path / name, {"noise": bytes(i * i % 251 for i in range(50000))})
    body = bytearray(archive.read_bytes())
    body[len(body) // 2] ^= 255
    archive.write_bytes(body)
    with pytest.raises(DownloadError, match="fetch"):
        unpack(archive, tmp_path / "new")
    archive.write_bytes(bytes(body[: len(body) // 3]))
    with pytest.raises(DownloadError, match="fetch"):
        unpack(archive, tmp_path / "new")
    assert nothing_left(tmp_path, name)


def test_no_archive_at_all(tmp_path):
    (tmp_path / "x").write_text("hello")
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack(tmp_path / "x", tmp_path / "new")
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        unpack(tmp_path / "ghost", tmp_path / "new")


def test_never_over_an_existing_folder(tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(DownloadError, match="exists already"):
        unpack(make_zip(tmp_path / "x.zip", GOOD), tmp_path / "new")
