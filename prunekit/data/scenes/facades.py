"""The two sides of the street: facades with windows, shops, hedges and fences, as planes seen at a slant.

Legend: R, C = rows and columns of a plane's bounding box on the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunekit.data.scenes.canvas import FOCAL, RGB, Canvas, Spot, dim
from prunekit.data.scenes.classes import BUILDING, FENCE, VEGETATION
from prunekit.data.scenes.layout import Layout, Segment
from prunekit.data.scenes.worlds import World

STOREY, BAY = 310, 270  # cm: a window every storey, every bay
LAMP_GLOW: RGB = (255, 206, 120)


@dataclass(frozen=True)
class Plane:
    """What textures need: the codes under the box, where the plane is, and each pixel's place on the wall in cm."""

    codes_RC: np.ndarray
    inside_RC: np.ndarray
    haze_C: np.ndarray
    along_C: np.ndarray
    up_RC: np.ndarray

    def fill(self, where_RC: np.ndarray, material: int) -> None:
        """Paint a material on part of the plane, under the haze of its distance."""
        np.copyto(self.codes_RC, self.haze_C | material << 1, where=where_RC & self.inside_RC)


def plane(canvas: Canvas, layout: Layout, part: Segment, height: int) -> Plane | None:
    """The wall of a segment along the street, `height` cm tall; None when it is out of sight."""
    camera, edge, near = layout.camera, layout.edge(part.side), max(part.near, 100)
    x0, x1 = sorted((camera.x(part.side * edge, near), camera.x(part.side * edge, part.far)))
    c0, c1 = canvas.columns(x0, x1)
    if c1 <= c0:
        return None
    away_C = np.maximum(np.abs(canvas.x_W[c0:c1] - camera.centre), 1)
    top_C, foot_C = (camera.horizon - (up - camera.height) * away_C // edge for up in (height, 0))
    r0, r1 = canvas.rows(int(top_C.min()), int(foot_C.max()))
    if r1 <= r0:
        return None
    y_R1 = canvas.y_H1[r0:r1]
    depth_C = np.clip(FOCAL * edge // away_C, near, part.far)
    up_RC = camera.height + (camera.horizon - y_R1) * depth_C // FOCAL
    haze_C = 255 * depth_C // (depth_C + canvas.haze_cm) << 16
    inside_RC = (y_R1 >= top_C) & (y_R1 < foot_C)
    return Plane(canvas.code_HW[r0:r1, c0:c1], inside_RC, haze_C, depth_C - near, up_RC)


def paint_segment(canvas: Canvas, layout: Layout, world: World, part: Segment) -> None:
    """One stretch of one side; parks have a hedge or stay open."""
    sunny = world.shadow == 256 or part.side != layout.sun
    if part.kind == "park":
        if part.look >> 8 & 1 and (hedge := plane(canvas, layout, part, part.height)):
            leaf = world.leaves[part.look % len(world.leaves)]
            hedge.fill(hedge.inside_RC, canvas.material(dim(leaf, 220), VEGETATION, grain=26))
    elif part.kind == "fence":
        _fence(canvas, layout, world, part, 256 if sunny else 190)
    else:
        _building(canvas, layout, world, part, sunny)


def _fence(canvas: Canvas, layout: Layout, world: World, part: Segment, light: int) -> None:
    """Boards with a darker gap between them and a rail on top."""
    board = dim(world.fence[part.look % len(world.fence)], light)
    wall = plane(canvas, layout, part, part.height)
    if wall is None:
        return
    wall.fill(wall.inside_RC, canvas.material(board, FENCE, grain=6))
    gap = canvas.material(dim(board, 160), FENCE, grain=6)
    wall.fill((wall.along_C % 70 < 26) & (wall.up_RC < part.height - 18), gap)


def _building(canvas: Canvas, layout: Layout, world: World, part: Segment, sunny: bool) -> None:
    """The front that faces the camera, then the facade with windows, a cornice and a ground floor."""
    height = max(280, part.height * world.storeys >> 8)
    colour = world.walls[part.look % len(world.walls)]
    _front(canvas, layout, world, part, height, dim(colour, 205 if sunny else 236))
    wall = plane(canvas, layout, part, height)
    if wall is None:
        return
    light = 256 if sunny else 188
    wall.fill(wall.inside_RC, canvas.material(dim(colour, light), BUILDING, grain=8))
    wall.fill(wall.up_RC > height - 38, canvas.material(dim(world.roof, light), BUILDING, grain=6))
    floor_RC, bay_C = wall.up_RC // STOREY, wall.along_C // BAY
    in_floor, in_bay = wall.up_RC % STOREY, wall.along_C % BAY
    panes = (in_floor > 95) & (in_floor < 245) & (in_bay > 70) & (in_bay < 200) & (wall.up_RC < height - 60)
    if part.kind == "shop" or part.look >> 20 & 1:  # a shop: glass and an awning instead of the ground floor
        panes = np.where(floor_RC == 0, (in_floor > 40) & (in_floor < 210) & (in_bay > 30), panes)
        awning = canvas.material(dim(_AWNINGS[part.look % 4], light), BUILDING, grain=6)
        wall.fill((floor_RC == 0) & (in_floor > 215) & (in_floor < 262), awning)
    wall.fill(panes, canvas.material(dim(world.glass, 256 if sunny else 210), BUILDING, grain=5))
    lit = panes & ((floor_RC * 7 + bay_C * 13 + (part.look >> 8) % 64) * 11 % 16 < world.lit)
    wall.fill(lit, canvas.material(LAMP_GLOW, BUILDING, grain=5, glow=world.lamps))


_AWNINGS: tuple[RGB, ...] = ((170, 50, 48), (46, 96, 140), (60, 120, 80), (200, 150, 60))


def _front(canvas: Canvas, layout: Layout, world: World, part: Segment, height: int, colour: RGB) -> None:
    """The end wall that faces the camera, seen where the neighbour before it is lower or missing."""
    near = max(part.near, 120)
    spot = Spot(canvas, layout.camera, part.side * layout.edge(part.side), near)
    left, right = (0, 2600) if part.side > 0 else (-2600, 0)
    spot.rect(left, 0, right, height, canvas.material(colour, BUILDING, grain=8))
    spot.rect(left, height - 38, right, height, canvas.material(dim(world.roof, 220), BUILDING, grain=6))
    pane = canvas.material(world.glass, BUILDING, grain=5)
    lit = canvas.material(LAMP_GLOW, BUILDING, grain=5, glow=world.lamps)
    for floor in range(min(height // STOREY, 4)):
        for bay in range(2):
            x = part.side * (bay * 330 + 150)
            glows = (part.look >> (2 * floor + bay)) % 16 < world.lit
            spot.rect(x - 60, floor * STOREY + 95, x + 60, floor * STOREY + 245, lit if glows else pane)
