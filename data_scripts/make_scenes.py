"""Write synthetic streets to disk in the layout of Cityscapes, for tools that read that layout.

    python data_scripts/make_scenes.py data/scenes --train 2000 --val 200 --test 200 --domain day --domain night

    leftImg8bit/{split}/{city}/{city}_{seq:06d}_{frame:06d}_leftImg8bit.png     the picture; city = domain
    gtFine/{split}/{city}/..._gtFine_labelIds.png, _labelTrainIds.png, _color.png  Cityscapes' own numbers and colours
    annotations/{split}.json   boxes of the countable objects, in COCO's form     classes.json   all the numbers

There are no polygons: the masks are drawn, not traced. The pixels depend on the arguments only (the PNG bytes also on
Pillow's version). Stop it whenever you like: files appear complete or not at all, and the next run writes the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from prunekit.data.scenes import CLASSES, DOMAINS, IGNORE, PALETTE, Scene, make_scene
from prunekit.data.scenes.classes import THINGS
from prunekit.errors import DataError, PrunekitError

SPLITS = ("train", "val", "test")  # seeds seed, seed + 1, seed + 2, as the library's convention has it
# Of Cityscapes (labels.py of its scripts), in the order of CLASSES; fence is 13 and 4 there.
LABEL_IDS = (7, 8, 11, 13, 17, 19, 20, 21, 23, 24, 26, 33)
TRAIN_IDS = (0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 13, 18)


@dataclass(frozen=True)
class Settings:
    """What decides the pixels; kept beside them, so that a folder never mixes two settings."""

    size: tuple[int, int]
    seed: int
    domains: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One picture to write."""

    root: Path
    split: str
    index: int
    settings: Settings

    @property
    def domain(self) -> str:
        """Domains take turns."""
        return self.settings.domains[self.index % len(self.settings.domains)]

    def path(self, kind: str) -> Path:
        """The file of a kind: leftImg8bit, or gtFine_labelIds and its like."""
        folder = self.root / kind.split("_")[0] / self.split / self.domain
        return folder / f"{self.domain}_{self.index:06d}_{0:06d}_{kind}.png"


def save_atomic(path: Path, pixels: np.ndarray) -> None:
    """Write a PNG that appears under its name only when it is complete."""
    part = path.with_name(path.name + ".part")
    Image.fromarray(pixels).save(part, format="PNG")
    part.replace(path)


def look_up(mask: np.ndarray, values: Sequence[int] | np.ndarray, ignored: int) -> np.ndarray:
    """Replace class numbers by `values`, and 255 by `ignored`: uint8 of the mask's shape, plus the values' own."""
    table_256 = np.full((256, *np.shape(values)[1:]), ignored, np.uint8)
    table_256[: len(CLASSES)] = values
    return table_256[mask]


def write(job: Job) -> list[dict[str, object]]:
    """Render one scene, write those of its files that are missing, and return its boxes in COCO's form."""
    seed = job.settings.seed + SPLITS.index(job.split)
    scene = make_scene(seed, job.index, domain=job.domain, size=job.settings.size)
    pictures = {
        "leftImg8bit": scene.image,
        "gtFine_labelIds": look_up(scene.mask, LABEL_IDS, 0),
        "gtFine_labelTrainIds": look_up(scene.mask, TRAIN_IDS, IGNORE),
        "gtFine_color": look_up(scene.mask, PALETTE, 0),
    }
    for kind, pixels in pictures.items():
        path = job.path(kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            save_atomic(path, pixels)
    return list(_boxes(scene, job.index))


def _boxes(scene: Scene, index: int) -> Iterator[dict[str, object]]:
    """COCO annotations without their ids; category_id is the Cityscapes label id."""
    for (x0, y0, x1, y1), label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
        wide, tall = x1 - x0, y1 - y0
        box = {"image_id": index, "category_id": LABEL_IDS[label], "bbox": [x0, y0, wide, tall]}
        yield box | {"area": wide * tall, "iscrowd": 0}


def write_json(path: Path, value: object) -> None:
    """Write a JSON file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def claim(root: Path, settings: Settings) -> None:
    """Write classes.json, or DataError when the folder holds scenes of other settings."""
    path = root / "classes.json"
    rows = [
        {"class": i, "name": name, "labelId": LABEL_IDS[i], "trainId": TRAIN_IDS[i], "color": PALETTE[i].tolist()}
        for i, name in enumerate(CLASSES)
    ]
    ours = json.loads(json.dumps({"settings": asdict(settings), "classes": rows}))
    if path.exists():
        theirs = json.loads(path.read_text())
        if theirs != ours:
            raise DataError(f"{path} was written with {theirs.get('settings')}; choose an empty folder for {settings}.")
    write_json(path, ours)


def export(root: Path, counts: dict[str, int], settings: Settings, *, workers: int = 1) -> None:
    """Write `counts[split]` scenes of each split. workers: processes."""
    claim(root, settings)
    for split, count in counts.items():
        jobs = [Job(root, split, index, settings) for index in range(count)]
        with tqdm(total=count, unit="scene", desc=split) as bar:
            boxes: list[dict[str, object]] = []
            for found in _run(jobs, workers):
                boxes += found
                bar.update()
        images = [
            {"id": job.index, "file_name": job.path("leftImg8bit").relative_to(root).as_posix()}
            | {"height": settings.size[0], "width": settings.size[1]}
            for job in jobs
        ]
        names = [{"id": LABEL_IDS[i], "name": CLASSES[i]} for i in THINGS]
        numbered = [{"id": i + 1} | box for i, box in enumerate(boxes)]
        coco = {"images": images, "categories": names, "annotations": numbered}
        write_json(root / "annotations" / f"{split}.json", coco)


def _run(jobs: list[Job], workers: int) -> Iterator[list[dict[str, object]]]:
    """The results of `write`, in order, from this process or several."""
    if workers <= 1:
        yield from map(write, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(write, jobs, chunksize=16)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    for split, count in zip(SPLITS, (2000, 200, 200), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, help="scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 128), metavar=("H", "W"), help="pixels")
    parser.add_argument("--seed", type=int, default=0, help="of train; val and test use the next two")
    parser.add_argument("--domain", action="append", choices=DOMAINS, help="may be given several times")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args(argv)
    counts = {split: getattr(args, split) for split in SPLITS}
    if min(counts.values()) < 0:
        parser.error("a number of scenes cannot be negative")
    settings = Settings(tuple(args.size), args.seed, tuple(args.domain or ("day",)))
    try:
        export(args.root, {split: count for split, count in counts.items() if count}, settings, workers=args.workers)
    except PrunekitError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"{sum(counts.values())} scenes are in {args.root}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
