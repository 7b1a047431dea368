"""The label set of the synthetic streets: twelve classes with a long tail, as in Cityscapes (Cordts et al., 2016)."""

from __future__ import annotations

import numpy as np

CLASSES = (
    "road",
    "sidewalk",
    "building",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "sky",
    "person",
    "car",
    "bicycle",
)
ROAD, SIDEWALK, BUILDING, FENCE, POLE, LIGHT, SIGN, VEGETATION, SKY, PERSON, CAR, BICYCLE = range(12)
IGNORE = 255  # own bonnet and street clutter: no class, no loss, no score
THINGS = (LIGHT, SIGN, PERSON, CAR, BICYCLE)  # countable: these have boxes

# (12, 3) RGB for figures; the colours of Cityscapes, so that pictures read like those in the papers.
PALETTE = np.array(
    [
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (70, 130, 180),
        (220, 20, 60),
        (0, 0, 142),
        (119, 11, 32),
    ],
    dtype=np.uint8,
)
PALETTE.setflags(write=False)
