"""Unpacking zip and tar archives without trusting them. Shared by the get_*.py scripts.

Every member is judged before the first byte is written. The standard library's own filter for tar files is missing in
early releases of Python 3.10, and zip files have none.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from _download import safe_path

from prunekit.errors import DownloadError

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # an encrypted zip
    NotImplementedError,
)
LINK = 0o120000  # the file type of a symbolic link in a zip entry's Unix mode


@dataclass(frozen=True)
class _Member:
    """One plain file of an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, *, max_bytes: int = 8 << 30) -> list[Path]:
    """Unpack a .zip or .tar(.gz, .bz2, .xz) into a new folder and return the files.

    Raises DownloadError, and leaves no folder, when a member's path is absolute, holds '..' or a drive, is a link or a
    device, comes twice, when all together they are larger than `max_bytes`, or when the archive is damaged.
    """
    if folder.exists():
        raise DownloadError(f"{folder} exists already; unpack into a new folder.")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        with _open(archive) as file:
            members = list(_zip_members(file) if isinstance(file, zipfile.ZipFile) else _tar_members(file))
            targets = _targets(members, part, archive, max_bytes)
            for member, target in zip(members, targets, strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                if target.stat().st_size != member.size:
                    raise DownloadError(f"{archive}: {member.name!r} is cut short; fetch the archive again.")
            if isinstance(file, tarfile.TarFile) and file.fileobj:
                while file.fileobj.read(1 << 20):  # gzip compares its checksum at the very end only
                    pass
        part.replace(folder)
    except _DAMAGE as err:
        raise DownloadError(f"{archive} cannot be unpacked ({err}); fetch it again.") from err
    except OSError as err:
        if isinstance(err, DownloadError):
            raise
        raise DownloadError(f"{archive} cannot be unpacked into {folder}: {err}.") from err
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [folder / target.relative_to(part) for target in targets]


def _open(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    """The archive, whichever kind it is."""
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    return tarfile.open(archive)


def _zip_members(file: zipfile.ZipFile) -> Iterator[_Member]:
    """The plain files of a zip."""
    for info in file.infolist():
        if info.external_attr >> 16 & 0o170000 == LINK:
            raise DownloadError(f"{file.filename}: {info.filename!r} is a link; refusing the archive.")
        if not info.is_dir():
            # zipfile drops what follows a NUL and turns backslashes on Windows; judge the name as it was written
            yield _Member(info.orig_filename, info.file_size, lambda info=info: file.open(info))


def _tar_members(file: tarfile.TarFile) -> Iterator[_Member]:
    """The plain files of a tar."""
    for info in file:
        if info.isdir():
            continue
        opened = file.extractfile(info) if info.isreg() else None
        if opened is None:
            raise DownloadError(f"{file.name}: {info.name!r} is a link or a device; refusing the archive.")
        yield _Member(info.name, info.size, lambda opened=opened: opened)


def _targets(members: list[_Member], folder: Path, archive: Path, max_bytes: int) -> list[Path]:
    """Where each member goes, all checked."""
    total = sum(member.size for member in members)
    if total > max_bytes:
        raise DownloadError(f"{archive} would unpack to {total} bytes, more than {max_bytes}; refusing.")
    targets = [safe_path(folder, member.name.removeprefix("./")) for member in members]
    if len({str(t).casefold() for t in targets}) < len(targets):
        raise DownloadError(f"{archive} holds the same path twice; refusing.")
    return targets
