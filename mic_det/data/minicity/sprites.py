"""Pictures of things, drawn from a few shapes in the unit square (x right, y down).

Every class takes its paint from the same distribution, so colour tells nothing. Shapes are plain and
shrink to a few pixels in the distance, where trucks, buses and trains, motorcycles and bicycles, or riders
and persons can only be told apart by where they are.
"""

import colorsys

import cv2
import numpy as np

GLASS, TYRE, CHROME = (62, 76, 92), (28, 28, 30), (150, 150, 155)
SIDES = ((-1, "right"), (1, "left"))  # of a figure that looks at us, by the side of the picture


def paint(rng):
    """A colour of cars, coats and trams alike: (R, G, B), 0 to 255."""
    hue, saturation, value = rng.uniform(), rng.uniform(0, 0.75) ** 1.5, rng.uniform(0.12, 0.9)
    return tuple(255 * c for c in colorsys.hsv_to_rgb(hue, saturation, value))


class Canvas:
    """An RGBA picture of a thing; shapes are given in fractions of its width and height."""

    def __init__(self, width, height):
        self.scale = np.array([width, height], dtype=np.float64)
        self.rgba = np.zeros((height, width, 4), np.uint8)
        self.keypoints = {}  # name -> (x, y) in pixels of this picture

    def mark(self, name, x, y):
        """Note a keypoint. OpenCV draws a point on the centre of a pixel, which is at 0.5."""
        self.keypoints[name] = tuple(np.array([x, y]) * self.scale + 0.5)

    def polygon(self, points, color):
        pixels = np.rint(np.asarray(points) * self.scale * 16).astype(np.int32)
        cv2.fillPoly(self.rgba, [pixels], _rgba(color), cv2.LINE_8, shift=4)

    def box(self, x0, y0, x1, y1, color):
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def ellipse(self, x, y, rx, ry, color, thickness=None):
        center, axes = np.array([x, y]) * self.scale * 16, np.array([rx, ry]) * self.scale * 16
        line = -1 if thickness is None else max(1, int(round(thickness * self.scale[1])))
        cv2.ellipse(self.rgba, tuple(map(int, center)), tuple(map(int, axes)), 0, 0, 360, _rgba(color), line, 8, 4)

    def line(self, a, b, thickness, color):
        a, b = (np.rint(np.asarray(p) * self.scale * 16).astype(int) for p in (a, b))
        cv2.line(self.rgba, tuple(a), tuple(b), _rgba(color), max(1, int(round(thickness * self.scale[1]))), 8, 4)


def _rgba(color, factor=1.0):
    return tuple(int(min(255, max(0, c * factor))) for c in color) + (255,)


def shade(color, factor):
    return tuple(c * factor for c in color)


def person(c, rng):
    """Standing or walking; 0.36 as wide as high."""
    coat, trousers, skin = paint(rng), paint(rng), shade((224, 172, 140), rng.uniform(0.5, 1))
    step = rng.uniform(0.03, 0.2)
    for side in (-1, 1):
        c.polygon([(0.4, 0.5), (0.6, 0.5), (0.5 + side * step + 0.1, 1), (0.5 + side * step - 0.1, 1)], trousers)
    c.polygon([(0.24, 0.2), (0.76, 0.2), (0.82, 0.36), (0.7, 0.58), (0.3, 0.58), (0.18, 0.36)], coat)
    for side in (-1, 1):
        c.line((0.5 + side * 0.25, 0.22), (0.5 + side * (0.28 + step), 0.52), 0.06, shade(coat, 0.8))
    c.ellipse(0.5, 0.095, 0.19, 0.09, skin)
    c.ellipse(0.5, 0.06, 0.2, 0.06, paint(rng))
    c.mark("head", 0.5, 0.095)
    for side, name in SIDES:
        c.mark(f"{name}_shoulder", 0.5 + side * 0.25, 0.22)
        c.mark(f"{name}_hand", 0.5 + side * (0.28 + step), 0.52)
        c.mark(f"{name}_hip", 0.5 + side * 0.1, 0.5)
        c.mark(f"{name}_foot", 0.5 + side * step * 0.92, 0.96)  # on the middle of the leg, not on the border


