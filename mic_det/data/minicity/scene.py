"""A street with things on it: who stands where, and the finished picture with its annotations."""

from dataclasses import dataclass

import cv2
import numpy as np

from ..datasets.cityscapes_labels import LABELS
from ..datasets.cityscapes_labels import THING_CLASSES as THINGS
from . import sprites
from .camera import Camera
from .keypoints import mirrored, with_visibility
from .street import clip_depth, draw_street, random_street

MIN_VISIBLE = 0.25  # share of its outline; less of a thing is not annotated
MIN_PIXELS = 20


@dataclass
class Scene:
    """A rendered scene.

    ``image`` (H, W, 3) RGB uint8; ``instance_ids`` (H, W) int32 and ``label_ids`` (H, W) uint8 as in
    Cityscapes; ``depth`` (H, W) float32, metres along the optical axis; ``polygons``, list of (label,
    (K, 2) int pixels) back to front; ``camera``; ``airlight``, the light of its fog, RGB; ``keypoints`` of each
    annotated figure by its instance id, rows (x, y, visibility) of :func:`.keypoints.with_visibility`.
    """

    image: np.ndarray
    instance_ids: np.ndarray
    label_ids: np.ndarray
    depth: np.ndarray
    polygons: list
    camera: Camera
    airlight: tuple
    keypoints: dict


@dataclass
class Item:
    """Something upright on the ground: label, how to draw it, where (metres), how large (metres)."""

    label: str
    draw: object
    x: float
    z: float
    width: float
    height: float
    base: float = 0.0  # height above the ground


def render_scene(rng, size=(512, 256)):
    """Render one random street.

    Args:
        rng (numpy Generator, or seed of one): decides everything about the scene.
        size ((int, int)): width and height in pixels.

    Returns:
        Scene
    """
    rng = np.random.default_rng(rng)  # a Generator stays itself
    camera = Camera(*size)
    street = random_street(rng)
    image, depth, polygons = draw_street(camera, street, rng)
    items = sorted(place_items(street, rng), key=lambda item: -item.z)
    outlines, points = [], []
    front = np.full(depth.shape, -1, np.int32)  # number of the nearest item in each pixel
    for number, item in enumerate(items):
        outline, own = _draw(image, depth, camera, street, item, rng, front, number)
        outlines.append(outline)
        points.append(own)
    image = image * street.light * np.asarray(street.cast)
    image = image + rng.normal(0, rng.uniform(1.5, 4), image.shape)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    layers = [(label, _cut(outline, camera), False, None) for label, outline in polygons]
    layers = [layer for layer in layers if len(layer[1]) > 2]
    layers += [
        (item.label, line, item.label in THINGS, with_visibility(own, i, front) if own else None)
        for i, (item, line, own) in enumerate(zip(items, outlines, points)) if line is not None
    ]  # fmt: skip
    polygons, label_ids, instance_ids, keypoints = _annotate(layers, camera)
    airlight = tuple(rng.uniform(185, 215) * (1 + rng.uniform(-0.02, 0.02, 3)))
    return Scene(image, instance_ids, label_ids, clip_depth(depth), polygons, camera, airlight, keypoints)


