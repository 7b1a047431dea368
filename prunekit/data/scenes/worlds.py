"""Five worlds for one street: the layout stays, the light, the air and the materials change.

A `World` is only numbers, so a new one is a new `World(...)` below. Light values are in 1/256.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from prunekit.data.scenes.canvas import RGB


@dataclass(frozen=True)
class World:
    """How a domain looks.

    light: ambient light per colour channel. shadow: light left in a shadow, 256 = no sun. haze_cm: distance at which
    half of the light comes from the air. noise: sensor noise in grey levels. lit: windows out of 16 with a lamp on.
    storeys: building height in 1/256. flakes: snow or dust in the air, per mille of pixels. lamps: night lamps on.
    """

    sky: RGB
    air: RGB
    haze_cm: int
    road: RGB
    walk: RGB
    curb: RGB
    mark: RGB
    grass: RGB
    roof: RGB
    walls: tuple[RGB, ...]
    leaves: tuple[RGB, ...]
    trunk: RGB = (84, 62, 44)
    glass: RGB = (62, 78, 96)
    cloud: RGB = (244, 246, 248)
    fence: tuple[RGB, ...] = ((142, 116, 88), (176, 170, 160), (96, 110, 100))
    steel: tuple[RGB, ...] = ((58, 62, 68), (44, 60, 54), (86, 88, 92))
    light: RGB = (256, 256, 256)
    shadow: int = 256
    noise: int = 7
    lit: int = 1
    storeys: int = 256
    flakes: int = 0
    lamps: bool = False
    palms: bool = False


_DAY = World(
    sky=(92, 148, 222),
    air=(196, 214, 232),
    haze_cm=30000,
    road=(98, 98, 104),
    walk=(172, 160, 152),
    curb=(204, 200, 192),
    mark=(232, 232, 224),
    grass=(104, 146, 62),
    roof=(128, 66, 54),
    walls=((186, 126, 98), (206, 186, 148), (150, 96, 82), (176, 170, 164), (214, 204, 186), (134, 132, 142)),
    leaves=((62, 118, 48), (82, 132, 44), (48, 98, 58), (116, 128, 40)),
    shadow=150,
)

_NIGHT = World(
    sky=(10, 12, 34),
    air=(34, 32, 58),
    haze_cm=10000,
    road=_DAY.road,
    walk=_DAY.walk,
    curb=_DAY.curb,
    mark=_DAY.mark,
    grass=_DAY.grass,
    roof=_DAY.roof,
    walls=_DAY.walls,
    leaves=_DAY.leaves,
    glass=(40, 44, 60),
    cloud=(52, 50, 76),
    steel=((166, 168, 176), (138, 150, 146), (190, 186, 176)),  # grey paint: black would vanish
    light=(88, 90, 118),
    noise=14,
    lit=7,
    lamps=True,
)

_FOG = World(
    sky=(196, 200, 202),
    air=(198, 202, 204),
    haze_cm=1000,
    road=(100, 100, 102),
    walk=(160, 156, 152),
    curb=(190, 188, 186),
    mark=(222, 222, 218),
    grass=(104, 124, 84),
    roof=(112, 84, 78),
    walls=_DAY.walls,
    leaves=((66, 96, 60), (80, 104, 60), (58, 86, 66)),
    cloud=(196, 200, 202),
    light=(226, 228, 232),
    noise=6,
    lit=3,
)

_SNOW = World(
    sky=(158, 168, 188),
    air=(206, 212, 222),
    haze_cm=9000,
    road=(138, 142, 152),
    walk=(228, 232, 240),
    curb=(244, 246, 250),
    mark=(196, 200, 208),
    grass=(214, 224, 226),
    roof=(240, 244, 250),
    walls=((150, 92, 80), (160, 134, 104), (120, 122, 138), (176, 150, 128), (110, 88, 82)),
    leaves=((66, 92, 84), (178, 194, 198), (88, 112, 100), (54, 80, 76)),
    cloud=(190, 198, 212),
    light=(232, 240, 256),
    noise=8,
    lit=5,
    flakes=14,
)

_DESERT = World(
    sky=(226, 168, 104),
    air=(238, 204, 154),
    haze_cm=11000,
    road=(150, 118, 94),
    walk=(220, 184, 132),
    curb=(236, 208, 164),
    mark=(240, 224, 190),
    grass=(178, 158, 84),
    roof=(176, 112, 76),
    walls=((204, 136, 92), (226, 178, 126), (182, 110, 78), (236, 206, 164)),
    leaves=((92, 118, 58), (122, 128, 66), (74, 104, 66)),
    trunk=(140, 100, 66),
    glass=(74, 62, 60),
    cloud=(240, 206, 158),
    fence=((188, 128, 84), (150, 104, 72), (210, 176, 136)),
    light=(262, 246, 226),
    shadow=138,
    noise=8,
    storeys=170,
    flakes=4,
    palms=True,
)

WORLDS = MappingProxyType({"day": _DAY, "night": _NIGHT, "fog": _FOG, "snow": _SNOW, "desert": _DESERT})
DOMAINS = tuple(WORLDS)
