"""Downloads against a server that drops, truncates, corrupts, refuses: the right file or a clear error."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from _download import Fetched, Patience, fetch, fetch_all, read_sums, safe_path, sha256_of

from prunekit.errors import DownloadError

BODY = bytes(range(256)) * 1200  # 300 kB, several chunks
SUM = hashlib.sha256(BODY).hexdigest()
QUICK = Patience(tries=3, timeout=0.5, pause=0.01)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "file.bin"


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


@pytest.mark.parametrize(
    "faults, requests",
    [
        ([], 1),
        (["drop"], 2),
        (["drop", "drop"], 3),
        (["truncate"], 2),
        (["corrupt"], 2),
        (["500"], 2),
        (["503", "429"], 3),
        (["hang"], 2),
        (["drop", "no range"], 2),
        (["drop", "corrupt"], 3),
        (["drop", "wrong range"], 3),
    ],
)
def test_survives(server, target, faults, requests):
    server.files["a"], server.faults["a"] = BODY, list(faults)
    assert fetch(f"{server.url}/a", target, SUM, patience=QUICK) is True
    assert target.read_bytes() == BODY and not part_of(target).exists()
    assert len(server.asked("a")) == requests


@pytest.mark.parametrize(
    "fault, says",
    [
        ("drop", r"in 3 attempts; the last: .*(stopped after|IncompleteRead)"),
        ("corrupt", r"in 3 attempts; the last: came with sha256 .* expected"),
        ("truncate", r"in 3 attempts; the last: "),
        ("500", r"in 3 attempts; the last: the server answered 500"),
        ("hang", r"in 3 attempts; the last: .*timed out"),
    ],
)
def test_gives_up_clearly(server, target, fault, says):
    server.files["a"], server.faults["a"] = BODY, [fault] * 9
    with pytest.raises(DownloadError, match=says):
        fetch(f"{server.url}/a", target, SUM, patience=QUICK)
    assert not target.exists() and len(server.asked("a")) == 3


@pytest.mark.parametrize("status", ["404", "403", "410"])
def test_a_refusal_is_final(server, target, status):
    server.files["a"], server.faults["a"] = BODY, [status]
    with pytest.raises(DownloadError, match=rf"/a: the server answered {status}"):
        fetch(f"{server.url}/a", target, SUM, patience=QUICK)
    assert len(server.asked("a")) == 1 and not target.exists()


def test_goes_on_where_it_stopped(server, target):
    server.files["a"], server.faults["a"] = BODY, ["drop"]
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/a", target, SUM, patience=Patience(1, 0.5, 0.01))
    have = part_of(target).stat().st_size
    assert 0 < have < len(BODY)
    assert fetch(f"{server.url}/a", target, SUM, patience=QUICK)
    assert server.asked("a") == [None, f"bytes={have}-"] and target.read_bytes() == BODY


def test_a_complete_part_needs_no_request(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(BODY)
    assert fetch(f"{server.url}/a", target, SUM, patience=QUICK)
    assert server.log == [] and target.read_bytes() == BODY


@pytest.mark.parametrize("stale", [b"other bytes", b"x" * (len(BODY) + 5)])
def test_a_foreign_part_is_thrown_away(server, target, stale):
    server.files["a"] = BODY
    target.parent.mkdir()
    part_of(target).write_bytes(stale)
    assert fetch(f"{server.url}/a", target, SUM, patience=QUICK)
    assert target.read_bytes() == BODY and server.asked("a")[-1] is None


def test_a_right_file_is_kept_and_a_wrong_one_replaced(server, target):
    server.files["a"] = BODY
    target.parent.mkdir()
    target.write_bytes(BODY)
    assert fetch(f"{server.url}/a", target, SUM, patience=QUICK) is False and server.log == []
    target.write_bytes(b"damaged")
    assert fetch(f"{server.url}/a", target, SUM, patience=QUICK) is True and target.read_bytes() == BODY


def test_nobody_answers(target):
    with pytest.raises(DownloadError, match=r"in 2 attempts; the last: .*refused"):
        fetch("http://127.0.0.1:9/a", target, SUM, patience=Patience(2, 0.5, 0.01))


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "a"])
def test_only_http(target, url):
    with pytest.raises(DownloadError, match="only http and https"):
        fetch(url, target, SUM)


def test_no_reader_ever_sees_half(server, target):
    """While a slow, broken transfer runs, the final name either does not exist or is right."""
    server.files["a"], server.faults["a"] = BODY, ["drop", "corrupt", "drop"]
    seen, stop = set(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(sha256_of(target) if target.exists() else "absent")

    watcher = threading.Thread(target=watch)
    watcher.start()
    fetch(f"{server.url}/a", target, SUM, patience=Patience(5, 0.5, 0.02))
    stop.set()
    watcher.join()
    assert seen <= {"absent", SUM} and "absent" in seen


def many(server, count: int = 12) -> dict[str, str]:
    for i in range(count):
        server.files[f"set/train/pic {i}.png"] = BODY[: 1000 + i]
    return {name: hashlib.sha256(body).hexdigest() for name, body in server.files.items()}


def test_many_files_and_a_second_run(server, tmp_path):
    sums = many(server)
    server.faults["set/train/pic 3.png"] = ["drop"]
    first = fetch_all(server.url, sums, tmp_path, workers=4, patience=QUICK)
    assert sorted(first.new) == sorted(sums) and first.kept == ()
    (tmp_path / "set/train/pic 5.png").unlink()
    (tmp_path / "set/train/pic 6.png").write_bytes(b"damaged")
    server.log.clear()
    second = fetch_all(server.url + "/", sums, tmp_path, workers=4, patience=QUICK)
    assert sorted(second.new) == ["set/train/pic 5.png", "set/train/pic 6.png"] and len(second.kept) == 10
    assert sorted(path for path, _ in server.log) == ["set/train/pic 5.png", "set/train/pic 6.png"]
    for name, body in server.files.items():
        assert (tmp_path / name).read_bytes() == body


def test_one_bad_file_stops_the_rest_but_keeps_what_came(server, tmp_path):
    sums = many(server)
    server.faults["set/train/pic 2.png"] = ["404"]
    with pytest.raises(DownloadError, match=r"\d+ of 12 files are in .*pic%202\.png: the server answered 404"):
        fetch_all(server.url, sums, tmp_path, workers=1, patience=QUICK)
    came = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")}
    assert {"set/train/pic 0.png", "set/train/pic 1.png"} <= came and "set/train/pic 2.png" not in came
    again = fetch_all(server.url, sums, tmp_path, workers=1, patience=QUICK)
    assert set(again.kept) == came and isinstance(again, Fetched)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//x", "C:/x", "a\\..\\x", "", ".", "a/./x", "a\0b"])
def test_paths_that_lead_out_are_refused(server, tmp_path, name):
    with pytest.raises(DownloadError, match="refusing the path"):
        safe_path(tmp_path, name)
    with pytest.raises(DownloadError, match="refusing the path"):
        fetch_all(server.url, {"good": SUM, name: SUM}, tmp_path / "root", patience=QUICK)
    assert server.log == []


def test_a_link_cannot_lead_out(tmp_path):
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path, tmp_path / "root" / "way")
    with pytest.raises(DownloadError, match="a link leads it out"):
        safe_path(tmp_path / "root", "way/x")
    assert safe_path(tmp_path / "root", "a/b") == tmp_path / "root" / "a" / "b"


def test_sums_file(tmp_path):
    path = tmp_path / "x.sha256"
    path.write_text(f"{SUM}  a/b c.png\n\n{SUM} *d.bin\n")
    assert read_sums(path) == {"a/b c.png": SUM, "d.bin": SUM}
    path.write_text(f"{SUM}  a\n{SUM[:-1]}  b\n")
    with pytest.raises(DownloadError, match=r"x\.sha256:2 is not"):
        read_sums(path)