def place_items(street, rng):
    """Draw the things and the clutter of a street. Where something is tells much of what it is."""
    items = []
    lanes = (-street.road / 2, street.road / 2)
    left, right = street.left_kerb, street.road

    def far(low, high):  # even in the picture's scale rather than in metres
        return 1 / rng.uniform(1 / high, 1 / low)

    def pavement():
        side = rng.integers(2)
        a, b = ((left - street.pavement + 0.4, left - 0.4), (right + 0.4, right + street.pavement - 0.4))[side]
        return rng.uniform(a, b)

    def edge():  # the strip of road beside the kerb
        return rng.choice([-1, 1]) * (street.road - rng.uniform(0.5, 1.1))

    def lane(spread=0.3):
        return lanes[rng.integers(2)] + rng.uniform(-spread, spread)

    def add(label, draw, x, z, width, height, base=0.0):
        items.append(Item(label, draw, x, z, width, height, base))

    for _ in range(rng.poisson(1.7)):
        add("car", sprites.car, lane(), far(9, 65), rng.uniform(1.65, 1.9), rng.uniform(1.4, 1.65))
    for _ in range(rng.poisson(0.9)):
        add("car", sprites.car_side, edge(), far(10, 50), rng.uniform(2.6, 3.6), rng.uniform(1.4, 1.6))
    for _ in range(rng.poisson(2.6)):
        height = rng.uniform(1.5, 1.9)
        x = lane(1.5) if rng.uniform() < 0.08 else pavement()
        add("person", sprites.person, x, far(8, 50), 0.36 * height, height)
    if rng.uniform() < 0.55:
        add("truck", sprites.truck, lanes[0] + rng.uniform(-0.3, 0.3), far(14, 65), 2.5, rng.uniform(2.9, 3.6))
    if rng.uniform() < 0.55:  # buses keep to the right, trucks come from the left
        add("bus", sprites.bus, lanes[1] + rng.uniform(0, 0.5), far(14, 65), 2.55, rng.uniform(2.9, 3.3))
    if street.track and rng.uniform() < 0.8:
        add("train", sprites.train, street.track_center, far(14, 65), 2.5, rng.uniform(3.2, 3.6))
    for draw, label, chance in ((sprites.motorcycle, "motorcycle", 0.8), (sprites.bicycle, "bicycle", 0.8)):
        for _ in range(rng.poisson(chance)):
            ridden = rng.uniform() < 0.6
            # motorcycles are ridden in lanes and left on the road, bicycles ridden at its edge and left on pavements
            x = (lane() if ridden else edge()) if label == "motorcycle" else (edge() if ridden else pavement())
            z, width = far(8, 40), rng.uniform(1.6, 1.9)
            add(label, draw, x, z, width, 1.08)
            if ridden:
                add("rider", sprites.rider, x + rng.uniform(-0.1, 0.1), z - 0.05, 0.65, 1.2, base=0.52)
    for side in (left - 0.5, right + 0.5):
        for z in np.arange(rng.uniform(5, 15), 70, 14):
            kind = rng.integers(4)
            if kind == 0:
                add("vegetation", sprites.tree, side, z + rng.uniform(-2, 2), 3.0, rng.uniform(4.5, 6.5))
            elif kind == 1:
                add("pole", sprites.pole, side, z + rng.uniform(-2, 2), 0.22, 5.5)
            elif kind == 2:
                add("traffic sign", sprites.sign, side, z + rng.uniform(-2, 2), 0.7, 2.6)
    return items


def _draw(image, depth, camera, street, item, rng, front, number):
    """Paint an item with its shadow; its ``number`` becomes the value of ``front`` where it covers a pixel.

    Returns:
        (ndarray or None, dict): its outline (K, 2) in pixels, None where nothing is in view; and its keypoints, name ->
        (x, y), none of an item that has none.
    """
    x = item.x - street.offset
    (u0, v1), (u1, v0) = (
        camera.project(x + side * item.width / 2, y, item.z)
        for side, y in ((-1, item.base), (1, item.base + item.height))
    )
    u0, v0, u1, v1 = (int(round(float(value))) for value in (u0, v0, u1, v1))
    width, height = max(2, u1 - u0), max(3, v1 - v0)
    if u0 + width <= 2 or u0 >= camera.width - 2:
        return None, {}
    zoom = max(2, int(np.ceil(64 / height)))
    canvas = sprites.Canvas(width * zoom, height * zoom)
    item.draw(canvas, rng)
    direction = rng.choice([-1, 1])
    points = canvas.keypoints if direction > 0 else mirrored(canvas.keypoints, width * zoom)
    points = {name: (u0 + x / zoom, v0 + y / zoom) for name, (x, y) in points.items()}
    rgba = canvas.rgba[:, ::direction].astype(np.float32)
    alpha = cv2.resize(rgba[:, :, 3] / 255, (width, height), interpolation=cv2.INTER_AREA)
    color = cv2.resize(rgba[:, :, :3] * rgba[:, :, 3:] / 255, (width, height), interpolation=cv2.INTER_AREA)
    color *= (1 + 0.12 * rng.normal()) * (1 - 0.25 * np.linspace(0, 1, height)[:, None, None])
    if not item.base:
        _shadow(image, camera, u0, v0 + height, width, height)
    inside = np.s_[max(v0, 0) : v0 + height, max(u0, 0) : u0 + width]
    crop = np.s_[max(-v0, 0) : camera.height - v0, max(-u0, 0) : camera.width - u0]
    a = alpha[crop][:, :, None]
    image[inside] = image[inside] * (1 - a) + color[crop]
    front[inside][alpha[crop] >= 0.5] = number  # more than half of the pixel's colour is the item's
    outline = _outline(alpha, thin=item.label in ("bicycle", "motorcycle"))
    if outline is None:
        return None, points
    mask = np.zeros(depth.shape, np.uint8)
    outline = _clip(outline + (u0, v0), camera)
    cv2.fillPoly(mask, [outline], 1)
    depth[mask > 0] = item.z
    return outline, points


