"""Fog by the standard optical model, as in Foggy Cityscapes (Sakaridis et al., IJCV 2018).

I = R t + L (1 - t),  t = exp(-beta d):  R the clear image, d the distance along the ray in metres,
beta the attenuation in 1/m, L the atmospheric light. The visibility is 2.996 / beta metres: beta 0.005,
0.01 and 0.02 mean about 600, 300 and 150 m.
"""

import numpy as np


def add_fog(image, distance, beta, airlight):
    """Fog a clear image.

    Args:
        image (ndarray): (H, W, 3) or (H, W), uint8 or float.
        distance (ndarray): (H, W), metres along each pixel's ray; infinity is allowed.
        beta (float): attenuation coefficient in 1/m, at least 0; 0 returns the image unchanged.
        airlight (float or 3 floats): atmospheric light, in the image's own units.

    Returns:
        ndarray: of the image's shape and type; uint8 is rounded.

    Raises:
        ValueError: beta below 0, shapes that differ, or distances that are negative or NaN.
    """
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0 per metre, got {beta}")
    if image.shape[:2] != distance.shape:
        raise ValueError(f"image is {image.shape[:2]}, distance {distance.shape}: they must have one size")
    if not np.all(distance >= 0):
        raise ValueError("distances must be at least 0 metres; fill invalid pixels first")
    if beta == 0:
        return image.copy()
    t = np.exp(-beta * distance.astype(np.float64))
    if image.ndim == 3:
        t = t[:, :, None]
    foggy = image * t + np.asarray(airlight, dtype=np.float64) * (1 - t)
    if np.issubdtype(image.dtype, np.integer):
        info = np.iinfo(image.dtype)
        foggy = np.clip(np.rint(foggy), info.min, info.max)
    return foggy.astype(image.dtype)


def encode_disparity(depth, baseline, fx):
    """Depth in metres -> Cityscapes' 16-bit disparity: 256 b f / z + 1, rounded; infinity gives 1."""
    return np.rint(256 * baseline * fx / depth + 1).clip(1, 65535).astype(np.uint16)


def disparity_to_depth(disparity, baseline, fx):
    """Cityscapes' 16-bit disparity -> depth in metres.

    Args:
        disparity (ndarray): (H, W) uint16; 0 = invalid, else (p - 1) / 256 pixels.
        baseline (float): metres between the cameras; fx (float): focal length in pixels.

    Returns:
        ndarray: (H, W) float64; NaN where invalid, infinity where the disparity is 0 pixels.
    """
    pixels = (disparity.astype(np.float64) - 1) / 256
    with np.errstate(divide="ignore"):
        depth = baseline * fx / pixels
    depth[disparity == 0] = np.nan
    return depth


def depth_to_distance(depth, fx, fy, u0, v0):
    """Depth along the optical axis -> distance along the ray of each pixel, in the unit of ``depth``.

    ``fx, fy, u0, v0`` are the camera's focal lengths and principal point in pixels.
    """
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]]
    return depth * np.sqrt(1 + ((u - u0) / fx) ** 2 + ((v - v0) / fy) ** 2)
