"""COCO-Stuff 10k (Caesar et al., CVPR 2018), release 1.1. As cocostuff-10k-v1.1.zip unpacks:

    root/images/COCO_train2014_000000000077.jpg     root/annotations/COCO_train2014_000000000077.mat
    root/imageLists/{train,test}.txt                one name a line, without an extension

9,000 and 1,000 pictures. A .mat file is MATLAB's and holds the label map as S: 0 is unlabelled, 1 to 91 are COCO's
things, of which 11 were never annotated, 92 to 182 are stuff; that leaves 171 classes, numbered in this order. Release
1.0 counts otherwise and is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.data.real.pictures import IGNORE, Pictures, index_palette, label_table, read_mat
from prunekit.errors import DataError

_MISSING = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # street sign, hat, shoe, eye glasses, plate, mirror, ...
_TRAINED = tuple(number for number in range(1, 183) if number not in _MISSING)
_THINGS = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli,
carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush"""
_STUFF = """banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other,
ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel,
ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement,
pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other,
towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood,
water-other, waterdrops, window-blind, window-other, wood"""


class COCOStuff10k(Pictures):
    """COCO-Stuff 10k with 171 classes; label 0 (unlabelled) becomes 255. Arguments, items and errors: see `Pictures`;
    MissingDependencyError without SciPy, which reads the .mat files.
    """

    NAME = "COCO-Stuff 10k"
    FETCH = (
        "Get cocostuff-10k-v1.1.zip (2 GB) from the authors' page, unpack it, and give the folder that holds images/, "
        "annotations/ and imageLists/."
    )
    CLASSES = tuple(f"{_THINGS}, {_STUFF}".replace("\n", " ").split(", "))
    PALETTE = index_palette(172)[1:]
    SPLITS = ("train", "test")
    LABELS = label_table({0: IGNORE, **{number: k for k, number in enumerate(_TRAINED)}})
    SPOKEN = f"0 to 182 without {', '.join(map(str, _MISSING))}"

    def find(self) -> list[tuple[Path, Path]]:
        images, masks = self.folder("images"), self.folder("annotations")
        names = self.names("imageLists", f"{self.split}.txt")
        return [(self.listed(name, images / f"{name}.jpg"), masks / f"{name}.mat") for name in names]

    def raw_mask(self, path: Path) -> NDArray[Any]:
        found = read_mat(self.NAME, path, ["S", "names"])
        if "S" not in found:
            raise DataError(f"{self.NAME}: {path} has no label map S. {self.FETCH}")
        if "names" in found and found["names"].size == 172:
            raise DataError(f"{self.NAME}: {path} is of release 1.0, which numbers the classes otherwise. {self.FETCH}")
        mask = found["S"]
        whole = mask.astype(np.uint8)  # MATLAB's numbers are doubles
        return whole if np.array_equal(whole, mask) else mask
