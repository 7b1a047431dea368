"""Where everything stands: camera, street, buildings and things, drawn from (seed, index) alone.

The domain has no part in it, so `make_scene(0, 7, domain="day")` and `... domain="night"` show the same street.
Numbers come from the raw 64-bit stream of Philox-4x64 (Salmon et al., SC 2011), which numpy keeps stable across
versions; its distributions carry no such promise, so `Dice` makes its own integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunekit.data.scenes.canvas import Camera

Kind = Literal["car", "side car", "person", "bicycle", "lamp", "light", "sign", "tree", "bin"]


def raw_words(seed: int, index: int, stream: int, count: int) -> np.ndarray:
    """`count` 64-bit words of stream number `stream` of scene (seed, index)."""
    key = np.array([seed, index], dtype=np.uint64)
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


class Dice:
    """Integers from the raw words of one stream."""

    def __init__(self, seed: int, index: int, stream: int) -> None:
        self._words = raw_words(seed, index, stream, 1024).tolist()
        self._next = 0

    def raw(self) -> int:
        """The next 64-bit word."""
        self._next += 1
        return self._words[self._next - 1]

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + self.raw() % (high - low + 1)

    def near(self, low: int, high: int) -> int:
        """As `between`, but small numbers are likelier (the product of two draws)."""
        span = high - low
        return low + self.between(0, span) * self.between(0, span) // max(1, span)

    def chance(self, of_16: int) -> bool:
        """True in `of_16` of 16 cases."""
        return self.raw() % 16 < of_16


@dataclass(frozen=True)
class Segment:
    """A stretch of one side of the street. side: -1 left, 1 right. near, far, height: cm. look: bits to choose by."""

    kind: Literal["building", "shop", "park", "fence"]
    side: int
    near: int
    far: int
    height: int
    look: int


@dataclass(frozen=True)
class Thing:
    """Something that stands on the ground at (right, depth), cm. look: bits from which its details are chosen."""

    kind: Kind
    right: int
    depth: int
    look: int


@dataclass(frozen=True)
class Layout:
    """One street. road, walk: (left, right) widths in cm from the camera's line. sun: the side it shines from."""

    camera: Camera
    road: tuple[int, int]
    walk: tuple[int, int]
    sun: int
    sun_reach: int
    segments: tuple[Segment, ...]
    skyline: tuple[tuple[int, int, int, int], ...]  # left (cm), width, height, look
    clouds: tuple[tuple[int, int, int, int], ...]  # x, y, rx, ry (units)
    things: tuple[Thing, ...]
    zebra: int  # cm to a zebra crossing, 0 = none
    bonnet: int  # height of the own car's bonnet in units, 0 = out of the picture

    def edge(self, side: int) -> int:
        """cm from the camera's line to the buildings on that side."""
        return self.road[side > 0] + self.walk[side > 0]


def _segments(dice: Dice, side: int) -> list[Segment]:
    """Buildings, parks and fences of one side, from near to far."""
    found, near = [], dice.between(150, 500)
    while near < 9000:
        far = near + dice.between(700, 2000)
        pick = dice.raw() % 16
        kind = "building" if pick < 8 else "shop" if pick < 11 else "park" if pick < 14 else "fence"
        height = {"building": (520, 1500), "shop": (330, 480), "park": (90, 150), "fence": (120, 190)}[kind]
        found.append(Segment(kind, side, near, far, dice.between(*height), dice.raw()))  # pyright: ignore[reportArgumentType]
        near = far + (dice.between(60, 500) if dice.chance(5) else 0)
    return found


def _things(dice: Dice, road: tuple[int, int], walk: tuple[int, int]) -> list[Thing]:
    """Everything that stands on road and sidewalks; no two in the same place."""
    found: list[Thing] = []

    def add(kind: Kind, low: int, high: int, near: int, far: int, keep_off: int) -> None:
        """Stand a `kind` between `low` and `high` cm beyond the kerb of a side (negative: on the road)."""
        for _ in range(3):
            side = dice.raw() % 2
            right = (road[side] + dice.between(low, high)) * (1 if side else -1)
            depth, look = dice.near(near, far), dice.raw()
            if all(abs(right - t.right) > keep_off or abs(depth - t.depth) > 2 * keep_off for t in found):
                found.append(Thing(kind, right, depth, look))
                return

    inner = min(walk) - 30
    for _ in range(dice.between(1, 4)):  # parked, then driving
        add("car", -115, -95, 700, 4500, 210)
    for _ in range(dice.between(0, 2)):
        add("car", -330, -230, 800, 5000, 210)
    if dice.chance(4):
        add("side car", -300, -120, 1000, 3000, 300)
    for _ in range(dice.between(1, 5)):
        add("person", 30, inner, 500, 2000, 50)
    if dice.chance(5):
        add("person", -280, -40, 600, 1800, 60)
    for _ in range(dice.between(0, 2)):
        add("bicycle", -60, 40, 500, 1500, 90)
    for _ in range(dice.between(0, 1)):
        add("lamp", 20, 40, 450, 3000, 40)
    for _ in range(dice.between(0, 2)):
        add("light", 15, 45, 600, 2000, 40)
    for _ in range(dice.between(0, 2)):
        add("sign", 15, 60, 550, 1900, 40)
    for _ in range(dice.between(0, 4)):
        add("tree", 60, inner, 900, 6000, 120)
    if dice.chance(6):
        add("bin", 40, inner, 500, 2500, 60)
    return found


def make_layout(seed: int, index: int) -> Layout:
    """The street of (seed, index)."""
    dice = Dice(seed, index, 0)
    camera = Camera(4096 + dice.between(-900, 900), dice.between(1500, 1950), dice.between(160, 260))
    road = (dice.between(330, 620), dice.between(330, 620))
    walk = (dice.between(160, 360), dice.between(160, 360))
    sun = 1 if dice.chance(8) else -1
    reach = dice.between(100, 500)
    zebra = dice.between(500, 1800) if dice.chance(6) else 0
    bonnet = dice.between(150, 420) if dice.chance(7) else 0
    skyline = [
        (dice.between(-9000, 7000), dice.between(900, 3000), dice.between(300, 2600), dice.raw()) for _ in range(6)
    ]
    clouds = [
        (dice.between(0, 8192), dice.between(0, 1100), dice.between(500, 1400), dice.between(60, 220))
        for _ in range(dice.between(0, 5))
    ]
    segments = _segments(dice, -1) + _segments(dice, 1)
    things = _things(dice, road, walk)
    return Layout(
        camera, road, walk, sun, reach, tuple(segments), tuple(skyline), tuple(clouds), tuple(things), zebra, bonnet
    )
