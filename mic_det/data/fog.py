"""Fog by the standard optical model, as in Foggy Cityscapes (Sakaridis et al., IJCV 2018).

I = R t + L (1 - t),  t = exp(-beta d):  R the clear image, d the distance along the ray in metres,
beta the attenuation in 1/m, L the atmospheric light. The visibility is 2.996 / beta metres: beta 0.005,
0.01 and 0.02 mean about 600, 300 and 150 m.
"""

import cv2
import numpy as np


def add_fog(image, distance, beta, airlight):
    """Fog a clear image.

    Args:
        image (ndarray or tensor): (H, W, 3) or (H, W), uint8 or float.
        distance (ndarray or tensor): (H, W), metres along each pixel's ray; infinity is allowed.
        beta (float): attenuation coefficient in 1/m, at least 0; 0 returns the image unchanged.
        airlight (float or 3 floats): atmospheric light, in the image's own units.

    Returns:
        ndarray or tensor: a new one of the image's kind, shape and type; uint8 is rounded. No gradient
        passes through.

    Raises:
        ValueError: beta below 0 or infinite, shapes that differ, distances that are negative or NaN, or an
            airlight that is not finite or fits no channel.
    """
    if hasattr(image, "new_tensor"):  # a tensor, without importing torch for it
        return image.new_tensor(add_fog(image.detach().cpu().numpy(), distance, beta, airlight))
    if hasattr(distance, "new_tensor"):
        distance = distance.detach().cpu().numpy()
    image, distance, airlight = np.asarray(image), np.asarray(distance), np.asarray(airlight, dtype=np.float64)
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta must be at least 0 per metre, and finite, got {beta}")
    if image.ndim not in (2, 3) or image.shape[:2] != distance.shape:
        raise ValueError(f"image is {image.shape}, distance {distance.shape}: they must have one size")
    if not np.all(distance >= 0):
        raise ValueError("distances must be at least 0 metres; fill invalid pixels first")
    if airlight.shape not in ((), image.shape[2:]) or not np.all(np.isfinite(airlight)):
        raise ValueError(f"airlight must be one finite number, or one a channel, got {airlight.tolist()}")
    if beta == 0:
        return image.copy()
    t = np.exp(-beta * distance.astype(np.float64))
    if image.ndim == 3:
        t = t[:, :, None]
    foggy = image * t + airlight * (1 - t)
    if np.issubdtype(image.dtype, np.integer):
        info = np.iinfo(image.dtype)
        foggy = np.clip(np.rint(foggy), info.min, info.max)
    return foggy.astype(image.dtype)


def estimate_airlight(image, patch=15, share=0.001):
    """Atmospheric light of an image: mean colour of the pixels with the brightest dark channel.

    The dark channel is the least of the three colours within a patch around a pixel; it is bright only
    where all is (He, Sun, Tang: "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009).

    Args:
        image (ndarray): (H, W, 3), uint8 or float.
        patch (int): side of the patch in pixels.
        share (float): share of the pixels that is taken, 0 to 1; at least one is.

    Returns:
        ndarray: 3 floats, in the image's own units.

    Raises:
        ValueError: where the image has not three channels.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image must be (H, W, 3), got {image.shape}")
    dark = cv2.erode(image.min(axis=2).astype(np.float32), np.ones((patch, patch)))
    count = max(1, int(share * dark.size))
    brightest = np.argsort(dark, axis=None, kind="stable")[-count:]
    return image.reshape(-1, 3)[brightest].mean(axis=0, dtype=np.float64)


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


def fill_invalid(values, valid, image, sigma=12.0, reach=8):
    """Fill invalid pixels from valid ones that look alike, so that edges of the image stay edges.

    In rounds of growing distance (1, 2, 4, ... pixels), each pixel that is still empty takes the mean of the
    valid pixels of a 5 x 5 grid of that spacing around it, weighted by likeness of colour. What finds
    none that look alike takes the nearest valid pixel's value.

    Args:
        values (ndarray): (H, W) float, e.g. disparities.
        valid (ndarray): (H, W) bool.
        image (ndarray): (H, W, 3) uint8, the guide.
        sigma (float): difference of colour, in grey levels, at which a neighbour counts exp(-1/2).
        reach (int): number of rounds.

    Returns:
        ndarray: (H, W) float64; valid pixels as they were, NaN everywhere where none is valid.
    """
    filled = np.where(valid, values, np.nan).astype(np.float64)
    if not valid.any() or valid.all():
        return filled
    guide = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    height, width = valid.shape
    y, x = np.nonzero(~valid)
    for step in (2**i for i in range(reach)):
        total, weight = np.zeros(len(y)), np.zeros(len(y))
        for dy in range(-2 * step, 2 * step + 1, step):
            for dx in range(-2 * step, 2 * step + 1, step):
                v, u = np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)
                difference = ((guide[v, u] - guide[y, x]) ** 2).sum(axis=1)
                w = np.exp(-difference / (2 * sigma**2)) * valid[v, u]
                total += w * np.where(valid[v, u], values[v, u], 0)
                weight += w
        found = weight > 0.5
        filled[y[found], x[found]] = total[found] / weight[found]
        y, x = y[~found], x[~found]
        if not len(y):
            return filled
    _, labels = cv2.distanceTransformWithLabels(
        (~valid).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros(labels.max() + 1)
    nearest[labels[valid]] = values[valid]
    filled[y, x] = nearest[labels[y, x]]
    return filled
