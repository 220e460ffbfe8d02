"""The street itself: ground, buildings, sky, their depth and their Cityscapes labels."""

from dataclasses import dataclass

import cv2
import numpy as np

from .camera import FAR

SKYLINE = 150.0  # metres; where the street ends


@dataclass(frozen=True)
class Street:
    """Cross-section of a street, in metres; X is 0 in the middle of the road, right is positive."""

    offset: float  # X of the camera
    road: float  # half width of the road
    track: float  # width of the tram's bed at the left of the road, 0 = none
    pavement: float  # width of each pavement
    light: float  # brightness of the scene
    cast: tuple  # colour of the light

    @property
    def left_kerb(self):
        return -self.road - self.track

    @property
    def walls(self):
        return self.left_kerb - self.pavement, self.road + self.pavement

    @property
    def track_center(self):
        return -self.road - self.track / 2


def random_street(rng):
    light = rng.uniform(0.65, 1.1)
    cast = tuple(1 + rng.uniform(-0.06, 0.06, 3))
    track = rng.choice([0.0, 3.4], p=[0.35, 0.65])
    return Street(rng.uniform(0.8, 2.4), rng.uniform(4.6, 6.4), track, rng.uniform(2.6, 4.2), light, cast)


def draw_street(camera, street, rng):
    """Paint an empty street.

    Returns:
        (ndarray, ndarray, list): image (H, W, 3) float32 RGB 0 to 255; depth (H, W) metres along the
        axis; polygons, a list of (label, (K, 2) pixels), back to front.
    """
    x, z = camera.ground()
    x = x + street.offset
    image, polygons = _sky(camera, rng)
    depth = z.copy()
    _ground(image, x, z, street, rng)
    polygons += _ground_polygons(camera, street)
    for side in (0, 1):
        polygons += _houses(image, depth, camera, street, side, rng)
    if street.track:
        _tram_wires(image, camera, street)
    return image, depth, polygons


