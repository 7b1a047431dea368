"""ADE20K (Zhou et al., CVPR 2017), the scene parsing benchmark of 150 classes. As ADEChallengeData2016.zip unpacks:

    root/images/{training,validation}/ADE_train_00000001.jpg
    root/annotations/{training,validation}/ADE_train_00000001.png

20,210 and 2,000 pictures of many sizes. In the label maps 0 is "other", which is not scored, and 1 to 150 are the
classes, the most frequent first.
"""

from __future__ import annotations

from pathlib import Path

from prunekit.data.real.pictures import IGNORE, Pictures, index_palette, label_table
from prunekit.errors import DataError

_CLASSES = """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case,
pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole,
land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank,
trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock,
flag"""


class ADE20K(Pictures):
    """ADE20K with 150 classes; label 0 (other) becomes 255. Arguments, items and errors: see `Pictures`."""

    NAME = "ADE20K"
    FETCH = (
        "Get ADEChallengeData2016.zip (0.9 GB) from the MIT scene parsing benchmark, unpack it, and give the folder "
        "ADEChallengeData2016, which holds images/ and annotations/."
    )
    CLASSES = tuple(_CLASSES.replace("\n", " ").split(", "))
    PALETTE = index_palette(151)[1:]
    SPLITS = ("training", "validation")
    LABELS = label_table({0: IGNORE, **{k + 1: k for k in range(150)}})
    SPOKEN = "0 to 150"

    def find(self) -> list[tuple[Path, Path]]:
        inner = self.root / "ADEChallengeData2016"
        if inner.is_dir():
            raise DataError(f"ADE20K: {self.root} is not the set itself; give {inner}.")
        masks = self.folder("annotations", self.split)
        return [
            (image, masks / f"{image.stem}.png") for image in sorted(self.folder("images", self.split).glob("*.jpg"))
        ]