def rider(c, rng):
    """The upper part of somebody who sits on a two-wheeler; 0.55 as wide as high."""
    coat, lean = paint(rng), rng.uniform(-0.12, 0.12)
    c.polygon([(0.28, 0.6), (0.72, 0.6), (0.85, 0.98), (0.62, 1), (0.5, 0.8), (0.38, 1), (0.15, 0.98)], paint(rng))
    c.polygon([(0.2 + lean, 0.24), (0.8 + lean, 0.24), (0.72, 0.7), (0.28, 0.7)], coat)
    for side in (-1, 1):
        c.line((0.5 + side * 0.28 + lean, 0.28), (0.5 + side * 0.42, 0.6), 0.08, shade(coat, 0.8))
    c.ellipse(0.5 + lean, 0.12, 0.17, 0.12, paint(rng))
    c.mark("head", 0.5 + lean, 0.12)
    for side, name in SIDES:
        c.mark(f"{name}_shoulder", 0.5 + side * 0.28 + lean, 0.28)
        c.mark(f"{name}_hand", 0.5 + side * 0.42, 0.6)
        c.mark(f"{name}_hip", 0.5 + side * 0.14, 0.64)
        c.mark(f"{name}_foot", 0.5 + side * 0.21, 0.94)


def car(c, rng):
    """From behind or in front: body, window, wheels, lamps."""
    body = paint(rng)
    lamp = [(205, 35, 30), (240, 235, 205)][rng.integers(2)]
    c.box(0.06, 0.84, 0.24, 1, TYRE)
    c.box(0.76, 0.84, 0.94, 1, TYRE)
    c.polygon([(0.22, 0.02), (0.78, 0.02), (0.92, 0.42), (0.08, 0.42)], shade(body, 0.85))
    c.polygon([(0.26, 0.08), (0.74, 0.08), (0.84, 0.4), (0.16, 0.4)], GLASS)
    c.polygon([(0.05, 0.4), (0.95, 0.4), (1, 0.55), (0.98, 0.9), (0.02, 0.9), (0, 0.55)], body)
    for x in (0.03, 0.8):
        c.box(x, 0.5, x + 0.17, 0.62, lamp)
    c.box(0.36, 0.66, 0.64, 0.76, (225, 225, 215))
    c.box(0.03, 0.8, 0.97, 0.86, shade(body, 0.55))


def car_side(c, rng):
    """From the side, as cars stand at the kerb in a slant view."""
    body = paint(rng)
    c.polygon([(0, 0.5), (0.16, 0.42), (0.3, 0.04), (0.7, 0.04), (0.85, 0.42), (1, 0.52), (1, 0.84), (0, 0.84)], body)
    c.polygon([(0.24, 0.4), (0.34, 0.11), (0.49, 0.11), (0.49, 0.4)], GLASS)
    c.polygon([(0.52, 0.4), (0.52, 0.11), (0.67, 0.11), (0.77, 0.4)], GLASS)
    for x in (0.2, 0.79):
        c.ellipse(x, 0.82, 0.1, 0.18, TYRE)
        c.ellipse(x, 0.82, 0.05, 0.09, CHROME)


def truck(c, rng):
    """A box with a dark frame and a barred bumper, behind a cab or with its doors to us.

    The frame, stripe and bars matter: a plain box looks like the bright end of a street in fog.
    """
    body, cab = paint(rng), paint(rng)
    for x in (0.06, 0.7):
        c.box(x, 0.82, x + 0.24, 1, TYRE)
    c.box(0, 0, 1, 0.84, shade(body, 0.45))
    c.box(0.06, 0.03, 0.94, 0.8, body)
    if rng.integers(2):
        c.box(0.05, 0.3, 0.95, 0.84, cab)
        c.box(0.11, 0.36, 0.89, 0.56, GLASS)
        for y in (0.62, 0.67, 0.72):
            c.box(0.28, y, 0.72, y + 0.025, (34, 34, 36))
        for x in (0.1, 0.76):
            c.box(x, 0.64, x + 0.14, 0.72, (240, 235, 205))
    else:
        c.box(0.06, 0.2, 0.94, 0.36, paint(rng))
        for x in (0.2, 0.4, 0.6, 0.8):
            c.line((x, 0.05), (x, 0.78), 0.012, CHROME)
        c.line((0.5, 0.03), (0.5, 0.8), 0.018, (34, 34, 36))
        for x in (0.06, 0.82):
            c.box(x, 0.7, x + 0.12, 0.77, (205, 35, 30))
    for k in range(8):
        c.box(k / 8, 0.8, (k + 1) / 8, 0.87, (214, 60, 48) if k % 2 else (232, 232, 228))