def _shadow(image, camera, u0, bottom, width, height):
    center = (int((u0 + width / 2) * 16), int(bottom * 16))
    shadow = np.zeros(image.shape[:2], np.float32)
    cv2.ellipse(shadow, center, (int(width * 9), max(16, int(height * 1.3))), 0, 0, 360, 1.0, -1, cv2.LINE_AA, 4)
    shadow[: int(camera.v0)] = 0
    image *= 1 - 0.45 * shadow[:, :, None]


def _outline(alpha, thin):
    """Outer contour of a sprite, (K, 2) in its own pixels; the frame of a two-wheeler is filled."""
    solid = (alpha > 0.4).astype(np.uint8)
    if thin:
        points = np.argwhere(solid)[:, ::-1].astype(np.int32)
        return cv2.convexHull(points)[:, 0] if len(points) > 2 else None
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=cv2.contourArea)[:, 0] if contours else None


def _cut(points, camera):
    """The part of a convex polygon that is in the picture, (K, 2) int pixels; K = 0 where none is."""
    right, bottom = camera.width - 1, camera.height - 1
    frame = np.array([(0, 0), (right, 0), (right, bottom), (0, bottom)], np.float32)
    _, inside = cv2.intersectConvexConvex(np.asarray(points, np.float32), frame)
    if inside is None:
        return np.zeros((0, 2), np.int32)
    inside = np.rint(inside).reshape(-1, 2)
    # OpenCV now and then gives NaN or huge numbers, which machines cast to different integers: take x86's
    inside[~(np.abs(inside) < 2.0**31)] = -(2.0**31)
    return inside.astype(np.int32)


def _clip(points, camera):
    limits = (camera.width - 1, camera.height - 1)
    return np.clip(np.rint(points), 0, limits).astype(np.int32)


def _annotate(layers, camera):
    """Label and instance ids of polygons painted back to front, hardly visible things left out, and the keypoints of
    the figures among them by instance id."""
    size = (camera.height, camera.width)
    order = np.full(size, -1, np.int32)
    areas = []
    for i, (_, outline, _, _) in enumerate(layers):
        mask = np.zeros(size, np.uint8)
        cv2.fillPoly(mask, [outline], 1)
        order[mask > 0] = i
        areas.append(int(mask.sum()))
    visible = np.bincount(order[order >= 0], minlength=len(layers))
    kept = [
        layer for layer, seen, area in zip(layers, visible, areas)
        if not layer[2] or seen >= max(MIN_PIXELS, MIN_VISIBLE * area)
    ]  # fmt: skip
    label_ids, instance_ids = np.zeros(size, np.uint8), np.zeros(size, np.int32)
    counts, keypoints = dict.fromkeys(THINGS, 0), {}
    for label, outline, is_thing, points in kept:
        value = LABELS[label][0]
        cv2.fillPoly(label_ids, [outline], value)
        if is_thing:
            counts[label] += 1
            value = value * 1000 + counts[label] - 1
        cv2.fillPoly(instance_ids, [outline], value)
        if points is not None:
            keypoints[value] = points
    return [(label, outline) for label, outline, _, _ in kept], label_ids, instance_ids, keypoints
