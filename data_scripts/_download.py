"""Fetching and unpacking that cannot leave a wrong file behind. Shared by the get_*.py scripts.

A file is written to NAME.part, compared with its sha256, and only then renamed, so what has its final name is right.
A broken transfer goes on from where it stopped (HTTP Range) or, where the server does not know how, starts again.

Why not pooch: it checks hashes and writes to a temporary file, but a broken transfer starts from zero, and it has no
retry that tells "not found" from "try again". What is left would be a loop around urllib, which is what stands here.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from prunekit.errors import DownloadError

CHUNK = 1 << 16


@dataclass(frozen=True)
class Patience:
    """How long to try. tries: attempts a file. timeout: seconds without a byte. pause: seconds, doubled each time."""

    tries: int = 5
    timeout: float = 30.0
    pause: float = 1.0


@dataclass(frozen=True)
class Fetched:
    """What `fetch_all` did: paths that came now, and paths that were already there and right."""

    new: tuple[str, ...]
    kept: tuple[str, ...]


class _Retry(Exception):
    """This attempt failed, the next may not."""


def read_sums(path: Path) -> dict[str, str]:
    """A sha256sum file as {relative path: hash}; DownloadError for a line that is none."""
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if line.strip() and not found:
            raise DownloadError(f"{path}:{number} is not 'sha256  path': {line[:60]!r}. Restore the file from git.")
        if found:
            sums[found[2]] = found[1]
    return sums


def safe_path(root: Path, name: str) -> Path:
    """root / name, or DownloadError when the name would lead out of root: absolute, '..', a drive, or over a link."""
    parts = name.split("/")
    if not name or "\\" in name or ":" in name or "\0" in name or any(p in ("", ".", "..") for p in parts):
        raise DownloadError(f"refusing the path {name!r}: it does not stay inside {root}.")
    target = root.joinpath(*parts)
    if not target.resolve().is_relative_to(root.resolve()):
        raise DownloadError(f"refusing the path {name!r}: a link leads it out of {root}. Remove the link.")
    return target


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(url: str, target: Path, sha256: str, *, patience: Patience = Patience()) -> bool:
    """Make `target` the file with this hash. True when it had to be fetched, False when it was there already.

    Raises DownloadError when the address is not http(s), the server refuses for good (4xx), or every attempt failed;
    `target` then holds what it held before, never something unchecked.
    """
    if target.is_file() and sha256_of(target) == sha256:
        return False
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"refusing {url}: only http and https addresses are fetched.")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    why = ""
    for attempt in range(patience.tries):
        if attempt:
            time.sleep(patience.pause * 2 ** (attempt - 1))
        try:
            if not (part.is_file() and sha256_of(part) == sha256):
                _receive(url, part, patience.timeout)
            came = sha256_of(part)
            if came != sha256:
                part.unlink()  # wrong bytes cannot be continued
                raise _Retry(f"came with sha256 {came[:12]}..., expected {sha256[:12]}...")
            part.replace(target)
            return True
        except (_Retry, OSError, http.client.HTTPException) as err:
            if isinstance(err, DownloadError):
                raise
            why = f"{err}" if isinstance(err, _Retry) else f"{type(err).__name__}: {err}"
    raise DownloadError(f"could not fetch {url} in {patience.tries} attempts; the last: {why}. Run again to go on.")


def _receive(url: str, part: Path, timeout: float) -> None:
    """One attempt: append to `part` from where it ends. Raises _Retry when the transfer stops early."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "prunekit-data-scripts", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as err:
        err.close()
        if err.code == 416:  # nothing left to send: the part is as long as the file or longer, yet wrong
            part.unlink(missing_ok=True)
            raise _Retry("the server has no more bytes; starting again") from err
        if err.code in (408, 425, 429) or err.code >= 500:
            raise _Retry(f"the server answered {err.code} {err.reason}") from err
        raise DownloadError(f"{url}: the server answered {err.code} {err.reason}. Is the address still right?") from err
    with answer:
        start = have if answer.status == 206 else 0  # 200: the server sends all of it again
        announced = answer.headers.get("Content-Length")
        with part.open("ab" if start else "wb") as file:
            while block := answer.read(CHUNK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    if announced and part.stat().st_size < start + int(announced):
        raise _Retry(f"the transfer stopped after {part.stat().st_size} of {start + int(announced)} bytes")


def fetch_all(
    base_url: str,
    sums: Mapping[str, str],
    root: Path,
    *,
    workers: int = 8,
    patience: Patience = Patience(),
) -> Fetched:
    """Fetch every path of `sums` from base_url/path to root/path, several at a time, with a progress bar.

    Files that are there and right are not asked for. Raises DownloadError after the running ones ended when a file
    cannot be had; what came until then stays, so that the next run fetches only the rest.
    """
    targets = {name: safe_path(root, name) for name in sums}  # all names are judged before the first byte
    root.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(sums), unit="file", desc=root.name) as bar:
        jobs: dict[str, Future[bool]] = {}
        for name, target in targets.items():
            url = base_url.rstrip("/") + "/" + urllib.parse.quote(name)
            jobs[name] = pool.submit(fetch, url, target, sums[name], patience=patience)
            jobs[name].add_done_callback(lambda _: bar.update())
        try:
            wait(jobs.values(), return_when=FIRST_EXCEPTION)
        finally:  # after an error or Ctrl-C: what has not started never will
            for job in jobs.values():
                job.cancel()
    done = {name: job for name, job in jobs.items() if not job.cancelled()}
    failed = [job.exception() for job in done.values() if job.exception()]
    if failed:
        ready = len(done) - len(failed)
        raise DownloadError(f"{ready} of {len(sums)} files are in {root}; then: {failed[0]}")
    return Fetched(
        tuple(name for name, job in done.items() if job.result()),
        tuple(name for name, job in done.items() if not job.result()),
    )
