"""Fixed-point painting: one integer a pixel, so that a scene costs a few hundred slice assignments.

A scene is laid out on a plane of 4096 x 8192 *units*, whatever the picture's size, and in *cm* in the world. Each
pixel holds one int32 code: bit 0 = in shadow, bits 1-15 = material, bits 16-23 = haze. Colours, classes and instances
are looked up once at the end. Only integers are used: the same bytes on every machine and numpy version.

Legend: H, W = picture in pixels, M = materials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNITS_H, UNITS_W = 4096, 8192
FOCAL = 4200  # units: a field of view of about 88 degrees across
RGB = tuple[int, int, int]


def dim(rgb: RGB, by: int) -> RGB:
    """Scale a colour by `by` / 256, clipped at white."""
    return (min(255, rgb[0] * by >> 8), min(255, rgb[1] * by >> 8), min(255, rgb[2] * by >> 8))


@dataclass(frozen=True)
class Camera:
    """A pinhole looking down the street. centre, horizon: units. height: cm above the road."""

    centre: int
    horizon: int
    height: int

    def x(self, right_cm: int, depth_cm: int) -> int:
        """Column (units) of a point `right_cm` right of the camera."""
        return self.centre + FOCAL * right_cm // depth_cm

    def y(self, up_cm: int, depth_cm: int) -> int:
        """Row (units) of a point `up_cm` above the road."""
        return self.horizon + FOCAL * (self.height - up_cm) // depth_cm


class Canvas:
    """The pixels' codes and the table of materials. Coordinates are units; what lies outside is clipped."""

    def __init__(self, size: tuple[int, int], haze_cm: int) -> None:
        self.H, self.W = size
        self.haze_cm = haze_cm  # distance at which half of the light comes from the air
        self.code_HW = np.zeros(size, np.int32)
        self.x_W = ((2 * np.arange(self.W, dtype=np.int64) + 1) * UNITS_W // (2 * self.W)).astype(np.int32)
        self.y_H1 = ((2 * np.arange(self.H, dtype=np.int64) + 1) * UNITS_H // (2 * self.H)).astype(np.int32)[:, None]
        self.colours: list[RGB] = []
        self.traits: list[tuple[int, int, int, bool]] = []  # class, instance, grain, glows
        self.instances = 0

    def new_instance(self) -> int:
        """The next instance number, from 1."""
        self.instances += 1
        return self.instances

    def material(self, rgb: RGB, label: int, *, instance: int = 0, grain: int = 8, glow: bool = False) -> int:
        """Add a material and return its number. grain: noise amplitude in grey levels. glow: needs no light."""
        self.colours.append(rgb)
        self.traits.append((label, instance, grain, glow))
        return len(self.colours) - 1

    def haze(self, depth_cm: int) -> int:
        """Share of air light at a distance, 0-255."""
        return 255 * depth_cm // (depth_cm + self.haze_cm)

    def code(self, material: int, depth_cm: int) -> int:
        """The pixel code of a material at a distance."""
        return self.haze(depth_cm) << 16 | material << 1

    def rows(self, y0: int, y1: int) -> tuple[int, int]:
        """Pixel rows [first, last) of a span of units, at least one where it starts inside the picture."""
        first = (y0 * self.H + UNITS_H // 2) // UNITS_H
        last = max(first + 1, (y1 * self.H + UNITS_H // 2) // UNITS_H)
        return max(0, first), max(0, min(self.H, last))

    def columns(self, x0: int, x1: int) -> tuple[int, int]:
        """Pixel columns [first, last) of a span of units, at least one where it starts inside the picture."""
        first = (x0 * self.W + UNITS_W // 2) // UNITS_W
        last = max(first + 1, (x1 * self.W + UNITS_W // 2) // UNITS_W)
        return max(0, first), max(0, min(self.W, last))

    def rect(self, x0: int, y0: int, x1: int, y1: int, code: int) -> None:
        """Fill a rectangle."""
        r0, r1 = self.rows(y0, y1)
        c0, c1 = self.columns(x0, x1)
        self.code_HW[r0:r1, c0:c1] = code

    def ellipse(self, x: int, y: int, rx: int, ry: int, code: int, *, hole: int = 0, shade: bool = False) -> None:
        """Fill an ellipse; `hole` / 256 of the radius stays open (a ring). shade: darken what is there instead."""
        r0, r1 = self.rows(y - ry, y + ry)
        c0, c1 = self.columns(x - rx, x + rx)
        if r1 <= r0 or c1 <= c0:
            return
        region = self.code_HW[r0:r1, c0:c1]
        if r1 - r0 < 3 and c1 - c0 < 3:
            region[...] = region | 1 if shade else code
            return
        dx = (self.x_W[c0:c1] - x) * 256 // max(1, rx)
        dy = (self.y_H1[r0:r1] - y) * 256 // max(1, ry)
        far = dx * dx + dy * dy
        inside = far <= 65536
        if hole:
            inside &= far >= hole * hole
        _apply(region, inside, code, shade)

    def trapezoid(
        self, top: tuple[int, int, int], bottom: tuple[int, int, int], code: int, *, shade: bool = False
    ) -> None:
        """Fill between two horizontal edges, each (y, left, right). shade: darken what is there instead."""
        y0, left0, right0 = top
        y1, left1, right1 = bottom
        r0, r1 = self.rows(y0, y1)
        c0, c1 = self.columns(min(left0, left1), max(right0, right1))
        if r1 <= r0 or c1 <= c0:
            return
        y, x, span = self.y_H1[r0:r1] - y0, self.x_W[c0:c1], max(1, y1 - y0)
        inside = x >= left0 + (left1 - left0) * y // span
        inside &= x < right0 + (right1 - right0) * y // span
        region = self.code_HW[r0:r1, c0:c1]
        _apply(region, inside, code, shade)


def _apply(region: np.ndarray, inside: np.ndarray, code: int, shade: bool) -> None:
    """Set the code where `inside`, or only its shadow bit."""
    if shade:
        np.bitwise_or(region, inside, out=region)
    else:
        np.copyto(region, code, where=inside)


class Spot:
    """A place in the world to stand something on: local cm (right of it, above the road) become units."""

    def __init__(self, canvas: Canvas, camera: Camera, right_cm: int, depth_cm: int) -> None:
        self.canvas, self.depth = canvas, depth_cm
        self.x, self.y = camera.x(right_cm, depth_cm), camera.y(0, depth_cm)

    def units(self, cm: int) -> int:
        """Length on the picture of `cm` at this distance."""
        return FOCAL * cm // self.depth

    def rect(self, left: int, bottom: int, right: int, top: int, material: int) -> None:
        """Upright rectangle, cm."""
        u, code = self.units, self.canvas.code(material, self.depth)
        self.canvas.rect(self.x + u(left), self.y - u(top), self.x + u(right), self.y - u(bottom), code)

    def ellipse(self, x: int, up: int, rx: int, ry: int, material: int, *, hole: int = 0) -> None:
        """Upright ellipse, cm."""
        u, code = self.units, self.canvas.code(material, self.depth)
        self.canvas.ellipse(self.x + u(x), self.y - u(up), u(rx), u(ry), code, hole=hole)

    def trapezoid(self, top: tuple[int, int, int], bottom: tuple[int, int, int], material: int) -> None:
        """Upright trapezoid, each edge (up, left, right) in cm."""
        u, code = self.units, self.canvas.code(material, self.depth)
        upper = (self.y - u(top[0]), self.x + u(top[1]), self.x + u(top[2]))
        lower = (self.y - u(bottom[0]), self.x + u(bottom[1]), self.x + u(bottom[2]))
        self.canvas.trapezoid(upper, lower, code)

    def shadow(self, rx: int, rz: int) -> None:
        """A dark patch on the ground around the foot of what stands here; half lengths in cm."""
        ry = max(24, self.units(rz) // 6)
        self.canvas.ellipse(self.x, self.y, self.units(rx), ry, 0, shade=True)
