"""The stage: sky, skyline, road, sidewalks, grass, and the shadows on the ground."""

from __future__ import annotations

import numpy as np

from prunekit.data.scenes.canvas import FOCAL, UNITS_W, Camera, Canvas, Spot
from prunekit.data.scenes.classes import BUILDING, ROAD, SIDEWALK, SKY, VEGETATION
from prunekit.data.scenes.layout import Layout, Segment
from prunekit.data.scenes.worlds import World

FAR = 10000  # cm: where the skyline stands


def paint_sky(canvas: Canvas, layout: Layout, world: World) -> None:
    """A gradient from the sky's colour to the air's, clouds, stars by night, and the skyline."""
    sky = canvas.material(world.sky, SKY, grain=3, glow=True)
    cloud = canvas.material(world.cloud, SKY, grain=6, glow=True)
    horizon = layout.camera.horizon
    share_H1 = np.clip(canvas.y_H1 * 235 // horizon, 0, 235)
    canvas.code_HW[...] = share_H1 << 16 | sky << 1
    for x, y, rx, ry in layout.clouds:
        code = 60 << 16 | cloud << 1
        canvas.ellipse(x, y, rx, ry, code)
        canvas.ellipse(x + rx // 2, y + ry // 2, rx * 3 // 4, ry * 3 // 4, code)
    if world.lamps:
        star = canvas.material((236, 236, 220), SKY, grain=0, glow=True)
        for left, width, _, look in layout.skyline:
            x, y = look % UNITS_W, (look >> 16) % horizon
            canvas.rect(x, y, x + 1, y + 1, star << 1)
            canvas.rect((x + 97 * width) % UNITS_W, (left * left + y) % horizon, 0, 0, star << 1)
    spot = Spot(canvas, layout.camera, 0, FAR)
    for left, width, height, look in layout.skyline:
        if look % 4 == 0:
            leaf = canvas.material(world.leaves[(look >> 8) % len(world.leaves)], VEGETATION, grain=22)
            spot.ellipse(left + width // 2, 0, width, height // 3 + 250, leaf)
        else:
            wall = canvas.material(world.walls[(look >> 8) % len(world.walls)], BUILDING, grain=10)
            spot.rect(left, 0, left + width, height * world.storeys >> 8, wall)


def paint_ground(canvas: Canvas, layout: Layout, world: World) -> None:
    """Road with lane marks, kerbs, sidewalks; grass where a park is."""
    camera = layout.camera
    top, _ = canvas.rows(camera.horizon, camera.horizon)
    down = np.maximum(canvas.y_H1[top:] - camera.horizon, 8)  # units below the horizon
    depth = FOCAL * camera.height // down
    haze = 255 * depth // (depth + canvas.haze_cm) << 16
    x = canvas.x_W - camera.centre
    road, walk, curb, mark = (
        canvas.material(rgb, label, grain=grain) << 1
        for rgb, label, grain in (
            (world.road, ROAD, 9),
            (world.walk, SIDEWALK, 9),
            (world.curb, SIDEWALK, 5),
            (world.mark, ROAD, 6),
        )
    )
    left, right = -(down * layout.road[0] // camera.height), down * layout.road[1] // camera.height
    stone = np.maximum(down * 22 // camera.height, UNITS_W // canvas.W)  # a kerb is at least one pixel wide
    code = np.where((x >= left) & (x < right), road, walk)
    code = np.where((x >= left - stone) & (x < left) | (x >= right) & (x < right + stone), curb, code)
    middle, half = (left + right) // 2, np.maximum(down * 9 // camera.height, UNITS_W // (2 * canvas.W))
    dash = (x >= middle - half) & (x < middle + half) & (depth % 700 < 350) & (depth < 5000)
    code = np.where(dash, mark, code)
    if layout.zebra:
        world_x = (x - left) * camera.height // down
        band = (depth >= layout.zebra) & (depth < layout.zebra + 280) & (x >= left) & (x < right)
        code = np.where(band & (world_x % 110 < 55), mark, code)
    canvas.code_HW[top:] = code | haze
    grass = canvas.material(world.grass, VEGETATION, grain=16) << 1
    for part in layout.segments:
        if part.kind == "park":
            code = canvas.haze((part.near + part.far) // 2) << 16 | grass
            canvas.trapezoid(*_strip(camera, part, layout.edge(part.side), 4000), code)


def _strip(camera: Camera, part: Segment, inner: int, outer: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The ground of a segment between two distances from the camera's line, as a trapezoid's edges."""

    def edge(depth: int) -> tuple[int, int, int]:
        a, b = camera.x(part.side * inner, depth), camera.x(part.side * outer, depth)
        return camera.y(0, depth), min(a, b), max(a, b)

    return edge(part.far), edge(max(part.near, 200))


def shade_ground(canvas: Canvas, layout: Layout, world: World) -> None:
    """Shadows on the ground: buildings on the sun's side, and everything that stands in the street."""
    if world.shadow == 256:
        return
    for part in layout.segments:
        if part.side == layout.sun and part.kind in ("building", "shop"):
            inner = layout.edge(part.side)
            reach = min(layout.sun_reach * part.height * world.storeys // (600 * 256), inner + layout.edge(-part.side))
            canvas.trapezoid(*_strip(layout.camera, part, inner - reach, inner), 0, shade=True)
    for thing in layout.things:
        wide = {"car": 110, "side car": 230, "tree": 180, "person": 35, "bicycle": 80}.get(thing.kind, 30)
        Spot(canvas, layout.camera, thing.right - layout.sun * wide // 2, thing.depth).shadow(wide, 2 * wide)