def _sky(camera, rng):
    height, width = camera.height, camera.width
    top, low = np.array([120, 165, 215]) * rng.uniform(0.75, 1.05), np.array([205, 212, 220]) * rng.uniform(0.85, 1.05)
    ramp = np.clip(np.arange(height) / camera.v0, 0, 1)[:, None, None] ** 1.5
    image = (top * (1 - ramp) + low * ramp) * np.ones((1, width, 1))
    clouds = cv2.resize(rng.normal(0, 1, (6, 8)), (width, height), interpolation=cv2.INTER_CUBIC)
    image += 14 * clouds[:, :, None]
    v0 = int(round(camera.v0))
    line = v0 - 1 - np.abs(np.cumsum(rng.normal(0, 0.6, width // 8 + 1))).repeat(8)[:width] * 0.8
    hills = np.arange(height)[:, None] > line[None]
    hills &= np.arange(height)[:, None] <= v0 + 1
    image[hills] = np.array([96, 112, 96]) * rng.uniform(0.7, 1.1)
    whole = [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]
    band = [(0, v0 - 3), (width - 1, v0 - 3), (width - 1, v0 + 1), (0, v0 + 1)]
    return image.astype(np.float32), [("sky", np.array(whole)), ("vegetation", np.array(band))]


def _ground(image, x, z, street, rng):
    below = z < SKYLINE
    fine = rng.normal(0, 1, image.shape[:2]) * np.clip(12 / z, 0.1, 1)
    patches = cv2.resize(rng.normal(0, 1, (24, 12)), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    colors = np.zeros_like(image)
    colors[:] = rng.uniform(70, 105)
    pavement = (x > street.road) | (x < street.left_kerb)
    colors[pavement] = np.array([142, 134, 126]) * rng.uniform(0.8, 1.1)
    joints = pavement & (((x % 0.8) < 0.06) | ((z % 0.8) < 0.08)) & (z < 14)
    colors[joints] *= 0.8
    kerb = (np.abs(x - street.road) < 0.09) | (np.abs(x - street.left_kerb) < 0.09)
    colors[kerb] = 172
    if street.track:
        bed = (x > street.left_kerb + 0.1) & (x < -street.road)
        colors[bed] = np.array([104, 94, 78]) * rng.uniform(0.8, 1.1)
        sleepers = bed & ((z % 1.2) < 0.35)
        colors[sleepers] *= 0.8
        for rail in (-0.72, 0.72):
            colors[np.abs(x - street.track_center - rail) < np.maximum(0.05, 0.0011 * z)] = 190
    for lane, dash in ((0, 5.0), (-street.road + 0.25, 0), (street.road - 0.25, 0)):
        paint = np.abs(x - lane) < np.maximum(0.06, 0.0009 * z)
        if dash:
            paint &= (z % dash) < dash * 0.5
        colors[paint] = 205
    image[below] = (colors + 5 * (fine + patches)[:, :, None])[below]


def _ground_polygons(camera, street):
    """Pavement, tram bed and road, as quadrangles that end at the skyline."""
    near = camera.f * camera.cam_height / (camera.height - camera.v0)
    strips = [("sidewalk", street.walls[0] - 30, street.walls[1] + 30)]
    if street.track:
        strips.append(("rail track", street.left_kerb, -street.road))
    strips.append(("road", -street.road, street.road))
    polygons = []
    for label, left, right in strips:
        corners = [(left, near), (left, SKYLINE), (right, SKYLINE), (right, near)]
        polygons.append((label, np.array([camera.project(x - street.offset, 0, z) for x, z in corners])))
    return polygons


def _houses(image, depth, camera, street, side, rng):
    """A row of facades along one side, with gaps where hedges grow; far ones first."""
    wall = street.walls[side] - street.offset
    columns = np.arange(camera.width) + 0.5 - camera.u0
    with np.errstate(divide="ignore"):
        column_z = np.where(columns * wall > 0, camera.f * wall / columns, np.inf)
    rows = np.arange(camera.height) + 0.5
    shading = rng.uniform(0.55, 1.0)
    polygons, start = [], 4.0
    while start < SKYLINE:
        end = start + rng.uniform(7, 18)
        hedge = rng.uniform() < 0.18
        top = rng.uniform(1.5, 4) if hedge else rng.uniform(6, 15)
        inside = (column_z >= start) & (column_z < end)
        z = column_z[inside][None]
        y = camera.cam_height - (rows[:, None] - camera.v0) * z / camera.f
        seen = (y >= 0) & (y <= top)
        block = image[:, inside]
        base = np.array([84, 104, 62]) if hedge else rng.uniform(80, 190) * (1 + rng.uniform(-0.18, 0.18, 3))
        texture = np.broadcast_to(base * shading, block.shape).copy()
        if hedge:
            texture += rng.normal(0, 16, seen.shape)[:, :, None]
        else:
            _windows(texture, y, z - start, rng)
        block[seen] = texture[seen]
        image[:, inside] = block
        depth[:, inside] = np.where(seen, np.broadcast_to(z, seen.shape), depth[:, inside])
        corners = [(start, 0), (start, top), (min(end, SKYLINE), top), (min(end, SKYLINE), 0)]
        outline = np.array([camera.project(wall, y, z) for z, y in corners])
        polygons.insert(0, ("vegetation" if hedge else "building", outline))
        start = end + (rng.uniform(0, 2) if rng.uniform() < 0.3 else 0)
    return polygons


def _windows(texture, y, along, rng):
    storey, bay = rng.uniform(2.7, 3.4), rng.uniform(1.8, 3.2)
    up, across = (y / storey) % 1, (along / bay) % 1
    panes = (up > 0.35) & (up < 0.8) & (across > 0.25) & (across < 0.75)
    texture[panes] = np.array([70, 80, 92]) * rng.uniform(0.6, 1.3)
    door = (y < storey * 0.8) & ((along / bay) % 3 < 0.4)
    texture[door] *= 0.6
    texture += rng.normal(0, 3, texture.shape[:2])[:, :, None]


def _tram_wires(image, camera, street):
    x = street.track_center - street.offset
    ends = [camera.project(x, 5.4, z) for z in (4.0, SKYLINE)]
    a, b = (tuple(int(round(float(c) * 16)) for c in end) for end in ends)
    cv2.line(image, a, b, (60.0, 60.0, 62.0), 1, cv2.LINE_AA, 4)


def clip_depth(depth):
    return np.minimum(depth, FAR).astype(np.float32)
