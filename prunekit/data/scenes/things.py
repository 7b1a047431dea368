"""What stands in the street: cars, people, bicycles, poles with lamps, lights and signs, trees, bins. Lengths in cm."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from prunekit.data.scenes.canvas import RGB, Camera, Canvas, Spot, dim
from prunekit.data.scenes.classes import BICYCLE, CAR, IGNORE, LIGHT, PERSON, POLE, SIGN, VEGETATION
from prunekit.data.scenes.layout import Kind, Thing
from prunekit.data.scenes.worlds import World

_PAINTS: tuple[RGB, ...] = (
    (178, 34, 34), (30, 74, 150), (226, 228, 232), (36, 38, 44),
    (150, 156, 164), (210, 170, 40), (52, 110, 84), (140, 70, 120),
)  # fmt: skip
_CLOTHES: tuple[RGB, ...] = (
    (200, 50, 60), (44, 70, 150), (230, 190, 60), (70, 130, 90),
    (236, 236, 236), (120, 60, 130), (240, 130, 50), (40, 42, 50),
)  # fmt: skip
_FRAME = (((70, -12), (32, -52)), ((74, 34), (30, -6)), ((90, 38), (34, 52)), ((78, -16), (30, -4)))  # (up, x) cm
_SKIN: tuple[RGB, ...] = ((236, 196, 168), (198, 150, 116), (132, 92, 66), (98, 66, 48))
_TYRE: RGB = (26, 26, 30)


def _car(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """From behind, or from the front when it comes towards us; the flank shows on the side of the road's middle."""
    look, number = thing.look, canvas.new_instance()
    paint = _PAINTS[look % len(_PAINTS)]

    def skin(rgb: RGB, glow: bool = False) -> int:
        return canvas.material(rgb, CAR, instance=number, grain=5, glow=glow)

    flank, body, glass, dark = skin(dim(paint, 180)), skin(paint), skin(dim(world.glass, 220)), skin(_TYRE)
    tall = 140 + (look >> 8) % 50
    for back in (400, 300, 200, 100):  # slices of the body, far to near
        spot = Spot(canvas, camera, thing.right, thing.depth + back)
        spot.rect(-85, 0, 85, 30, dark)
        spot.rect(-88, 25, 88, 92, flank)
        if back > 60:
            spot.trapezoid((tall, -62, 62), (92, -80, 80), glass)
            spot.rect(-62, tall - 8, 62, tall, flank)
    spot = Spot(canvas, camera, thing.right, thing.depth)
    spot.rect(-85, 0, -60, 34, dark)
    spot.rect(60, 0, 85, 34, dark)
    spot.rect(-89, 28, 89, 94, body)
    spot.trapezoid((tall, -62, 62), (94, -82, 82), body)
    spot.trapezoid((tall - 10, -54, 54), (98, -70, 70), glass)
    oncoming = thing.right < 0
    lamps = skin((255, 250, 214) if oncoming else (232, 30, 26), glow=world.lamps or not oncoming)
    spot.rect(-84, 62, -58, 80, lamps)
    spot.rect(58, 62, 84, 80, lamps)
    spot.rect(-26, 44, 26, 58, skin((222, 222, 206)))


