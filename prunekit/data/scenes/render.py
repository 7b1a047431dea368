"""make_scene: lay out, paint from far to near, then turn codes into light. Instance boxes and crops.

Every step is integer arithmetic, so a scene is the same to the byte on every platform and numpy version.
Legend: H, W = picture in pixels, N = visible instances, S = crop size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunekit.data.scenes.canvas import UNITS_H, UNITS_W, Canvas
from prunekit.data.scenes.classes import IGNORE
from prunekit.data.scenes.facades import paint_segment
from prunekit.data.scenes.layout import Layout, make_layout, raw_words
from prunekit.data.scenes.street import paint_ground, paint_sky, shade_ground
from prunekit.data.scenes.things import paint_thing
from prunekit.data.scenes.worlds import DOMAINS, WORLDS, World
from prunekit.errors import InputError


@dataclass(frozen=True, eq=False)
class Scene:
    """One street.

    image: uint8 (H, W, 3) RGB. mask: uint8 (H, W), class numbers, 255 = ignore. boxes: int64 (N, 4) as x0, y0, x1, y1
    in pixels, x1 and y1 excluded, around what is visible of each countable object. labels: int64 (N,) class numbers.
    """

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def make_scene(seed: int, index: int, *, domain: str = "day", size: tuple[int, int] = (64, 128)) -> Scene:
    """Scene number `index` of the endless set `seed`, in one of DOMAINS.

    The street depends on (seed, index) only: the domain changes light, air and materials. `size` is (H, W) in pixels;
    the geometry is the same at every size, made for W = 2 H.

    Raises InputError for an unknown domain, a negative or huge seed or index, a size below 16 pixels.
    """
    _check(seed, index, domain, size)
    world, layout = WORLDS[domain], make_layout(seed, index)
    canvas = Canvas(size, world.haze_cm)
    paint_sky(canvas, layout, world)
    paint_ground(canvas, layout, world)
    shade_ground(canvas, layout, world)
    paint_street(canvas, layout, world)
    _paint_bonnet(canvas, layout)
    words = raw_words(seed, index, 1 + DOMAINS.index(domain), size[0] * size[1] // 2 + 64)
    code_HW = canvas.code_HW & 0xFFFF
    label_M, instance_M = (np.array([t[i] for t in canvas.traits]) for i in (0, 1))
    mask = label_M.astype(np.uint8)[code_HW >> 1]
    boxes, numbers = _boxes(instance_M[code_HW >> 1], canvas.instances)
    label_of = dict(zip(instance_M.tolist(), label_M.tolist(), strict=True))
    labels = np.array([label_of[n] for n in numbers], dtype=np.int64)
    return Scene(_light(canvas, layout, world, words), mask, boxes, labels)


def _check(seed: int, index: int, domain: str, size: tuple[int, int]) -> None:
    """InputError unless the arguments can make a scene."""
    if domain not in WORLDS:
        raise InputError(f"no domain {domain!r}; choose one of {', '.join(DOMAINS)}.")
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**64:
            raise InputError(f"{name} is {value}; it must be from 0 to 2**64 - 1.")
    if len(size) != 2 or min(size) < 16 or max(size) > 4096:
        raise InputError(f"size is {size}; give (height, width) in pixels, each from 16 to 4096.")


def paint_street(canvas: Canvas, layout: Layout, world: World) -> None:
    """Everything upright, from far to near: what is nearer covers what is behind it.

    A stretch of wall counts from its far end: things before that end stand inside the street and hide the wall.
    """
    order = [(part.far, 0, i) for i, part in enumerate(layout.segments)]
    order += [(thing.depth, 1, i) for i, thing in enumerate(layout.things)]
    for _, is_thing, i in sorted(order, reverse=True):
        if is_thing:
            paint_thing(canvas, layout.camera, world, layout.things[i])
        else:
            paint_segment(canvas, layout, world, layout.segments[i])


def _paint_bonnet(canvas: Canvas, layout: Layout) -> None:
    """The own car's bonnet at the foot of the picture: ignored, like the ego vehicle of Cityscapes."""
    if layout.bonnet:
        paint, sheen = canvas.material((38, 42, 54), IGNORE, grain=3), canvas.material((92, 98, 112), IGNORE, grain=3)
        canvas.ellipse(UNITS_W // 2, UNITS_H + 200, 3600, layout.bonnet + 200, sheen << 1)
        canvas.ellipse(UNITS_W // 2, UNITS_H + 260, 3560, layout.bonnet + 200, paint << 1)


def _light(canvas: Canvas, layout: Layout, world: World, words: np.ndarray) -> np.ndarray:
    """From codes to the picture: material x light, grain, lamps, haze, sensor noise, flakes; uint8 (H, W, 3)."""
    code_HW = canvas.code_HW & 0xFFFF
    noise = words.astype("<u8").view(np.uint8).astype(np.int32) - 128
    pixels = canvas.H * canvas.W
    colour_M3 = np.array(canvas.colours, dtype=np.int32)
    glow_M, grain_M = (np.array([t[i] for t in canvas.traits], dtype=np.int32) for i in (3, 2))
    lit_M3 = np.where(glow_M[:, None] > 0, colour_M3, colour_M3 * np.array(world.light, dtype=np.int32) >> 8)
    table = np.stack([lit_M3, lit_M3 * world.shadow >> 8], axis=1).reshape(-1, 3)  # row 2m lit, row 2m + 1 in shadow
    rgb = table[code_HW]
    grain_HW = noise[:pixels].reshape(canvas.H, canvas.W) * grain_M[code_HW >> 1]
    if world.lamps:
        rgb = rgb * (256 + _lamps(canvas, layout))[..., None] >> 8
    rgb += (grain_HW * np.int32(sum(world.light) // 3) >> 15)[..., None]
    haze_HW1 = (canvas.code_HW >> 16)[..., None]
    rgb += (np.array(world.air, dtype=np.int32) - rgb) * haze_HW1 >> 8
    rgb += noise[pixels : 4 * pixels].reshape(rgb.shape) * world.noise >> 7
    if world.flakes:
        _flakes(canvas, world, rgb, words)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def _lamps(canvas: Canvas, layout: Layout) -> np.ndarray:
    """Extra light by night in 1/256, (H, W): own headlights on the road, pools under street lamps."""
    camera = layout.camera
    down_H1 = canvas.y_H1 - camera.horizon
    aside_W = np.abs(canvas.x_W - camera.centre)
    beam = np.clip(330 - aside_W * 150 // np.maximum(down_H1 + 500, 100), 0, 330)
    extra = beam * np.clip(down_H1 + 500, 0, 900) // 900
    for thing in layout.things:
        if thing.kind == "lamp":
            x, y = camera.x(thing.right, thing.depth), camera.y(500, thing.depth)
            reach = max(200, 4200 * 420 // thing.depth)
            near = (np.abs(canvas.x_W - x) + np.abs(canvas.y_H1 - y) // 2) * 256 // reach
            extra += np.clip(300 - near, 0, 300)
    return np.minimum(extra, 520)


def _flakes(canvas: Canvas, world: World, rgb: np.ndarray, words: np.ndarray) -> None:
    """Snow or dust before the lens, in place. A flake is a base pixel wide at every size."""
    count = UNITS_H * UNITS_W // 4096 * world.flakes // 1000
    tall, wide = max(1, canvas.H // 64), max(1, canvas.W // 128)
    for word in words[-64:].tolist()[: min(64, count // 2)]:
        for part in (word & 0xFFFFFFFF, word >> 32):
            r, c = (part & 0xFFFF) * canvas.H >> 16, (part >> 16) * canvas.W >> 16
            spot = rgb[r : r + tall, c : c + wide]
            spot += (np.array(world.air, dtype=np.int32) + 30 - spot) * 3 >> 2


def _boxes(instance_HW: np.ndarray, count: int) -> tuple[np.ndarray, list[int]]:
    """Boxes around the visible pixels of each instance, and the instances' numbers; hidden ones are left out."""
    rows, columns = np.nonzero(instance_HW)
    number_P = instance_HW[rows, columns]
    low, high = np.full((count + 1, 2), 1 << 30), np.zeros((count + 1, 2), np.int64)
    place_P2 = np.stack([columns, rows], axis=1)
    np.minimum.at(low, number_P, place_P2)
    np.maximum.at(high, number_P, place_P2 + 1)
    seen = np.nonzero(high[:, 0])[0]
    return np.concatenate([low[seen], high[seen]], axis=1).astype(np.int64), seen.tolist()


def object_crops(scene: Scene, size: int = 32, *, min_side: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Square crops around the boxes whose longer side has at least `min_side` pixels, for classification.

    A quarter of the side is added all round; beyond the border the nearest pixel is repeated.
    Returns (uint8 (N, S, S, 3), int64 (N,) class numbers). Raises InputError for a size below 1.
    """
    if size < 1:
        raise InputError(f"crop size is {size} pixels; give at least 1.")
    h, w = scene.mask.shape
    side_N = (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(axis=1, initial=0)
    keep_N = side_N >= min_side
    boxes, side_N = scene.boxes[keep_N], side_N[keep_N] * 3 // 2
    step_S = 2 * np.arange(size) + 1 - size  # sample points in half crop pixels, centred
    middle_N2 = boxes[:, :2] + boxes[:, 2:]  # twice the centre
    place_N2S = (middle_N2[:, :, None] * size + side_N[:, None, None] * step_S) // (2 * size)
    columns, rows = np.clip(place_N2S[:, 0], 0, w - 1), np.clip(place_N2S[:, 1], 0, h - 1)
    return scene.image[rows[:, :, None], columns[:, None, :]], scene.labels[keep_N]
