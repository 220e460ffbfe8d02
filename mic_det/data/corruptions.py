"""Changes of weather, light and camera that lower a detector's AP by known steps: fog, darkness, noise, blur, contrast.

Geometry does not change, so labels stay right.
"""

import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from .fog import add_fog, estimate_airlight

NEAREST, FARTHEST, HORIZON = 5.0, 80.0, 0.45  # metres at the lower rim and beyond the horizon; its height from above


def road_distance(height, width):
    """Distance in metres of a flat road that a camera looks along: (H, W). All above the horizon is far.

    It stands in for depth where there is none. Objects are then as far away as the road behind their pixels, and those
    that stand out above the horizon at most 80 metres, as houses are.
    """
    below = (np.arange(height) + 0.5) / height - HORIZON
    with np.errstate(divide="ignore"):
        row = np.where(below > 0, NEAREST * (1 - HORIZON) / below, FARTHEST)
    return np.repeat(row.clip(NEAREST, FARTHEST)[:, None], width, axis=1)


def fog(image, beta):
    """Fog of the attenuation beta in 1/m, over a flat road; see :mod:`.fog`."""
    return add_fog(image, road_distance(*image.shape[:2]), beta, estimate_airlight(image))


def darkness(image, share):
    """Only a share of the light, and the noise of a sensor that is then short of it."""
    dark = image.astype(np.float32) * share
    return _rounded(dark + _noise(image, 4.0 * (1 - share)))


def noise(image, sigma):
    """Gaussian noise of sigma grey levels."""
    return _rounded(image.astype(np.float32) + _noise(image, sigma))


def blur(image, sigma):
    """Gaussian blur; sigma in thousandths of the shorter side."""
    return cv2.GaussianBlur(image, (0, 0), sigma * min(image.shape[:2]) / 1000)


def contrast(image, factor):
    """Differences from the image's mean colour, times a factor below 1."""
    mean = image.reshape(-1, image.shape[2]).mean(axis=0)
    return _rounded((image - mean) * factor + mean)


def _noise(image, sigma):
    """The same for each call with this image."""
    seed = zlib.crc32(np.ascontiguousarray(image[::8, ::8]).tobytes())
    return np.random.default_rng(seed).normal(0, sigma, image.shape).astype(np.float32)


def _rounded(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


LEVELS = {
    fog: (0.005, 0.01, 0.02, 0.03, 0.05),
    darkness: (0.5, 0.3, 0.15, 0.08),
    noise: (12.0, 25.0, 40.0, 60.0),
    blur: (6.0, 12.0, 20.0, 30.0),
    contrast: (0.5, 0.25, 0.12, 0.06),
}


@dataclass(frozen=True)
class Corruption:
    """A kind of change ("none", "fog", ...) at one level; call it with an (H, W, 3) uint8 image."""

    kind: str = "none"
    level: float = 0.0

    def __call__(self, image):
        return image if self.kind == "none" else KINDS[self.kind](image, self.level)


KINDS = {function.__name__: function for function in LEVELS}
CORRUPTIONS = (Corruption(), *(Corruption(f.__name__, level) for f, levels in LEVELS.items() for level in levels))