def bus(c, rng):
    """A tall body with a large window and a lit sign above it."""
    body = paint(rng)
    for x in (0.06, 0.76):
        c.box(x, 0.9, x + 0.18, 1, TYRE)
    c.box(0, 0.02, 1, 0.94, body)
    c.box(0.12, 0.04, 0.88, 0.13, (30, 30, 30))
    c.box(0.2, 0.06, 0.7, 0.11, (250, 190, 60))
    c.box(0.06, 0.17, 0.94, 0.56, GLASS)
    c.line((0.5, 0.17), (0.5, 0.56), 0.012, shade(body, 0.6))
    for x in (0.05, 0.83):
        c.box(x, 0.74, x + 0.12, 0.82, (240, 235, 205))


def train(c, rng):
    """A tram: rounded front, window, one lamp, current collector on the roof."""
    body = paint(rng)
    c.line((0.5, 0.1), (0.3, 0.04), 0.012, (40, 40, 42))
    c.line((0.3, 0.04), (0.7, 0.0), 0.012, (40, 40, 42))
    c.polygon([(0.12, 0.1), (0.88, 0.1), (1, 0.26), (1, 0.95), (0, 0.95), (0, 0.26)], body)
    c.polygon([(0.16, 0.2), (0.84, 0.2), (0.9, 0.52), (0.1, 0.52)], GLASS)
    c.box(0, 0.62, 1, 0.69, shade(body, 0.55))
    c.ellipse(0.5, 0.78, 0.07, 0.045, (245, 240, 210))
    c.box(0.08, 0.93, 0.92, 1, (45, 45, 48))


def two_wheels(c, rng, motor):
    """From the side: a bicycle's thin frame, or a motorcycle's wide tyres, tank and seat."""
    color, tyre = paint(rng), 0.1 if motor else 0.045
    for x in (0.21, 0.79):
        c.ellipse(x, 0.68, 0.17, 0.29, TYRE, thickness=tyre)
    if motor:
        c.polygon([(0.25, 0.55), (0.38, 0.28), (0.6, 0.26), (0.7, 0.38), (0.97, 0.3), (0.72, 0.62), (0.4, 0.72)], color)
        c.polygon([(0.35, 0.5), (0.62, 0.5), (0.6, 0.85), (0.38, 0.85)], (70, 70, 74))
        c.box(0.6, 0.22, 0.93, 0.33, TYRE)
        c.line((0.2, 0.65), (0.33, 0.12), 0.06, CHROME)
        c.line((0.25, 0.12), (0.42, 0.08), 0.06, TYRE)
    else:
        front, rear, pedals, head, seat = (0.21, 0.68), (0.79, 0.68), (0.5, 0.68), (0.34, 0.28), (0.66, 0.28)
        for a, b in ((front, (0.34, 0.2)), (head, seat), (head, pedals), (pedals, seat), (pedals, rear), (rear, seat)):
            c.line(a, b, 0.05, color)
        c.box(0.58, 0.18, 0.76, 0.25, TYRE)
        c.line((0.28, 0.14), (0.44, 0.14), 0.045, TYRE)


def motorcycle(c, rng):
    two_wheels(c, rng, motor=True)


def bicycle(c, rng):
    two_wheels(c, rng, motor=False)


def tree(c, rng):
    c.line((0.5, 0.5), (0.5, 1), 0.045, (74, 58, 44))
    green = shade((88, 118, 60), rng.uniform(0.5, 1.1))
    for _ in range(14):
        x, y = rng.uniform(0.25, 0.75), rng.uniform(0.12, 0.55)
        c.ellipse(x, y, rng.uniform(0.14, 0.25), rng.uniform(0.08, 0.13), shade(green, rng.uniform(0.7, 1.25)))


def pole(c, rng):
    c.box(0.3, 0.02, 0.7, 1, shade((128, 130, 132), rng.uniform(0.5, 1)))


def sign(c, rng):
    c.box(0.46, 0.2, 0.54, 1, (120, 122, 124))
    color = paint(rng)
    if rng.integers(2):
        c.ellipse(0.5, 0.15, 0.45, 0.14, color)
        c.ellipse(0.5, 0.15, 0.3, 0.09, (235, 235, 235))
    else:
        c.box(0.05, 0.02, 0.95, 0.28, color)