def _side_car(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """A car that crosses the street."""
    look, number = thing.look, canvas.new_instance()
    paint, face = _PAINTS[look % len(_PAINTS)], 1 if look >> 8 & 1 else -1
    spot = Spot(canvas, camera, thing.right, thing.depth)

    def skin(rgb: RGB, glow: bool = False) -> int:
        return canvas.material(rgb, CAR, instance=number, grain=5, glow=glow)

    body, glass, dark = skin(paint), skin(dim(world.glass, 220)), skin(_TYRE)
    spot.rect(-212, 26, 212, 88, body)
    spot.trapezoid((144, -110, 90), (88, -160, 140), body)
    spot.trapezoid((136, -102, -14), (92, -138, -14), glass)
    spot.trapezoid((136, -4, 82), (92, -4, 122), glass)
    for x in (-132, 132):
        spot.ellipse(x, 34, 36, 36, dark)
        spot.ellipse(x, 34, 17, 17, skin((150, 152, 158)))
    spot.rect(*sorted_pair(face * 196, face * 212, 60, 76), skin((255, 246, 200), glow=world.lamps))
    spot.rect(*sorted_pair(-face * 200, -face * 212, 60, 76), skin((214, 36, 30), glow=True))


def sorted_pair(xa: int, xb: int, bottom: int, top: int) -> tuple[int, int, int, int]:
    """(left, bottom, right, top) from two x in any order."""
    return min(xa, xb), bottom, max(xa, xb), top


def _person(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """Legs in stride, coat, head; 150 to 190 cm, sometimes a child."""
    look, number = thing.look, canvas.new_instance()
    tall = 116 if look % 8 == 0 else 152 + (look >> 4) % 38
    _figure(canvas, Spot(canvas, camera, thing.right, thing.depth), number, look >> 10, tall, 0, 0)


def _figure(canvas: Canvas, spot: Spot, number: int, look: int, tall: int, x: int, seat: int) -> None:
    """A person of `tall` cm standing at x, or sitting `seat` cm above the ground."""

    def skin(rgb: RGB, grain: int = 6) -> int:
        return canvas.material(rgb, PERSON, instance=number, grain=grain)

    coat, legs = _CLOTHES[look % 8], dim(_CLOTHES[(look >> 3) % 8], 120)
    hip, neck, stride = seat + tall * 46 // 100, seat + tall * 84 // 100, 4 + (look >> 6) % 12
    foot, trousers = max(0, seat - 30), skin(legs)
    spot.trapezoid((hip, x - 17, x - 1), (foot, x - 14 - stride, x - 1 - stride), trousers)
    spot.trapezoid((hip, x + 1, x + 17), (foot, x + 1 + stride, x + 14 + stride), trousers)
    spot.trapezoid((neck, x - 19, x + 19), (hip - 8, x - 23, x + 23), skin(coat))
    head = tall * 8 // 100
    spot.ellipse(x, neck + head, head * 7 // 8, head, skin(_SKIN[(look >> 10) % 4]))
    spot.rect(x - head, neck + head * 3 // 2, x + head, neck + head * 2, skin(dim(_CLOTHES[(look >> 12) % 8], 90)))


def _bicycle(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """Two wheels and a frame seen from the side, in most cases with somebody on it (who counts as a person)."""
    look, number = thing.look, canvas.new_instance()
    spot = Spot(canvas, camera, thing.right, thing.depth)
    squeeze = 160 + look % 96  # seen at a slant: lengths along the bicycle in 1/256
    paint = canvas.material(_PAINTS[(look >> 8) % len(_PAINTS)], BICYCLE, instance=number, grain=4)
    tyre = canvas.material((34, 32, 36), BICYCLE, instance=number, grain=4)
    long = 52 * squeeze >> 8
    for x in (-long, long):
        spot.ellipse(x, 34, 34 * squeeze >> 8, 34, tyre, hole=165)
    for (up, a), (low, b) in _FRAME:
        a, b = a * squeeze >> 8, b * squeeze >> 8
        spot.trapezoid((up, a - 5, a + 5), (low, b - 5, b + 5), paint)
    spot.rect(-16 * squeeze >> 8, 66, 36 * squeeze >> 8, 75, paint)
    spot.rect(-26 * squeeze >> 8, 82, -4 * squeeze >> 8, 90, tyre)
    spot.rect(24 * squeeze >> 8, 92, 46 * squeeze >> 8, 100, tyre)
    if (look >> 16) % 4:
        _figure(canvas, spot, canvas.new_instance(), look >> 20, 132, -8 * squeeze >> 8, 56)


def _post(canvas: Canvas, world: World, spot: Spot, look: int, height: int, wide: int) -> int:
    """A pole; returns its material."""
    steel = canvas.material(world.steel[look % len(world.steel)], POLE, grain=4)
    spot.rect(-wide, 0, wide, height, steel)
    return steel


def _lamp(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """A street lamp with an arm over the road."""
    spot, look = Spot(canvas, camera, thing.right, thing.depth), thing.look
    tall, inward = 480 + look % 260, -1 if thing.right > 0 else 1
    steel = _post(canvas, world, spot, look >> 10, tall, 9 + look % 3)
    spot.rect(*sorted_pair(0, inward * 150, tall - 14, tall), steel)
    head = canvas.material((255, 232, 170) if world.lamps else (150, 152, 150), POLE, grain=2, glow=world.lamps)
    spot.rect(*sorted_pair(inward * 105, inward * 170, tall - 30, tall - 14), head)


def _light(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """A traffic light: a dark box with one lamp on, in a quarter of the cases a second box on an arm."""
    spot, look, number = Spot(canvas, camera, thing.right, thing.depth), thing.look, canvas.new_instance()
    inward = -1 if thing.right > 0 else 1
    boxes = [(0, 250)]
    steel = _post(canvas, world, spot, look, 250, 8)
    on = look >> 4 & 3
    if look >> 8 & 3 == 0:
        spot.rect(-8, 240, 8, 520, steel)
        spot.rect(*sorted_pair(0, inward * 260, 508, 520), steel)
        boxes.append((inward * 250, 440))
    for x, up in boxes:
        number = number if x == 0 else canvas.new_instance()
        spot.rect(x - 22, up, x + 22, up + 104, canvas.material((24, 26, 24), LIGHT, instance=number, grain=2))
        for i, rgb in enumerate(((60, 226, 130), (252, 186, 40), (246, 44, 40))):
            lit = i == on % 3
            lamp = canvas.material(rgb if lit else dim(rgb, 64), LIGHT, instance=number, grain=2, glow=lit)
            spot.rect(x - 14, up + 8 + i * 32, x + 14, up + 34 + i * 32, lamp)


def _sign(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """A traffic sign on a post: warning triangle, ban, direction, parking."""
    spot, look, number = Spot(canvas, camera, thing.right, thing.depth), thing.look, canvas.new_instance()
    up = 210 + (look >> 8) % 70
    _post(canvas, world, spot, look >> 4, up + 50, 7)

    def face(rgb: RGB) -> int:
        shown = dim(rgb, 180) if world.lamps else rgb  # signs throw headlights back
        return canvas.material(shown, SIGN, instance=number, grain=3, glow=world.lamps)

    red, white, blue, yellow = (face(c) for c in ((214, 26, 34), (244, 244, 240), (24, 84, 190), (246, 206, 40)))
    shape = look % 4
    if shape == 0:
        spot.trapezoid((up + 76, -2, 2), (up, -46, 46), red)
        spot.trapezoid((up + 52, -2, 2), (up + 12, -24, 24), white)
    elif shape == 1:
        spot.ellipse(0, up + 36, 37, 37, red)
        spot.ellipse(0, up + 36, 22, 22, white)
    elif shape == 2:
        spot.rect(-46, up, 46, up + 72, blue)
        spot.rect(-12, up + 14, 12, up + 58, white)
    else:
        spot.rect(-60, up, 60, up + 52, yellow)
        spot.rect(-44, up + 20, 44, up + 32, face((30, 30, 30)))


def _tree(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """A trunk and a crown of leaves, or a palm."""
    spot, look = Spot(canvas, camera, thing.right, thing.depth), thing.look
    leaf = world.leaves[look % len(world.leaves)]
    trunk = canvas.material(world.trunk, VEGETATION, grain=10)
    dark, fair = (canvas.material(dim(leaf, by), VEGETATION, grain=30) for by in (200, 268))
    bare, wide = 170 + (look >> 8) % 90, 120 + (look >> 16) % 90
    spot.rect(-14, 0, 14, bare + wide // 2, trunk)
    if world.palms:
        top = bare + 160
        spot.rect(-12, 0, 12, top, trunk)
        for side in (-1, 1):
            for drop in (60, 10, -40):
                spot.ellipse(side * wide // 2, top - drop, wide // 2, 24, fair if drop < 0 else dark)
        return
    spot.ellipse(0, bare + wide, wide, wide, dark)
    spot.ellipse(-wide // 2, bare + wide // 2 + 30, wide * 2 // 3, wide * 2 // 3, dark)
    spot.ellipse(wide // 2, bare + wide * 3 // 4, wide * 2 // 3, wide * 3 // 5, dark)
    spot.ellipse(-wide // 4, bare + wide * 5 // 4, wide // 2, wide // 2, fair)


def _bin(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """Clutter of no class: labelled 255, so neither loss nor score sees it."""
    spot = Spot(canvas, camera, thing.right, thing.depth)
    box = canvas.material(dim(_PAINTS[thing.look % len(_PAINTS)], 150), IGNORE, grain=6)
    spot.trapezoid((96, -34, 34), (0, -26, 26), box)
    spot.rect(-36, 90, 36, 104, canvas.material((50, 52, 54), IGNORE, grain=4))


_PAINTERS: MappingProxyType[Kind, Callable[[Canvas, Camera, World, Thing], None]] = MappingProxyType(
    {
        "car": _car,
        "side car": _side_car,
        "person": _person,
        "bicycle": _bicycle,
        "lamp": _lamp,
        "light": _light,
        "sign": _sign,
        "tree": _tree,
        "bin": _bin,
    }
)


def paint_thing(canvas: Canvas, camera: Camera, world: World, thing: Thing) -> None:
    """Paint one thing over what is there."""
    _PAINTERS[thing.kind](canvas, camera, world, thing)
